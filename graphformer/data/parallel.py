"""Parallel text: line i of one file translates line i of another."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Int64

from graphformer.data.cleaning import Dropped
from graphformer.data.line_index import IndexedLines, without_end
from graphformer.data.text_lines import read_content

Pair = tuple[str, str]
Pairs = Sequence[Pair]
Numbers = Int64[np.ndarray, " pair"]


class KeptPairs(Sequence[Pair]):
    """Those pairs of two files that are kept.

    Args:
        lines: the pair of each line, from a list or, read when it is asked for, from the files.
        numbers: the lines that are kept, counted from 0.
    """

    def __init__(self, lines: Pairs, numbers: Numbers) -> None:
        self.lines, self.numbers = lines, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self.lines[number] for number in self.numbers[index].tolist()]
        return self.lines[int(self.numbers[index])]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def choose(self, indices: Numbers) -> KeptPairs:
        """The pairs of these indices among those kept."""
        return KeptPairs(self.lines, self.numbers[indices])


class PairedLines(Sequence[Pair]):
    """The pairs of two files, each read when it is asked for; see `IndexedLines`."""

    def __init__(self, sources: IndexedLines, targets: IndexedLines) -> None:
        self.sources, self.targets = sources, targets

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        return decoded(self.sources[index]) or "", decoded(self.targets[index]) or ""


class ParallelText(NamedTuple):
    """Sentence pairs read from two files, and what was left out of them.

    Attributes:
        pairs: (source, target), in the order of the files.
        num_lines: lines of each file.
        dropped: what was left out: lines that are empty, or no UTF-8.
    """

    pairs: KeptPairs
    num_lines: int
    dropped: Dropped

    @property
    def report(self) -> str:
        """One sentence: how many pairs were read, and how many were dropped, and why."""
        return (
            f"{len(self.pairs):,} pair{'s' * (len(self.pairs) != 1)} from "
            f"{self.num_lines:,} line{'s' * (self.num_lines != 1)}; {self.dropped}"
        )


class TextSplits(NamedTuple):
    """A data set of (source, target) strings with its published or seeded split."""

    name: str
    train: Pairs
    validation: Pairs
    test: Pairs


def parallel(
    source_file: str | Path,
    target_file: str | Path,
    *,
    stream: bool = False,
    index_folder: Path | None = None,
) -> ParallelText:
    """The non-empty pairs of two UTF-8 files of equally many lines (plain or `.gz`).

    Args:
        source_file: a sentence a line.
        target_file: their translations.
        stream: whether a pair is read when it is asked for, of files larger than memory; `.gz`
            files are read whole all the same.
        index_folder: where the index of the lines is kept for that; in memory where left out.

    Raises:
        FileNotFoundError: one or both files are missing (naming every missing one).
        ValueError: the line counts differ, nothing is left, a file is empty, or truncated.
    """
    files = Path(source_file), Path(target_file)
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise FileNotFoundError(f"no such file: {' and '.join(missing)}")
    packed = [str(file) for file in files if file.suffix == ".gz"]
    if stream and packed:
        warnings.warn(
            f"{' and '.join(packed)} cannot be read line by line, so that all text is in memory: "
            f"unpack it first",
            stacklevel=2,
        )
    if stream and not packed:
        indexed = [IndexedLines(file, index_folder) for file in files]
        return _kept_of(files, indexed[0], indexed[1])
    return _kept_of(files, *([without_end(line) for line in _split(file)] for file in files))


def decoded(line: bytes) -> str | None:
    """The text of a line without spaces around it; None where it is not UTF-8."""
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError:
        return None


def choose(pairs: Pairs, indices: Numbers) -> Pairs:
    """The pairs of these indices."""
    if isinstance(pairs, KeptPairs):
        return pairs.choose(indices)
    return [pairs[index] for index in indices.tolist()]


def line_number(pairs: Pairs, index: int) -> int:
    """The number of the line, from 1, on which a pair stands in its files."""
    return 1 + (int(pairs.numbers[index]) if isinstance(pairs, KeptPairs) else index)


def _kept_of(
    files: tuple[Path, Path], sources: Sequence[bytes], targets: Sequence[bytes]
) -> ParallelText:
    if len(sources) != len(targets):
        shorter, longer = sorted((len(sources), len(targets)))
        raise ValueError(
            f"{files[0]} has {len(sources):,} lines and {files[1]} has {len(targets):,}: line i of "
            f"one must translate line i of the other (an empty line keeps its place); lines "
            f"{shorter + 1:,} to {longer:,} have no partner"
        )
    streamed = isinstance(sources, IndexedLines) and isinstance(targets, IndexedLines)
    dropped, kept, lines = Dropped(), array("q"), []
    for index, (source, target) in enumerate(zip(sources, targets, strict=True)):
        pair = decoded(source), decoded(target)
        if (reason := _why_not(pair, files)) is not None:
            dropped.add(reason, index + 1)
        else:
            kept.append(index)
        if not streamed:
            lines.append((pair[0] or "", pair[1] or ""))
    if not kept:
        raise ValueError(
            f"{files[0]} and {files[1]}: no line has text in both files, so nothing is left"
        )
    backing = PairedLines(sources, targets) if streamed else lines  # type: ignore[arg-type]
    numbers = np.array(kept, dtype=np.int64)
    return ParallelText(KeptPairs(backing, numbers), len(sources), dropped)


def _why_not(pair: tuple[str | None, str | None], files: tuple[Path, Path]) -> str | None:
    for text, file in zip(pair, files, strict=True):
        if text is None:
            return f"that is not UTF-8 in {file.name}"
    if not pair[0]:
        return "with an empty source"
    return None if pair[1] else "with an empty target"


def _split(file: Path) -> list[bytes]:
    return read_content(file).removesuffix(b"\n").split(b"\n")
