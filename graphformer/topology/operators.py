"""Topologies joined into others: union, intersection, difference, transpose."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.layout import Layout, Pair
from graphformer.topology import counting
from graphformer.topology.algebra import Topology
from graphformer.topology.listing import edge_pair, sort_by_query


@dataclass(frozen=True, repr=False)
class Joined(Topology):
    """Two topologies joined by an operator."""

    left: Topology
    right: Topology
    symbol: ClassVar[str]

    @property
    def depends_on_size(self) -> bool:
        return self.left.depends_on_size or self.right.depends_on_size

    def resolve(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Topology:
        left = self.left.resolve(queries, keys, edge_index_by_name)
        right = self.right.resolve(queries, keys, edge_index_by_name)
        return self if left is self.left and right is self.right else self._joining(left, right)

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        band = self.as_band()
        if band is not None:
            return band.list_edges(queries, keys)
        return self._list(queries, keys)

    def listing_cost(self, queries: Layout, keys: Layout) -> int:
        band = self.as_band()
        if band is not None:
            return band.listing_cost(queries, keys)
        return self._cost(queries, keys)

    def transposed(self) -> Topology:
        return self._joining(self.left.transposed(), self.right.transposed())

    def _joining(self, left: Topology, right: Topology) -> Joined:
        return replace(self, left=left, right=right)

    @abstractmethod
    def _list(self, queries: Layout, keys: Layout) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def _cost(self, queries: Layout, keys: Layout) -> int: ...

    def __repr__(self) -> str:
        left = _operand(self.left, self.precedence)
        return f"{left} {self.symbol} {_operand(self.right, self.precedence + 1)}"


class Union(Joined):
    """Pairs of either: `left | right`."""

    precedence = 1
    symbol = "|"

    @cached_property
    def closed_form(self) -> counting.Form | None:
        return counting.union(self.left.closed_form, self.right.closed_form)

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        return self.left.contains(pair) | self.right.contains(pair)

    def count_edges(self, queries: Layout, keys: Layout) -> int:
        """Counts parts with a closed form by it, and lists only what other parts add."""
        parts = self.union_parts()
        listed = [part for part in parts if part.closed_form is None]
        counted = [part for part in parts if part.closed_form is not None]
        if not listed or not counted or not queries.contiguous or not keys.contiguous:
            return super().count_edges(queries, keys)
        rule = reduce(Union, counted)
        added = Difference(reduce(Union, listed), rule)
        return rule.count_edges(queries, keys) + added.count_edges(queries, keys)

    def _list(self, queries: Layout, keys: Layout) -> tuple[Tensor, Tensor]:
        left = self.left.list_edges(queries, keys)
        right = self.right.list_edges(queries, keys)
        added = _kept(right, ~self.left.contains(edge_pair(right, queries, keys)))
        return torch.cat([left[0], added[0]]), torch.cat([left[1], added[1]])

    def _cost(self, queries: Layout, keys: Layout) -> int:
        return self.left.listing_cost(queries, keys) + self.right.listing_cost(queries, keys)

    def _parts(self) -> tuple[Topology, ...]:
        return self.left.union_parts() + self.right.union_parts()


class Intersection(Joined):
    """Pairs of both: `left & right`."""

    precedence = 2
    symbol = "&"

    @cached_property
    def closed_form(self) -> counting.Form | None:
        return counting.intersection(self.left.closed_form, self.right.closed_form)

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        return self.left.contains(pair) & self.right.contains(pair)

    def _list(self, queries: Layout, keys: Layout) -> tuple[Tensor, Tensor]:
        """Lists the factor that is cheapest to list, and keeps what the others contain."""
        factors = sorted(self._factors(), key=lambda factor: factor.listing_cost(queries, keys))
        edges = factors[0].list_edges(queries, keys)
        for factor in factors[1:]:
            edges = _kept(edges, factor.contains(edge_pair(edges, queries, keys)))
        return edges

    def _cost(self, queries: Layout, keys: Layout) -> int:
        return min(factor.listing_cost(queries, keys) for factor in self._factors())

    def _factors(self) -> list[Topology]:
        """What is intersected, its bands merged into one."""
        factors = list(_flat(self))
        bands = [factor for factor in factors if factor.as_band() is not None]
        others = [factor for factor in factors if factor.as_band() is None]
        return others + ([reduce(Intersection, bands)] if bands else [])

    def _parts(self) -> tuple[Topology, ...]:
        """The parts of one side, each cut by the other where that is a band."""
        for side, other in ((self.left, self.right), (self.right, self.left)):
            band = other.as_band()
            parts = side.union_parts()
            if band is not None and len(parts) > 1:
                cut = (Intersection(part, band).union_parts() for part in parts)
                return tuple(itertools.chain.from_iterable(cut))
        return (self,)


class Difference(Joined):
    """Pairs of the left that are not of the right: `left - right`."""

    precedence = 3
    symbol = "-"

    @cached_property
    def closed_form(self) -> counting.Form | None:
        return counting.difference(self.left.closed_form, self.right.closed_form)

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        return self.left.contains(pair) & ~self.right.contains(pair)

    def _list(self, queries: Layout, keys: Layout) -> tuple[Tensor, Tensor]:
        edges = self.left.list_edges(queries, keys)
        return _kept(edges, ~self.right.contains(edge_pair(edges, queries, keys)))

    def _cost(self, queries: Layout, keys: Layout) -> int:
        return self.left.listing_cost(queries, keys)


@dataclass(frozen=True, repr=False)
class Transpose(Topology):
    """Pairs whose query and key are exchanged: `operand.T`."""

    operand: Topology

    @property
    def depends_on_size(self) -> bool:
        return self.operand.depends_on_size

    @property
    def T(self) -> Topology:  # noqa: N802
        return self.operand

    def transposed(self) -> Topology:
        return self.operand

    @cached_property
    def closed_form(self) -> counting.Form | None:
        return counting.transposed(self.operand.closed_form)

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        return self.operand.contains(
            replace(pair, query=pair.key, key=pair.query, queries=pair.keys, keys=pair.queries)
        )

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        leaf = self.operand.transposed()
        if not isinstance(leaf, Transpose):
            return leaf.list_edges(queries, keys)
        query, key = self.operand.list_edges(keys, queries)
        return sort_by_query(key, query)

    def listing_cost(self, queries: Layout, keys: Layout) -> int:
        return self.operand.listing_cost(keys, queries)

    def resolve(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Topology:
        operand = self.operand.resolve(keys, queries, edge_index_by_name)
        return self if operand is self.operand else Transpose(operand)

    def _parts(self) -> tuple[Topology, ...]:
        leaf = self.operand.transposed()
        return (leaf,) if isinstance(leaf, Transpose) else leaf.union_parts()

    def __repr__(self) -> str:
        return f"{_operand(self.operand, self.precedence)}.T"


def _kept(edges: tuple[Tensor, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    kept = mask.squeeze(1)
    return edges[0][kept], edges[1][kept]


def _flat(topology: Topology) -> Iterator[Topology]:
    if isinstance(topology, Intersection):
        yield from _flat(topology.left)
        yield from _flat(topology.right)
    else:
        yield topology


def _operand(topology: Topology, precedence: int) -> str:
    text = repr(topology)
    return text if topology.precedence >= precedence else f"({text})"
