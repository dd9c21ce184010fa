"""Translations of a stream of lines, written as they are made."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from tqdm import tqdm  # type: ignore[import-untyped]

from graphformer.files import replacing
from graphformer.tasks.progress import somebody_watches
from graphformer.tasks.translation.alignment import align_words
from graphformer.tasks.translation.decoding import Found, find
from graphformer.tasks.translation.settings import Search
from graphformer.tasks.translation.translator import Translator
from graphformer.tasks.translation.wanted import Wanted

NUM_SHOWN = 5


@runtime_checkable
class Sink(Protocol):
    """What takes bytes."""

    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...


class Prediction:
    """Lines in, written translations out, chunk by chunk; nothing of them is kept.

    Args:
        translator: what translates.
        search: how translations are searched for.
        wanted: what is written of each line.
        write: called with what is to be written.
        name: of what the lines come from, for warnings.
        report: called with numbers of lines that were translated.
    """

    def __init__(
        self,
        translator: Translator,
        search: Search,
        wanted: Wanted,
        write: Callable[[str], object],
        name: str = "the text",
        report: Callable[[int], object] | None = None,
    ) -> None:
        self.translator, self.search, self.wanted = translator, search, wanted
        self.write, self.name, self.report = write, name, report
        self.num_lines = 0
        self.unknown: Counter[str] = Counter()
        self.cut = Cut()

    def add(self, lines: list[str]) -> list[str]:
        """Translates the lines, and writes what is wanted of them; returns the best of each."""
        first = self.num_lines
        self.num_lines += len(lines)
        self.unknown += self.translator.unknown_characters(lines)
        asked = self.search, self.wanted, first, self.report, self.name
        found = find(self.translator, lines, *asked)
        self.cut = self.cut.and_of(found, first)
        self.write("".join(f"{line}\n" for line in self._written(lines, found, first)))
        return [each[0].text for each in found]

    def warn(self) -> None:
        """Warns, once for all lines, of unknown characters and of what is cut."""
        warn_of_unknown(self.unknown)
        self.cut.warn(self.name)

    def _written(self, lines: list[str], found: list[list[Found]], first: int) -> Iterator[str]:
        pairs = [
            (number, line, one)
            for number, (line, each) in enumerate(zip(lines, found, strict=True), first + 1)
            for one in each
        ]
        alignments = [""] * len(pairs)
        if self.wanted.alignments:
            sources = [line if one.text else "" for _, line, one in pairs]
            targets = [one.text for _, _, one in pairs]
            alignments = list(map(str, align_words(self.translator, sources, targets)))
        for (number, _, one), alignment in zip(pairs, alignments, strict=True):
            row = [one.text]
            if self.wanted.n_best > 1:
                row = [str(number), f"{one.score:.4f}", one.text]
            if self.wanted.alignments:
                row.append(alignment)
            # Between tabs, a tab of the text's own would be one more column.
            yield row[0] if len(row) == 1 else "\t".join(each.replace("\t", " ") for each in row)


class Cut(NamedTuple):
    """Lines whose translation is cut: how many, and the number of the first."""

    total: int = 0
    first: int = 0

    def and_of(self, found: list[list[Found]], first: int = 0) -> Cut:
        """These, and those among what was found of the lines behind `first`."""
        numbers = [number for number, (one, *_) in enumerate(found, first + 1) if one.is_cut]
        return Cut(self.total + len(numbers), self.first or (numbers[0] if numbers else 0))

    def warn(self, name: str) -> None:
        """Warns of them, where there are any, in lines of this name."""
        if not self.total:
            return
        several = f"{self.total:,} translations are" if self.total > 1 else "a translation is"
        warnings.warn(
            f"{name}, line {self.first:,}{' and others' if self.total > 1 else ''}: {several} cut, "
            "having come to no end at the length that the training text lets expect; see whether "
            "words are repeated there, and cut long lines into sentences",
            stacklevel=2,
        )


def warn_of_unknown(unknown: Counter[str]) -> None:
    """Warns of characters that training never showed, where there are any."""
    if not unknown:
        return
    shown = ", ".join(f"{each!r} ({count})" for each, count in unknown.most_common(NUM_SHOWN))
    more = f" and {len(unknown) - NUM_SHOWN} others" if len(unknown) > NUM_SHOWN else ""
    one = unknown.total() == 1
    several = "1 character is" if one else f"{unknown.total():,} characters are"
    warnings.warn(
        f"{several} unknown to the translator, whose training text did not have "
        f"{'it' if one else 'them'}: {shown}{more}; expect mistakes there",
        stacklevel=2,
    )


@contextmanager
def writing(output_file: Path | None) -> Iterator[Callable[[str], object]]:
    """What writes UTF-8 to a file, which is there whole or not at all, or to the standard output.

    A pipe or a device is written to as it is, and what a link leads to takes the text.
    """
    if output_file is None:
        # What tests, and programs that embed this one, put there may have no bytes below.
        raw = getattr(sys.stdout, "buffer", None)
        yield (lambda text: print(text, end="", flush=True)) if raw is None else writer_to(raw)
    elif output_file.exists() and not output_file.is_file():
        with output_file.open("wb") as file:
            yield writer_to(file)
    else:
        with replacing(output_file.resolve()) as file:
            yield lambda text: file.write(text.encode())


def writer_to(stream: Sink) -> Callable[[str], object]:
    """What writes text to a stream at once."""

    def write(text: str) -> None:
        stream.write(text.encode())
        stream.flush()

    return write


@contextmanager
def progress(count: int | None, hidden: bool) -> Iterator[Callable[[int], object] | None]:
    """A bar of lines, where somebody watches.

    Args:
        count: number of lines, where it is known.
        hidden: whether nothing is to be shown, as where a terminal shows the translations.
    """
    if hidden or not somebody_watches():
        yield None
        return
    with tqdm(total=count, unit="line", dynamic_ncols=True, file=sys.stderr) as bar:
        yield bar.update
