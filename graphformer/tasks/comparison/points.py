"""The graphs that are compared: each topology at each length and density."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from graphformer.edge_data import EdgeValues
from graphformer.graph import TokenGraph
from graphformer.tasks.comparison.drawn import block_size, draw_edges, repeat_edges
from graphformer.tasks.comparison.settings import Graphs, Sizes
from graphformer.tokens import Tokens, sequences
from graphformer.topology import Topology, complete

COMPLETE = repr(complete())

_NUMBER = re.compile(r"\bn\b")
_NAME = re.compile(r"""["'](\w+)["']""")


class Point(NamedTuple):
    """One graph of the comparison, not yet bound.

    Attributes:
        length: tokens of an example.
        family: the topology with n for its numbers: what differs only in density has it in common.
        topology: the topology.
        asked: the density that was asked for; None where the topology was written out.
    """

    length: int
    family: str
    topology: str
    asked: float | None

    def bind(self, tokens: Tokens, seed: int) -> TokenGraph:
        """The graph of these tokens, whose examples all have this length."""
        density = 1.0 if self.asked is None else self.asked
        drawn: dict[str, Any] = {}
        for name in names_in(self.topology):
            edges = draw_edges(name, self.length, density, seed)
            batch = tokens.num_tokens // self.length
            drawn[name] = EdgeValues(repeat_edges(edges, self.length, batch).to(tokens.x.device))
        return Topology.parse(self.topology).bind(tokens, **drawn)


def list_points(sizes: Sizes, graphs: Graphs) -> list[Point]:
    """All graphs, by length; of each length the complete one first."""
    points: list[Point] = []
    for length in sizes.lengths:
        found: dict[tuple[object, ...], Point] = {
            (COMPLETE,): Point(length, COMPLETE, COMPLETE, None)
        }
        for text in graphs.topologies:
            for point in _points_of(text, length, graphs.densities):
                # Several densities may have the same graph nearest to them.
                found.setdefault(_identity(point), point)
        points += found.values()
    return points


def _points_of(text: str, length: int, densities: list[float]) -> Iterator[Point]:
    if has_number(text):
        for density in densities:
            yield Point(length, text, fill_in(text, length, density), density)
    elif names_in(text):
        yield from (Point(length, text, text, density) for density in densities)
    else:
        topology = repr(Topology.parse(text))
        family = COMPLETE if topology == COMPLETE else re.sub(r"\b\d+\b", "n", topology)
        yield Point(length, family, topology, None)


def has_number(text: str) -> bool:
    """Whether a topology has an n, for a number yet to be found."""
    return bool(_NUMBER.search(text))


def names_in(text: str) -> list[str]:
    """The names of edge data in a topology."""
    return _NAME.findall(text)


def fill_in(text: str, length: int, density: float) -> str:
    """The topology `text` with the number in place of n that comes nearest to the density."""
    largest = length - 1
    grows = density_at(text, 2, length) >= density_at(text, 1, length)

    def falls_short(number: int) -> bool:
        return (density_at(text, number, length) < density) == grows

    def miss(number: int) -> float:
        found = density_at(text, number, length)
        return abs(math.log(found / density)) if found else math.inf

    low, high = 1, 1
    while high < largest and falls_short(high):
        low, high = high, min(2 * high, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if falls_short(middle) else (low, middle)
    return with_number(text, min((low, high), key=miss))


@lru_cache(maxsize=4096)
def density_at(text: str, number: int, length: int) -> float:
    """The density of the topology `text` with `number` in place of n."""
    tokens = sequences([torch.zeros(length, dtype=torch.int64)])
    return Topology.parse(with_number(text, number)).bind(tokens).density


def with_number(text: str, number: int) -> str:
    """The topology `text` with `number` in place of n."""
    return _NUMBER.sub(str(number), text)


def _identity(point: Point) -> tuple[object, ...]:
    """What two points have in common if their graphs are the same."""
    names = names_in(point.topology)
    if not names or point.asked is None:
        return (point.topology,)
    sized = names == ["blocks"]
    return point.topology, block_size(point.length, point.asked) if sized else point.asked
