"""Lines of text files, with errors that name the file and the line."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(path: str | Path, expected: str = "UTF-8 text, one example a line") -> list[str]:
    """The lines of a UTF-8 file, without line ends; a name in `.gz` is decompressed.

    Lines end at a newline alone (a carriage return before it goes too): the other separators of
    Unicode may stand inside a sentence, and splitting there would shift parallel text.

    Args:
        path: of the file.
        expected: what an empty file should have held, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, is a truncated or corrupt gzip file, or is not UTF-8
            (naming line and byte).
    """
    path = Path(path)
    content = read_content(path, expected)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = error.start - content.rfind(b"\n", 0, error.start)
        raise ValueError(
            f"{path}, line {line}, byte {byte}: not UTF-8 (0x{content[error.start]:02x}); convert "
            f"the file first, for example with: iconv -f LATIN1 -t UTF-8"
        ) from error
    return split_lines(text)


def split_lines(text: str) -> list[str]:
    """The lines of a text, of which none ends at anything but a newline; none of an empty text."""
    if not text:
        return []
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def read_content(path: Path, expected: str = "UTF-8 text, one example a line") -> bytes:
    """The bytes of a text file, decompressed, without what tells their order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, or is a truncated or corrupt gzip file.
    """
    content = _read_bytes(path).removeprefix(BYTE_ORDER_MARK)
    if not content.strip():
        raise ValueError(f"{path} is empty: expected {expected}")
    return content


def check_can_be_read(path: Path) -> None:
    """Does nothing where there is a file or a pipe of this name.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_dir() or not path.exists():
        check_is_file(path)


def check_is_file(path: Path) -> None:
    """Does nothing where there is such a file.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no file, which can be read more than once"
        raise FileNotFoundError(f"{path} {what if path.exists() else 'does not exist'}")


def _read_bytes(path: Path) -> bytes:
    check_can_be_read(path)
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is truncated or not gzip ({error}); copy or download it again"
        ) from error
