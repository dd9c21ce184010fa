"""What was measured, one backend on one graph a row, and the table `results.csv` of the rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from graphformer.files import write_text
from graphformer.tasks.comparison.points import Point

FORWARD, TRAINING = "forward", "forward and backward"
DIRECTIONS = (FORWARD, TRAINING)


@dataclass(frozen=True)
class Row:
    """What one backend takes on one graph, in one direction.

    Attributes:
        length: tokens of an example.
        family: the topology with n for its numbers.
        topology: the topology.
        asked: the density that was asked for, or None.
        density: share of the pairs of tokens that are edges.
        num_edges: edges of the whole batch.
        gap: distance of the output from that on the complete graph, over the norm of the latter.
        direction: "forward" or "forward and backward".
        backend: the backend.
        chosen: whether it is the planner's choice.
        predicted: seconds that the planner predicts, or None where the backend refuses.
        seconds: median time of a call, or None where it was not measured.
        dense_seconds: median time of the dense backend on the complete graph, in the same rounds.
        peak_bytes: memory of the process at the peak of a call, above what it held before.
        why_not: why it was not measured, or nothing.
    """

    length: int
    family: str
    topology: str
    asked: float | None
    density: float
    num_edges: int
    gap: float
    direction: str
    backend: str
    chosen: bool
    predicted: float | None
    seconds: float | None
    dense_seconds: float
    peak_bytes: int | None
    why_not: str = ""

    @property
    def point(self) -> Point:
        """The graph."""
        return Point(self.length, self.family, self.topology, self.asked)


_READ: dict[str, Callable[[str], object]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: text == "True",
    "float | None": lambda text: float(text) if text else None,
    "int | None": lambda text: int(text) if text else None,
}

_READERS = {field.name: _READ[str(field.type)] for field in fields(Row)}


def write_rows(rows: Sequence[Row], table: Path) -> None:
    """`table` has all rows, under the names of their fields."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Row)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(table, text.getvalue())


def check_whole(rows: Sequence[Row]) -> None:
    """Does nothing where all graphs have a row of the same backends in each direction.

    Raises:
        ValueError: one lacks some.
    """
    found: dict[Point, set[tuple[str, str]]] = {}
    for row in rows:
        found.setdefault(row.point, set()).add((row.direction, row.backend))
    if len(set(map(frozenset, found.values()))) > 1:
        raise ValueError("graphs have rows of different backends")


def read_rows(table: Path) -> list[Row]:
    """The rows of a table that `write_rows` has written.

    Raises:
        ValueError: the table is damaged, or of another version.
    """
    rows = []
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            names = next(reader, [])
            for cells in reader:
                named = zip(names, cells, strict=True)
                rows.append(Row(**{name: _READERS[name](cell) for name, cell in named}))  # type: ignore[arg-type]
        check_whole(rows)
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        place = f"{table}, line {len(rows) + 2}" if rows else str(table)
        raise ValueError(
            f"{place}: this is no table that graphformer compare has written, or it is damaged: "
            "remove it to measure anew, or choose another folder"
        ) from error
    return rows
