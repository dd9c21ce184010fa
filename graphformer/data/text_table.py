"""Tables of text: named columns, and where each row was read, for the errors."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graphformer.data.text_lines import read_lines

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TEXT_TABLES = tuple(_DELIMITERS)
_MISSING = ("nan", "none", "null", "na", "n/a")


class Table(NamedTuple):
    """Rows of text.

    Attributes:
        columns: the cells of each column, by name.
        where: where each row stands, such as "nodes.csv, line 7".
        source: the file, for errors that concern no single row.
        has_header: whether the file names its columns, which are numbered otherwise.
    """

    columns: dict[str, list[str]]
    where: list[str]
    source: str
    has_header: bool = True

    def column(self, name: str) -> list[str]:
        """The cells of one column.

        Raises:
            ValueError: there is none of this name (listing those there are).
        """
        if name not in self.columns:
            known = ", ".join(map(repr, self.columns)) or "none"
            raise ValueError(f"{self.source} has no {name!r}: it has {known}")
        return self.columns[name]

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """The columns `names` as float32 [row, column].

        Raises:
            ValueError: a cell is empty, no number, NaN, infinite or too large for float32.
        """
        cells = [self.column(name) for name in names]
        try:
            with np.errstate(over="ignore"):
                values = np.array(cells, dtype=np.float64).astype(np.float32).T
        except ValueError:
            values = None
        if values is None or not np.isfinite(values).all():
            self._raise_first_not_finite(names)
        return np.ascontiguousarray(values)

    def labels(self, name: str) -> list[str]:
        """The column `name`; "" stands for a node without a label.

        Raises:
            ValueError: a cell says NaN.
        """
        for where, cell in zip(self.where, self.column(name), strict=True):
            if cell.lower() in _MISSING:
                raise ValueError(
                    f"{where}: the label {name!r} is {cell!r}; leave the cell empty for a node "
                    f"without a label"
                )
        return self.columns[name]

    def _raise_first_not_finite(self, names: Sequence[str]) -> None:
        for row, where in enumerate(self.where):
            for name in names:
                cell = self.columns[name][row]
                if not _is_finite(cell):
                    raise ValueError(
                        f"{where}: {name!r} is {cell!r}, which is no finite number: fill it, or "
                        f"leave the column out with feature_names"
                    )


def read_table(path: Path) -> Table:
    """The table in a UTF-8 file: `.tsv` has tabs, any other name commas.

    The first row is the header unless all of its cells are numbers; columns are then called
    "0", "1" and so on.

    Raises:
        ValueError: rows of different lengths, a column named twice, or no row.
    """
    rows, where = _read_rows(path)
    width = len(rows[0])
    for row, place in zip(rows, where, strict=True):
        if len(row) != width:
            raise ValueError(
                f"{place}: {len(row)} cells, but the first row has {width}; is the file truncated?"
            )
    header, has_header = [str(column) for column in range(width)], _is_header(rows[0])
    if has_header:
        header, rows, where = rows[0], rows[1:], where[1:]
    if len(set(header)) < width:
        raise ValueError(f"{path}: the header names a column twice: {', '.join(header)}")
    if not rows:
        raise ValueError(f"{path} has a header and no row")
    columns = {
        name: list(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)
    }
    return Table(columns, where, str(path), has_header)


def read_header(path: Path) -> list[str]:
    """The names of the columns of the table in a file; none where it has no header."""
    first: list[str] = next(filter(None, _reader(path)), [])
    cells = [cell.strip() for cell in first]
    return cells if _is_header(cells) else []


def _read_rows(path: Path) -> tuple[list[list[str]], list[str]]:
    """The cells of each row, and where it stands; empty lines are rows of a single column only."""
    reader = _reader(path)
    rows, where = [], []
    try:
        for row in reader:
            rows.append([cell.strip() for cell in row])
            where.append(f"{path}, line {reader.line_num}")
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    width = len(next(row for row in rows if row))
    if width == 1:
        return [row or [""] for row in rows], where
    kept = [index for index, row in enumerate(rows) if row]
    return [rows[index] for index in kept], [where[index] for index in kept]


def _reader(path: Path) -> Any:
    lines = read_lines(path, "a table, a row a line")
    return csv.reader(lines, delimiter=_DELIMITERS.get(suffix(path), ","))


def _is_header(cells: Sequence[str]) -> bool:
    return not all(map(_is_number, cells))


def suffix(path: Path) -> str:
    """The extension in lower case, looking through `.gz`."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_finite(cell: str) -> bool:
    return _is_number(cell) and math.isfinite(float(cell)) and abs(float(cell)) < 3.4e38
