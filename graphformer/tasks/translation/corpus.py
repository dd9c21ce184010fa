"""Sentence pairs as ids, and as batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from graphformer.data.cleaning import drop, find_flaws, keys
from graphformer.data.dates import dates
from graphformer.data.multi30k import multi30k
from graphformer.data.parallel import Pair, Pairs, TextSplits, choose, line_number, parallel
from graphformer.data.vocabulary import END, START, Kind, train_characters, train_pieces
from graphformer.models.stack import of_each
from graphformer.tasks.batches import BatchOrder
from graphformer.tasks.loader import Examples, Loader
from graphformer.tasks.translation.settings import Corpus
from graphformer.tokens import Tokens, sequences

# Of one's own text, this share is kept for validation and as much for the test, up to a number.
HELD_OUT, MOST_HELD_OUT = 0.05, 1000
# In characters: what is longer is no sentence, and held out only where there is nothing else.
LONGEST_HELD_OUT = 2000
# Pairs that are encoded at once.
AT_ONCE = 4096

# Options of a corpus that it alone has, and those that the embedded one has not.
OF_MULTI30K = ("data_dir", "variant", "source", "target")
OF_ANY_FILE = ("keep_copies", "keep_duplicates")


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


def read_corpus(corpus: Corpus, index_folder: Path | None = None) -> TextSplits:
    """The corpus in its parts, the training text cleaned; of one's own text, parts drawn at random.

    Says what is left out of the training text, and of one's own text what cannot be read.

    Args:
        corpus: which it is.
        index_folder: where the index of its lines is kept, where they are read one by one.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: options are missing, or files cannot be read; see the readers.
    """
    source, target = corpus.source_file, corpus.target_file
    if corpus.data_dir is not None and (source or target) is not None:
        raise ValueError(
            "there are both --data_dir, of Multi30k, and files of your own (--source_file, "
            "--target_file): leave one of them out"
        )
    if corpus.stream and source is None and target is None:
        raise ValueError(
            "stream=True is for files of your own: write --source_file and --target_file, or leave "
            "it out"
        )
    _check_files(corpus)
    _check_read(corpus)
    if source is not None and corpus.data != Corpus.data:
        print(f"--data {corpus.data} is not read: {source} takes its place", file=sys.stderr)
    if source is not None and target is not None:
        return clean(_read_own(source, target, corpus, index_folder), corpus)
    if corpus.reads_multi30k:
        if corpus.data_dir is None:
            raise ValueError(
                "--data multi30k needs --data_dir, the folder of its files: get data/task1 of "
                "https://github.com/multi30k/dataset"
            )
        return clean(
            multi30k(corpus.data_dir, corpus.source, corpus.target, corpus.variant), corpus
        )
    return dates()


def clean(text: TextSplits, corpus: Corpus) -> TextSplits:
    """The text without training pairs from which there is nothing to learn; says how many.

    Raises:
        ValueError: nothing is left.
    """
    flawed = find_flaws(text.train, corpus.keep_copies, corpus.keep_duplicates)
    if corpus.validation.source_file is not None:
        held_out = keys(source for part in (text.validation, text.test) for source, _ in part)
        known = np.isin(keys(source for source, _ in text.train), held_out)
        flawed["whose source is in validation or test"] = known & ~np.any([*flawed.values()], 0)
    kept, dropped = drop(flawed, partial(line_number, text.train))
    if dropped.total:
        print(f"training text of {len(text.train):,} pairs: {dropped}", file=sys.stderr)
    if not len(kept):
        raise ValueError(f"{text.name}: no pair of the training text is left, {dropped}")
    return text._replace(train=choose(text.train, kept))


def _check_files(corpus: Corpus) -> None:
    """Does nothing where all files of one's own that belong together are there.

    Raises:
        ValueError: one is missing.
    """
    parts: dict[str, Any] = {"": corpus, "validation.": corpus.validation, "test.": corpus.test}
    for start, part in parts.items():
        given = {name: getattr(part, name) is not None for name in ("source_file", "target_file")}
        if len(set(given.values())) == 2:
            there, lacking = sorted(given, key=given.__getitem__, reverse=True)
            raise ValueError(
                f"there is --{start}{there} and no --{start}{lacking}: parallel text is two files"
            )
    own = [corpus.validation.source_file, corpus.test.source_file]
    if (None in own) != (own == [None, None]):
        there, lacking = ("validation", "test") if own[1] is None else ("test", "validation")
        raise ValueError(
            f"there is --{there}.source_file and no --{lacking}.source_file: write both, or "
            "neither, and both are drawn from the training text"
        )
    if own[0] is not None and corpus.source_file is None:
        raise ValueError(
            "there are files for validation and test, and none to train on: write --source_file "
            "and --target_file too"
        )


def _check_read(corpus: Corpus) -> None:
    """Does nothing where all that is given of the corpus is read.

    Raises:
        ValueError: an option is of other text.
    """
    if corpus.data == "multi30k":
        return
    own = corpus.source_file is not None
    text, others = ("your own files", []) if own else ("the embedded dates", OF_ANY_FILE)
    for name in [*OF_MULTI30K, *others]:
        if (given := getattr(corpus, name)) != getattr(Corpus, name):
            remedy = "" if own or name in others else "write --data multi30k, or "
            raise ValueError(
                f"{name} is {given}, and nothing of {text} depends on it: {remedy}leave it out"
            )


def _read_own(source: Path, target: Path, corpus: Corpus, index_folder: Path | None) -> TextSplits:
    """One's own files, with validation and test of their own or drawn at random."""
    streams = corpus.streams(source, target)
    text = parallel(source, target, stream=streams, index_folder=index_folder)
    print(text.report, file=sys.stderr)
    name = f"{source} and {target}"
    held_out = []
    for part, files in (("validation", corpus.validation), ("test", corpus.test)):
        if files.source_file is not None and files.target_file is not None:
            given = parallel(files.source_file, files.target_file)
            print(f"{part}: {given.report}", file=sys.stderr)
            held_out.append(list(given.pairs))
    return TextSplits(name, text.pairs, *held_out) if held_out else split(text.pairs, name)


