"""The training text as examples to make batches of: ids, or text whose ids are made each time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from tokenizers import Tokenizer

from graphformer.data.cleaning import drop, find_unfit
from graphformer.data.parallel import (
    KeptPairs,
    Pair,
    PairedLines,
    Pairs,
    choose,
    line_number,
)
from graphformer.data.sampled_pieces import NUM_WAYS, SampledPieces, Ways, mean_length, pick
from graphformer.data.vocabulary import from_json
from graphformer.models.stack import of_each
from graphformer.tasks.loader import Examples, Loader
from graphformer.tasks.translation.corpus import (
    PairBatch,
    chunks,
    collate,
    encode_pairs,
    make_loader,
    make_pair,
)
from graphformer.tasks.translation.settings import Course

# The ways to write each word of a source and of its target.
SplitPair = tuple[list[Ways], list[Ways]]


class TrainingText(NamedTuple):
    """The pairs that are trained on.

    Attributes:
        pairs: as text.
        examples: what batches are made of.
        lengths: ids of each side of each pair, an end included; of pieces that are drawn, the mean
            number of the longer side.
        make_batch: makes a batch of examples.
    """

    pairs: Pairs
    examples: Examples
    lengths: Int64[np.ndarray, "pair side"] | Int64[np.ndarray, " pair"]
    make_batch: Callable[[list[Any]], PairBatch]

    def load(self, batch_tokens: int, seed: int) -> Loader:
        """Batches of pairs of like length; see `make_loader`."""
        return make_loader(
            self.examples,
            batch_tokens,
            seed,
            lengths=torch.from_numpy(self.lengths),
            make_batch=self.make_batch,
        )


class Encoding:
    """Makes a batch of pairs of text, whose words it may write in other pieces each time.

    It can be sent to another process.

    Args:
        tokenizer: the joint vocabulary, or those of (source, target).
        dropout: probability of leaving out a merge; which way to write a word is then drawn from
            torch's random numbers.
    """

    def __init__(
        self, tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer], dropout: float = 0.0
    ) -> None:
        self.tokenizer, self.dropout = tokenizer, dropout
        self.sampled: tuple[SampledPieces, SampledPieces] | None = None
        if dropout:
            source, target = of_each(tokenizer)
            pieces = SampledPieces(source, dropout)
            other = pieces if source is target else SampledPieces(target, dropout)
            self.sampled = pieces, other

    def __call__(self, pairs: list[Pair]) -> PairBatch:
        if self.sampled is None:
            return collate(encode_pairs(self.tokenizer, pairs))
        return pick_batch([self.split(pair) for pair in pairs])

    def split(self, pair: Pair) -> SplitPair:
        """The ways to write each word of a pair, where merges are left out."""
        assert self.sampled is not None
        source, target = self.sampled
        return source.split(pair[0]), target.split(pair[1])

    def __getstate__(self) -> tuple[list[str], float]:
        joint = not isinstance(self.tokenizer, tuple)
        written = [each.to_str() for each in of_each(self.tokenizer)]
        return written[:1] if joint else written, self.dropout

    def __setstate__(self, state: tuple[list[str], float]) -> None:
        written, dropout = state
        read = [from_json(each) for each in written]
        self.__init__(read[0] if len(read) == 1 else (read[0], read[1]), dropout)  # type: ignore[misc]


def pick_batch(pairs: list[SplitPair]) -> PairBatch:
    """A batch of pairs of which each word is written in one of its ways, drawn by torch."""
    sources, targets = (pick(list(lines), draw) for lines in zip(*pairs, strict=True))
    return collate([make_pair(*ids) for ids in zip(sources, targets, strict=True)])


def mean_longer(pair: SplitPair) -> int:
    """Ids of the longer side, an end included, on average."""
    return 1 + ceil(max(map(mean_length, pair)))


def draw(count: int) -> list[int]:
    """So many numbers below `NUM_WAYS`, of torch's random numbers."""
    drawn: list[int] = torch.randint(NUM_WAYS, (count,)).tolist()
    return drawn


def read_training(
    pairs: Pairs, tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer], course: Course
) -> TrainingText:
    """The pairs that are neither too long nor too unequal; says how many are.

    Raises:
        ValueError: all are, or one is longer than a batch.
    """
    streamed = isinstance(pairs, KeptPairs) and isinstance(pairs.lines, PairedLines)
    lengths = measure_lengths(pairs, tokenizer)
    flawed = find_unfit(lengths, course.max_length, course.max_length_ratio)
    kept, dropped = drop(flawed, partial(line_number, pairs))
    if dropped.total:
        print(f"training text of {len(pairs):,} pairs: {dropped}", file=sys.stderr)
    if not len(kept):
        raise ValueError(
            f"max_length is {course.max_length} and max_length_ratio {course.max_length_ratio}, "
            "and no pair of the training text is left: write larger ones"
        )
    pairs, sizes = choose(pairs, kept), lengths[kept] + 1
    check_batch(course.batch_tokens, int(sizes.max()))
    if not course.bpe_dropout:
        if streamed:
            return TrainingText(pairs, pairs, sizes, Encoding(tokenizer))
        return TrainingText(pairs, encode_pairs(tokenizer, pairs), sizes, collate)
    encoding = Encoding(tokenizer, course.bpe_dropout)
    split = map(encoding.split, pairs)
    words = None if streamed else list(split)
    means = np.fromiter(map(mean_longer, words or split), dtype=np.int64, count=len(pairs))
    longer = np.minimum(means, course.batch_tokens)
    if words is None:
        return TrainingText(pairs, pairs, longer, encoding)
    return TrainingText(pairs, words, longer, pick_batch)


def measure_lengths(
    pairs: Pairs, tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer]
) -> Int64[np.ndarray, "pair side"]:
    """Ids of the source and the target of each pair, no start or end counted."""
    lengths = np.empty((len(pairs), 2), dtype=np.int64)
    start = 0
    for chunk in chunks(pairs):
        for side, each in enumerate(of_each(tokenizer)):
            encoded = each.encode_batch([pair[side] for pair in chunk])
            lengths[start : start + len(chunk), side] = [len(one.ids) for one in encoded]
        start += len(chunk)
    return lengths


def check_batch(batch_tokens: int, longest: int) -> None:
    """Does nothing where the longest sentence fits into a batch.

    Raises:
        ValueError: it does not.
    """
    if longest > batch_tokens:
        raise ValueError(
            f"batch_tokens is {batch_tokens}, and the longest sentence has {longest} tokens, its "
            f"end counted: write at least as many, or a smaller max_length"
        )
