"""Neighbors on a grid of pixels, patches or voxels."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.layout import Layout, Pair
from graphformer.topology.algebra import Topology
from graphformer.topology.arguments import whole_number
from graphformer.topology.band import are_real
from graphformer.topology.listing import expand


@dataclass(frozen=True, repr=False)
class Grid(Topology):
    """Keys at most `radius` steps away along every axis of a grid.

    Attributes:
        shape: size of the grid along position axes 1, 2, ...
        radius: steps along an axis.
    """

    shape: tuple[int, ...]
    radius: int

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        inside = are_real(pair)
        for axis, size in enumerate(self.shape, start=1):
            key, query = pair.key_position(axis), pair.query_position(axis)
            inside = inside & ((key - query).abs() <= self.radius)
            inside = inside & (key >= 0) & (key < size) & (query >= 0) & (query < size)
        return inside

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        key = self._real("keys", keys)
        codes, order = torch.sort(self._code(keys.example[key], keys.at[key, 1:]), stable=True)
        query, first, last = self._ranges(queries)
        start = torch.searchsorted(codes, first)
        stop = torch.searchsorted(codes, last, right=True)
        place, query = expand(query, start, (stop - start).clamp(min=0))
        return key[order[place]], query

    def listing_cost(self, queries: Layout, keys: Layout) -> int:
        return queries.num_tokens * math.prod(min(2 * self.radius + 1, n) for n in self.shape)

    def resolve(self, queries: Layout, keys: Layout, edge_index_by_name: object) -> Topology:
        self._real("queries", queries)
        if keys is not queries:
            self._real("keys", keys)
        return self

    def transposed(self) -> Topology:
        return self

    def _ranges(self, queries: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Runs of grid cells along the last axis: query, first and last code, [range]."""
        query = self._real("queries", queries)
        center = queries.at[query, 1 : len(self.shape) + 1]
        reach = [min(self.radius, size - 1) for size in self.shape]
        steps = itertools.product(*(range(-r, r + 1) for r in reach[:-1]))
        offsets = torch.tensor(list(steps), dtype=torch.int64, device=center.device)
        rows = center[:, None, :-1] + offsets
        sizes = torch.tensor(self.shape[:-1], dtype=torch.int64, device=center.device)
        which, row = ((rows >= 0) & (rows < sizes)).all(-1).nonzero(as_tuple=True)
        query, rows, column = query[which], rows[which, row], center[which, -1:]
        columns = column - reach[-1], column + reach[-1]
        first, last = (
            self._code(queries.example[query], torch.cat([rows, end], 1))
            for end in (columns[0].clamp(min=0), columns[1].clamp(max=self.shape[-1] - 1))
        )
        return query, first, last

    def _code(self, example: Tensor, position: Tensor) -> Tensor:
        """Number of a cell, counted through all examples in row-major order, [token]."""
        code = example
        for axis, size in enumerate(self.shape):
            code = code * size + position[:, axis]
        return code

    def _real(self, side: str, layout: Layout) -> Int[Tensor, "token"]:
        """Ids of the tokens on the grid: all but virtual ones and the empty slots of a cache."""
        needed, axes = len(self.shape), layout.at.shape[1] - 1
        if axes < needed:
            raise ValueError(
                f"{self!r} needs positions on {needed} axes beside the index, its {side} have "
                f"{axes}: make them with patches(images, size), or give Tokens.at [token, "
                f"{needed + 1}]"
            )
        real = (layout.at[:, 0] >= 0).nonzero().squeeze(1)
        position = layout.at[real, 1 : needed + 1]
        sizes = torch.tensor(self.shape, device=position.device)
        outside = ((position < 0) | (position >= sizes)).any(1)
        if layout.contiguous and bool(outside.any()):
            token = int(outside.nonzero()[0])
            raise ValueError(
                f"{self!r} got {side} outside the grid: token {int(real[token])} stands at "
                f"{position[token].tolist()}; write grid() with the largest shape of the batch"
            )
        return real[~outside]

    def __repr__(self) -> str:
        return f"grid({self.shape}, {self.radius})"


def grid(shape: tuple[int, ...], radius: int) -> Grid:
    """Every token attends to those at most `radius` steps away along every axis, and to itself.

    Positions along axes 1, 2, ... are compared, as `patches` gives them; diagonal steps count as
    one. Virtual tokens are left out.

    Args:
        shape: size of the grid, such as (rows, columns); the largest of the batch.
        radius: steps along an axis.

    Raises:
        TypeError: if `shape` is no tuple of whole numbers, or `radius` none.
        ValueError: if one is too small.
    """
    if not isinstance(shape, tuple) or not shape:
        raise TypeError(f"grid() got shape={shape!r}: write a tuple, such as grid((14, 14), 1)")
    sizes = tuple(whole_number("grid", "shape", size, 1) for size in shape)
    return Grid(sizes, whole_number("grid", "radius", radius, 0))