def split(pairs: Pairs, name: str) -> TextSplits:
    """The pairs in three parts that share no source sentence, always the same.

    Raises:
        ValueError: there are too few different sentences.
    """
    sources = keys(source for source, _ in pairs)
    long = np.fromiter((max(map(len, pair)) > LONGEST_HELD_OUT for pair in pairs), dtype=bool)
    # In the order of their keys, which is as good as random.
    different = np.unique(sources)
    if len(different) < 3:
        raise ValueError(
            f"{name} have {len(different)} different source sentences: training, validation and "
            "test need at least 3"
        )
    short = np.setdiff1d(different, sources[long])
    drawn = short if len(short) >= 3 else different
    num_held_out = min(max(round(HELD_OUT * len(drawn)), 1), MOST_HELD_OUT)
    validation = np.isin(sources, drawn[:num_held_out])
    test = np.isin(sources, drawn[num_held_out : 2 * num_held_out])
    train, *held_out = (
        choose(pairs, np.flatnonzero(part)) for part in (~(validation | test), validation, test)
    )
    return TextSplits(name, train, list(held_out[0]), list(held_out[1]))


def make_vocabulary(
    pairs: Pairs, size: int, kind: Kind = "bpe", joint: bool = True
) -> Tokenizer | tuple[Tokenizer, Tokenizer]:
    """A vocabulary of both languages, or one each: `size` pieces of words, or, at 0, characters."""

    def make(*sides: int) -> Tokenizer:
        lines = (pair[side] for pair in pairs for side in sides)
        return train_pieces(lines, size, kind) if size else train_characters(lines)

    return make(0, 1) if joint else (make(0), make(1))


def encode_sources(tokenizer: Tokenizer, lines: list[str]) -> list[Int[Tensor, " source"]]:
    """The ids of each line, without spaces around it, as in training, and END at last."""
    encoded = tokenizer.encode_batch([line.strip() for line in lines])
    return [torch.tensor([*line.ids, END]) for line in encoded]


def encode_pairs(
    tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer], pairs: Pairs
) -> list[EncodedPair]:
    """The ids of each pair, by the joint vocabulary or those of (source, target)."""
    made: list[EncodedPair] = []
    for chunk in chunks(pairs):
        sources, targets = (
            each.encode_batch([pair[side] for pair in chunk])
            for side, each in enumerate(of_each(tokenizer))
        )
        made += [make_pair(one.ids, other.ids) for one, other in zip(sources, targets, strict=True)]
    return made


def chunks(pairs: Pairs) -> Iterator[list[Pair]]:
    """The pairs, so many at a time: encoded text takes a hundred times what its ids take."""
    for start in range(0, len(pairs), AT_ONCE):
        yield list(pairs[start : start + AT_ONCE])


def make_pair(source: list[int], target: list[int]) -> EncodedPair:
    """The pair of these ids, with their start and end."""
    return EncodedPair(torch.tensor([*source, END]), torch.tensor([START, *target, END]))


def collate(pairs: list[EncodedPair]) -> PairBatch:
    """The pairs as a batch."""
    return PairBatch(
        sequences([pair.source for pair in pairs]),
        sequences([pair.target[:-1] for pair in pairs]),
        torch.cat([pair.target[1:] for pair in pairs]),
    )


def make_loader(
    examples: Examples,
    batch_tokens: int,
    seed: int = 0,
    shuffle: bool = True,
    *,
    lengths: Int[Tensor, " pair"] | Int[Tensor, "pair side"] | None = None,
    make_batch: Callable[[list[Any]], PairBatch] = collate,
) -> Loader:
    """Batches of pairs of like length, by the longer side, of at most so many tokens there.

    Args:
        examples: the pairs as ids, or what else `make_batch` makes a batch of.
        batch_tokens: tokens of a batch.
        seed: of the order.
        shuffle: whether epochs differ.
        lengths: tokens of each pair, or of each of its sides, where they are not pairs of ids.
        make_batch: makes a batch of examples.

    Raises:
        ValueError: a pair is longer than a batch.
    """
    if lengths is None:
        lengths = lengths_of(examples)
    order = BatchOrder(lengths, batch_tokens, seed=seed, shuffle=shuffle)
    return Loader(examples, make_batch, order)


def lengths_of(pairs: Any) -> Int[Tensor, "pair side"]:
    """Tokens of each side of each pair of ids, as a model reads them."""
    return torch.tensor([(len(source), len(target) - 1) for source, target in pairs]).view(-1, 2)
