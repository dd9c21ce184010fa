"""Parallel text: line i of one file translates line i of another."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from graphformer.data.text_lines import read_lines

Pairs = list[tuple[str, str]]


class ParallelText(NamedTuple):
    """Sentence pairs read from two files, and what was left out of them.

    Attributes:
        pairs: (source, target), in the order of the files.
        num_lines: lines of each file.
        num_empty_sources: pairs dropped because the source is empty.
        num_empty_targets: pairs dropped because the target alone is empty.
    """

    pairs: Pairs
    num_lines: int
    num_empty_sources: int
    num_empty_targets: int

    @property
    def report(self) -> str:
        """One sentence: how many pairs were read, and how many were dropped, and why."""
        return (
            f"{len(self.pairs):,} pair{'s' * (len(self.pairs) != 1)} from "
            f"{self.num_lines:,} line{'s' * (self.num_lines != 1)}; dropped "
            f"{self.num_empty_sources:,} with an empty source and "
            f"{self.num_empty_targets:,} with an empty target"
        )


class TextSplits(NamedTuple):
    """A data set of (source, target) strings with its published or seeded split."""

    name: str
    train: Pairs
    validation: Pairs
    test: Pairs


def parallel(source_file: str | Path, target_file: str | Path) -> ParallelText:
    """The non-empty pairs of two UTF-8 files of equally many lines (plain or `.gz`).

    Raises:
        FileNotFoundError: one or both files are missing (naming every missing one).
        ValueError: the line counts differ, nothing is left, or a file is not readable as text
            (see `read_lines`).
    """
    missing = [str(file) for file in (source_file, target_file) if not Path(file).exists()]
    if missing:
        raise FileNotFoundError(f"no such file: {' and '.join(missing)}")
    sources, targets = read_lines(source_file), read_lines(target_file)
    if len(sources) != len(targets):
        raise ValueError(
            f"{source_file} has {len(sources):,} lines and {target_file} has {len(targets):,}: "
            f"line i of one must translate line i of the other (an empty line keeps its place)"
        )
    stripped = [
        (source.strip(), target.strip()) for source, target in zip(sources, targets, strict=True)
    ]
    pairs = [(source, target) for source, target in stripped if source and target]
    if not pairs:
        raise ValueError(
            f"{source_file} and {target_file}: no line has text in both files, so nothing is left"
        )
    num_empty_sources = sum(not source for source, _ in stripped)
    num_empty_targets = len(stripped) - len(pairs) - num_empty_sources
    return ParallelText(pairs, len(stripped), num_empty_sources, num_empty_targets)
