"""Sentence pairs as ids, and as batches."""

from __future__ import annotations

import random
import sys
from typing import NamedTuple

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from graphformer.data.dates import dates
from graphformer.data.multi30k import multi30k
from graphformer.data.parallel import Pairs, TextSplits, parallel
from graphformer.data.vocabulary import END, START, train_bpe, train_characters
from graphformer.tasks.batches import BatchOrder
from graphformer.tasks.loader import Loader
from graphformer.tasks.translation.settings import Corpus
from graphformer.tokens import Tokens, sequences

# Of one's own text, this share is kept for validation and as much for the test, up to a number.
HELD_OUT, MOST_HELD_OUT = 0.05, 1000


class EncodedPair(NamedTuple):
    """A sentence and its translation as ids.

    Attributes:
        source: ids, END at last.
        target: ids between START and END.
    """

    source: Int[Tensor, " source"]
    target: Int[Tensor, " target"]


class PairBatch(NamedTuple):
    """Sentence pairs of a batch.

    Attributes:
        source: ids of the source.
        target: ids of the target from START on.
        following: the id that follows each of them, END at last.
    """

    source: Tokens
    target: Tokens
    following: Int[Tensor, " target"]


def read_corpus(corpus: Corpus) -> TextSplits:
    """The corpus in its parts; of one's own text, parts drawn at random.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: options are missing, or files cannot be read; see the readers.
    """
    source, target = corpus.source_file, corpus.target_file
    if corpus.data == "multi30k" and (source or target) is not None:
        raise ValueError(
            "there are both --data multi30k and files of your own (--source_file, --target_file): "
            "leave one of them out"
        )
    if source is not None and target is not None:
        text = parallel(source, target)
        print(text.report, file=sys.stderr)
        return split(text.pairs, f"{source} and {target}")
    if source is not None or target is not None:
        names = ("source_file", "target_file")
        given, lacking = names if target is None else reversed(names)
        raise ValueError(f"there is --{given} and no --{lacking}: parallel text is two files")
    if corpus.data == "multi30k":
        if corpus.data_dir is None:
            raise ValueError(
                "--data multi30k needs --data_dir, the folder of its files: get data/task1 of "
                "https://github.com/multi30k/dataset"
            )
        return multi30k(corpus.data_dir, corpus.source, corpus.target)
    return dates()


def split(pairs: Pairs, name: str) -> TextSplits:
    """The pairs in three parts that share no source sentence, always the same.

    Raises:
        ValueError: there are too few different sentences.
    """
    sources = sorted({source for source, _ in pairs})
    num_held_out = min(max(round(HELD_OUT * len(sources)), 1), MOST_HELD_OUT)
    if len(sources) < 3:
        raise ValueError(
            f"{name} have {len(sources)} different source sentences: training, validation and "
            "test need at least 3"
        )
    random.Random(0).shuffle(sources)
    validation = set(sources[:num_held_out])
    test = set(sources[num_held_out : 2 * num_held_out])
    return TextSplits(
        name,
        [pair for pair in pairs if pair[0] not in validation | test],
        [pair for pair in pairs if pair[0] in validation],
        [pair for pair in pairs if pair[0] in test],
    )


def make_vocabulary(pairs: Pairs, size: int) -> Tokenizer:
    """A joint vocabulary of both languages: `size` pieces of words, or characters where it is 0."""
    lines = [line for pair in pairs for line in pair]
    return train_bpe(lines, size) if size else train_characters(lines)


def encode_sources(tokenizer: Tokenizer, lines: list[str]) -> list[Int[Tensor, " source"]]:
    """The ids of each line, END at last."""
    return [torch.tensor([*line.ids, END]) for line in tokenizer.encode_batch(lines)]


def encode_pairs(tokenizer: Tokenizer, pairs: Pairs) -> list[EncodedPair]:
    """The ids of each pair."""
    sources = encode_sources(tokenizer, [source for source, _ in pairs])
    targets = tokenizer.encode_batch([target for _, target in pairs])
    return [
        EncodedPair(source, torch.tensor([START, *target.ids, END]))
        for source, target in zip(sources, targets, strict=True)
    ]


def collate(pairs: list[EncodedPair]) -> PairBatch:
    """The pairs as a batch."""
    return PairBatch(
        sequences([pair.source for pair in pairs]),
        sequences([pair.target[:-1] for pair in pairs]),
        torch.cat([pair.target[1:] for pair in pairs]),
    )


def make_loader(
    pairs: list[EncodedPair], batch_tokens: int, seed: int = 0, shuffle: bool = True
) -> Loader:
    """Batches of pairs of like length, by the longer side, of at most so many tokens there.

    Raises:
        ValueError: a pair is longer than a batch.
    """
    lengths = torch.tensor([max(len(source), len(target) - 1) for source, target in pairs])
    if (longest := int(lengths.max())) > batch_tokens:
        raise ValueError(
            f"batch_tokens is {batch_tokens}, and the longest sentence has {longest} tokens: write "
            "at least as many, or leave out long sentences"
        )
    return Loader(pairs, collate, BatchOrder(lengths, batch_tokens, seed=seed, shuffle=shuffle))
