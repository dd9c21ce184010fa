"""Files larger than memory: the places of their lines, from which any one is read by its number."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import UInt64

from graphformer.data.text_lines import BYTE_ORDER_MARK, check_is_file
from graphformer.files import replacing

# Bytes that are searched for line ends at once.
BLOCK = 2**24

Places = UInt64[np.ndarray, " place"]
Described = UInt64[np.ndarray, "2"]


class IndexedLines(Sequence[bytes]):
    """The lines of a file without their ends, each read when it is asked for.

    In memory are 8 bytes a line at most, and none where the index is kept in a folder: a file there
    is made anew when size or time of the text differ. It can be sent to another process, which
    opens the file by itself.

    Args:
        path: of a file that is not compressed.
        folder: where the index is kept, or None to keep it in memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty.
    """

    def __init__(self, path: str | Path, folder: Path | None = None) -> None:
        self.path, self.folder = Path(path), folder
        check_is_file(self.path)
        if not self.path.stat().st_size:
            raise ValueError(f"{self.path} is empty: expected UTF-8 text, one example a line")
        self._places = read_places(self.path) if folder is None else kept_places(self.path, folder)
        self._content: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self._places) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self._line(each) for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path} has {len(self):,} lines, and none of number {index}")
        return self._line(index % len(self))

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                yield without_end(line if number else line.removeprefix(BYTE_ORDER_MARK))

    def __getstate__(self) -> dict[str, Any]:
        places = None if isinstance(self._places, np.memmap) else self._places
        return {**vars(self), "_content": None, "_places": places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._places is None:
            self._places = kept_places(self.path, self.folder)

    def _line(self, index: int) -> bytes:
        if self._content is None:
            with self.path.open("rb") as file:
                self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return without_end(self._content[int(self._places[index]) : int(self._places[index + 1])])


def without_end(line: bytes) -> bytes:
    """The line without its newline, and the carriage return before it."""
    return line.removesuffix(b"\n").removesuffix(b"\r")


def read_places(path: Path) -> Places:
    """Where the lines of a file begin, in bytes, and where the last one ends."""
    with path.open("rb") as file:
        start = len(BYTE_ORDER_MARK) if file.read(3) == BYTE_ORDER_MARK else 0
    parts = [np.array([start], dtype=np.uint64), *ends(path)]
    size = path.stat().st_size
    if int(parts[-1][-1] if len(parts[-1]) else start) != size:
        parts.append(np.array([size], dtype=np.uint64))
    return np.concatenate(parts)


def ends(path: Path) -> Iterator[Places]:
    """The places behind each newline of a file, by its blocks that have one."""
    start = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
            if len(found):
                yield (found + (start + 1)).astype(np.uint64)
            start += len(block)


def kept_places(path: Path, folder: Path | None) -> Places:
    """The places that are kept in the folder, made anew where they are of another text."""
    if folder is None:
        return read_places(path)
    file = folder / f"{name_of(path)}.lines"
    described = describe(path)
    if (kept := read_kept(file, described)) is not None:
        return kept
    places = read_places(path)
    # Each process has a name of its own: several may come here at once.
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    with replacing(unfinished) as opened:
        opened.write(described.tobytes())
        opened.write(places.data)
    unfinished.replace(file)
    return places if (kept := read_kept(file, described)) is None else kept


def read_kept(file: Path, described: Described) -> Places | None:
    """The places in a file that begins with this description; None where there is no such one."""
    header = len(described)
    try:
        kept = np.memmap(file, dtype=np.uint64, mode="r")
    except (OSError, ValueError):
        return None
    whole = len(kept) > header + 1 and np.array_equal(kept[:header], described)
    if not whole or kept[-1] != described[0]:
        return None
    return kept[header:]


def describe(path: Path) -> Described:
    """Size and time of a file, by which it is known to be the same."""
    found = path.stat()
    return np.array([found.st_size, found.st_mtime_ns], dtype=np.uint64)


def name_of(path: Path) -> str:
    """A name for what belongs to the file, different for files of one name in several folders."""
    where = hashlib.blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()
    return f"{path.name}.{where}"
