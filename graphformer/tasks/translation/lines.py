"""Lines as they come: from a file or a pipe, without waiting for the last one."""

from __future__ import annotations

import gzip
import io
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from graphformer.data.text_lines import check_can_be_read

# What is read at once, in bytes: some thousand lines, of which those of like length are translated
# together. A pipe gives what it has, be it less.
AT_ONCE = 2**18
# Lines that are warned of one by one.
NUM_NAMED = 5


@runtime_checkable
class Stream(Protocol):
    """What gives bytes as they come."""

    def read1(self, size: int, /) -> bytes: ...


class Lines:
    """The lines of a file, or of the standard input, in chunks of what is there.

    Lines end at a newline alone, with or without a carriage return before it. One that is not UTF-8
    is taken as empty, so that the others keep their places; the first few are warned of by number,
    the rest together.

    Args:
        path: of the file, decompressed where it ends in `.gz`; the standard input where left out.

    Attributes:
        count: number of lines in the file; None where that is not known beforehand.
        is_file: whether they come from a file, which has an end.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty. A pipe, which may give nothing yet, is not asked.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.name = "the standard input" if path is None else str(path)
        self.count = None
        self._num_bad = 0
        if path is not None:
            check_can_be_read(path)
        self.is_file = path is not None and path.is_file()
        if path is None or not self.is_file:
            return
        if not path.stat().st_size:
            raise ValueError(self._empty)
        if path.suffix != ".gz":
            self.count = count_lines(path)

    def __iter__(self) -> Iterator[list[str]]:
        number = self._num_bad = 0
        with self._open() as stream:
            for chunk in whole_lines(stream):
                yield [self._decoded(line, number + at) for at, line in enumerate(chunk, start=1)]
                number += len(chunk)
        if self.is_file and not number:
            raise ValueError(self._empty)
        if (more := self._num_bad - NUM_NAMED) > 0:
            warnings.warn(
                f"{self.name}: {more:,} more {'line is' if more == 1 else 'lines are'} not UTF-8, "
                "and empty",
                stacklevel=2,
            )

    @property
    def _empty(self) -> str:
        return f"{self.name} is empty: expected UTF-8 text, a sentence a line"

    @contextmanager
    def _open(self) -> Iterator[Stream]:
        if self.path is None:
            # What tests, and programs that embed this one, put there may have no bytes below.
            raw = getattr(sys.stdin, "buffer", None)
            yield io.BytesIO(sys.stdin.read().encode()) if raw is None else raw
            return
        try:
            with (
                gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb") as file
            ):
                yield file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{self.path} is truncated or not gzip ({error}); copy or download it again"
            ) from error

    def _decoded(self, line: bytes, number: int) -> str:
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            return line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            self._num_bad += 1
            if self._num_bad <= NUM_NAMED:
                warnings.warn(
                    f"{self.name}, line {number}, byte {error.start + 1}: not UTF-8 "
                    f"(0x{line[error.start]:02x}); it stays empty, convert it first, for example "
                    "with: iconv -f LATIN1 -t UTF-8",
                    stacklevel=2,
                )
            return ""


def whole_lines(stream: Stream) -> Iterator[list[bytes]]:
    """The lines of a stream without their ends: after each read those that are whole by then."""
    begun: list[bytes] = []
    while data := stream.read1(AT_ONCE):
        first, *others = data.split(b"\n")
        begun.append(first)
        if others:
            *lines, last = others
            yield [b"".join(begun), *lines]
            begun = [last]
    if rest := b"".join(begun):
        yield [rest]


def count_lines(path: Path) -> int:
    """Number of lines of a file, the last one with or without a newline at its end."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while data := file.read(AT_ONCE):
            count, last = count + data.count(b"\n"), data[-1:]
    return count + (last != b"\n")
