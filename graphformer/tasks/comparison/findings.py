"""What the rows show: where sparse attention starts to win, and how well the planner chose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median

from graphformer.tasks.comparison.points import COMPLETE
from graphformer.tasks.comparison.rows import Row


@dataclass(frozen=True)
class Crossover:
    """Where the times of a family of graphs meet that of dense attention on the complete graph.

    Attributes:
        length: tokens of an example.
        family: the topology with n for its numbers.
        direction: "forward" or "forward and backward".
        densities: of the graphs, in ascending order.
        sparse: the fastest of the other backends at each density where one was measured.
    """

    length: int
    family: str
    direction: str
    densities: tuple[float, ...]
    sparse: tuple[Row, ...]

    @property
    def ratios(self) -> list[float]:
        """Time over that of dense attention on the complete graph, at each density."""
        return [_seconds(row) / row.dense_seconds for row in self.sparse]

    @property
    def density(self) -> float | None:
        """The density below which sparse wins, or None where the times never meet."""
        return crossing([row.density for row in self.sparse], self.ratios)

    def __str__(self) -> str:
        return f"{self.family}: {self._sentence()}"

    def _sentence(self) -> str:
        if not self.sparse:
            return "no backend but dense was measured"
        density, ratios = self.density, self.ratios
        first, last = self.sparse[0], self.sparse[-1]
        if density is not None:
            winner = [row.backend for row in self.sparse if row.density <= density][-1]
            return f"sparse wins below a density of {density:.2%} ({winner})"
        if ratios[-1] < 1:
            more = "; denser graphs were not measured" * (last.density < self.densities[-1])
            return (
                f"sparse wins at every density measured, at {last.density:.2%} still "
                f"{1 / ratios[-1]:.2g} times as fast ({last.backend}){more}"
            )
        return (
            f"sparse wins at no density measured, at {first.density:.2%} it takes "
            f"{ratios[0]:.2g} times as long ({first.backend})"
        )


def crossing(densities: Sequence[float], ratios: Sequence[float]) -> float | None:
    """The density at which the ratio passes 1, on straight lines between logarithms.

    Args:
        densities: in ascending order.
        ratios: time at each density over what it is compared with.

    Returns:
        The last density at which the ratio rises to 1, or None if it is below 1 at the end, or
        nowhere.
    """
    wins = [index for index, ratio in enumerate(ratios) if ratio < 1]
    if not wins or wins[-1] == len(ratios) - 1:
        return None
    low, high = wins[-1], wins[-1] + 1
    share = math.log(ratios[low]) / (math.log(ratios[low]) - math.log(ratios[high]))
    start, end = math.log(densities[low]), math.log(densities[high])
    return math.exp(start + share * (end - start))


def find_crossovers(rows: Sequence[Row]) -> list[Crossover]:
    """One of each length, family and direction that has several densities."""
    groups: dict[tuple[int, str, str], list[Row]] = {}
    for row in rows:
        if row.family != COMPLETE:
            groups.setdefault((row.length, row.family, row.direction), []).append(row)
    found = []
    for place, group in groups.items():
        densities = sorted({row.density for row in group})
        sparse = [row for row in group if row.seconds is not None and row.backend != "dense"]
        fastest = [
            min((row for row in sparse if row.density == density), key=_seconds, default=None)
            for density in densities
        ]
        if len(densities) > 1:
            measured = tuple(row for row in fastest if row is not None)
            found.append(Crossover(*place, tuple(densities), measured))
    return found


def dense_seconds(rows: Sequence[Row], length: int, direction: str) -> float:
    """The time of dense attention on the complete graph: the median over all graphs' rounds."""
    here = [row for row in rows if (row.length, row.direction) == (length, direction)]
    return median({row.point: row.dense_seconds for row in here}.values())


def planner_ratios(rows: Sequence[Row]) -> list[float]:
    """For each graph and direction the time of the planner's choice over that of the fastest."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        if row.seconds is not None:
            groups.setdefault((row.point, row.direction), []).append(row)
    ratios = []
    for group in groups.values():
        fastest = min(map(_seconds, group))
        ratios += [_seconds(row) / fastest for row in group if row.chosen]
    return ratios


def figures_of(rows: Sequence[Row]) -> dict[str, float]:
    """The figures for `metrics.json`: crossovers, the planner's choices, and the dense times."""
    figures = {}
    for found in find_crossovers(rows):
        if found.density is not None:
            place = f"{found.family}, {found.length} tokens, {found.direction}"
            figures[f"crossover_density of {place}"] = found.density
    ratios = planner_ratios(rows)
    figures["planner_over_fastest"] = geometric_mean(ratios)
    figures["planner_over_fastest_at_worst"] = max(ratios)
    for length, direction in dict.fromkeys((row.length, row.direction) for row in rows):
        place = f"complete(), {length} tokens, {direction}"
        figures[f"dense_seconds of {place}"] = dense_seconds(rows, length, direction)
    return figures


def _seconds(row: Row) -> float:
    """The time of a row that was measured."""
    assert row.seconds is not None, row
    return row.seconds
