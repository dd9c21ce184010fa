"""Which pairs of the text are trained on, and of what pieces its words are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from graphformer.data.vocabulary import SMALLEST_BPE, Kind
from graphformer.tasks.settings import check_least, check_probabilities
from graphformer.tasks.translation.training import check_known

# Bytes of both files from which on each line is read when it is needed.
LARGE = 2**30


@dataclass(frozen=True)
class Reading:
    """How the lines of the training text are read; see `data.cleaning` for what is left out.

    Attributes:
        keep_copies: trains on pairs too whose target is a copy of the source.
        keep_duplicates: trains on a pair as often as it is there, not once.
        stream: reads a line of your own files when it is needed, through an index of all lines,
            for text larger than memory; left out, from a gigabyte on.
    """

    keep_copies: bool = False
    keep_duplicates: bool = False
    stream: bool | None = None

    def streams(self, source_file: Path, target_file: Path) -> bool:
        """Whether lines of these files are read when they are needed."""
        if self.stream is not None:
            return self.stream
        files = [each for each in (source_file, target_file) if each.is_file()]
        packed = any(each.suffix == ".gz" for each in files)
        return not packed and sum(each.stat().st_size for each in files) >= LARGE


@dataclass(frozen=True)
class Files:
    """Text that is never trained on; see `Corpus`.

    Attributes:
        source_file: a sentence a line; left out, sentences of the training text are held out.
        target_file: its translation, line by line.
    """

    source_file: Path | None = None
    target_file: Path | None = None


@dataclass(frozen=True)
class Pieces:
    """What words are made of, and which sentences have too many; see `Training`.

    Attributes:
        vocabulary_kind: bpe, pieces made by merges of two, or unigram, the likeliest pieces.
        vocabulary_joint: one vocabulary, and one table of vectors, for both languages; if not,
            each has `vocabulary` pieces of its own.
        bpe_dropout: probability of leaving out a merge, in training, so that a word is met in
            other pieces each time; 0.1 is usual.
        max_length: tokens of a sentence at most; training leaves out pairs with a longer one.
        max_length_ratio: training leaves out pairs of which one side has more than so many times
            the tokens of the other, which is seldom its translation.
    """

    vocabulary_kind: Kind = "bpe"
    vocabulary_joint: bool = True
    bpe_dropout: float = 0.0
    max_length: int | None = None
    max_length_ratio: float | None = None

    def check(self, vocabulary: int | None) -> None:
        """Does nothing where the settings fit each other and a vocabulary of this size.

        Raises:
            ValueError: they do not.
        """
        check_known(self, vocabulary_kind=get_args(Kind))
        check_probabilities(self, "bpe_dropout")
        check_least(self, max_length=1, max_length_ratio=1)
        if vocabulary is not None and 0 < vocabulary < SMALLEST_BPE:
            raise ValueError(
                f"vocabulary is {vocabulary}: write at least {SMALLEST_BPE} pieces of words, "
                "which are the bytes and four special tokens, or 0 for one token a character"
            )
        if vocabulary == 0 and self.vocabulary_kind != "bpe":
            raise ValueError(
                f"vocabulary_kind is {self.vocabulary_kind}, and a vocabulary of 0 pieces is one "
                "of characters: write --vocabulary 6000, or leave out --vocabulary_kind"
            )
        if self.bpe_dropout and (vocabulary == 0 or self.vocabulary_kind != "bpe"):
            what = "of characters" if vocabulary == 0 else f"of kind {self.vocabulary_kind}"
            raise ValueError(
                f"bpe_dropout is {self.bpe_dropout}, and a vocabulary {what} has no merges to "
                "leave out: write --vocabulary 6000 --vocabulary_kind bpe, or --bpe_dropout 0"
            )
