"""Some consecutive blocks of windows: their parts of flat tensors, and those parts as boxes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from graphformer.backends.windows import Columns, Windows
from graphformer.graph import TokenGraph
from graphformer.layout import Pair


@dataclass(frozen=True, eq=False)
class Chunk:
    """Blocks `first` to `last` - 1 of a graph, and the boxes [block, head, row, ...] made of them.

    Attributes:
        graph: the graph.
        windows: its blocks and windows.
        first: the first block.
        last: one beyond the last block.
        size: slots of the whole graph.
        column_range: the entries of `windows.columns` that the blocks read.
    """

    graph: TokenGraph
    windows: Windows
    first: int
    last: int
    size: int
    column_range: tuple[int, int] = (0, 0)

    @property
    def query_range(self) -> tuple[int, int]:
        """The slots of the queries."""
        rows = self.windows.reach.rows
        return self.first * rows, min(self.last * rows, self.size)

    @property
    def key_range(self) -> tuple[int, int]:
        """The slots of the windows, so far as there are any."""
        start, stop = self._window
        start = min(max(start, 0), self.size)
        return start, min(max(stop, start), self.size)

    def query_boxes(self, x: Tensor | None) -> Tensor | None:
        """The part of `x` in `query_range` as [block, head, row, ...]."""
        return None if x is None else self._blocks(x).transpose(1, 2)

    def key_boxes(self, x: Tensor | None, columns: Tensor | None = None) -> Tensor | None:
        """The part of `x` in `key_range` as [block, head, column, ...], a view.

        Where there are global columns, their part in `column_range` is joined to it in a copy.
        """
        if x is None:
            return None
        windows = self._unfolded(x).movedim(-1, 2)
        if columns is None:
            return windows
        # `embedding`, since the backward of `x[index]` is not deterministic.
        entries = self._columns[0] - self.column_range[0]
        picked = F.embedding(entries, columns.flatten(1)).unflatten(-1, columns.shape[1:])
        return torch.cat([windows, picked.transpose(1, 2)], 2)

    def mask(self) -> Bool[Tensor, "block 1 row column"]:
        """Which pairs are edges, of the windows first, then of the global columns."""
        windows = self.windows
        query_code = self._blocks(windows.query_code[slice(*self.query_range)], -1)
        key_code = self._unfolded(windows.key_code[slice(*self.key_range)], -2)
        mask = (query_code.unsqueeze(2) == key_code.unsqueeze(1)) & windows.near
        if windows.columns is not None:
            mask = torch.cat([mask, self._column_mask(windows.columns)], -1)
        return mask.unsqueeze(1)

    def pair(self, num_heads: int) -> Pair:
        """The pairs [block, row, column, 1]; what the mask excludes has some key."""
        reach, layout = self.windows.reach, self.graph.queries
        start = self._starts + reach.low
        column = torch.arange(reach.width, device=layout.device)
        key = self._tokens(start.unsqueeze(1) + column)
        if self.windows.columns is not None:
            key = torch.cat([key, self._columns[1]], 1)
        query, key = self._queries[:, :, None, None], key[:, None, :, None]
        return Pair(query, key, layout, layout, num_heads=num_heads)

    def _column_mask(self, columns: Columns) -> Bool[Tensor, "block row column"]:
        layout, reach = self.graph.queries, self.windows.reach
        entry, key = self._columns
        query, key = self._queries.unsqueeze(2), key.unsqueeze(1)
        # Global queries have rows of their own.
        is_row = layout.at[:, 0][query] < reach.num_global - layout.num_virtual
        same = layout.example[query] == layout.example[key]
        pair = Pair(query.unsqueeze(3), key.unsqueeze(3), layout, layout)
        inside = self.graph.topology.contains(pair).squeeze(-1)
        return columns.there[entry].unsqueeze(1) & ~is_row & same & inside

    def _blocks(self, x: Tensor, fill: int = 0) -> Tensor:
        """[slot, ...] as [block, row, ...]."""
        blocks, rows = self.last - self.first, self.windows.reach.rows
        padded = _pad(x, 0, blocks * rows - x.shape[0], fill)
        return padded.unflatten(0, (blocks, rows))

    def _unfolded(self, x: Tensor, fill: int = 0) -> Tensor:
        """[slot, ...] as [block, ..., column]."""
        reach = self.windows.reach
        start, stop = self._window
        front = min(max(-start, 0), stop - start)
        padded = _pad(x, front, stop - start - front - x.shape[0], fill)
        return padded.unfold(0, reach.width, reach.rows)

    @property
    def _window(self) -> tuple[int, int]:
        reach = self.windows.reach
        return self.first * reach.rows + reach.low, self.last * reach.rows + reach.high

    @cached_property
    def _starts(self) -> Int[Tensor, "block"]:
        blocks = torch.arange(self.first, self.last, device=self.graph.device)
        return blocks * self.windows.reach.rows

    @cached_property
    def _queries(self) -> Int[Tensor, "block row"]:
        """The tokens of the queries; padded slots have some token."""
        row = torch.arange(self.windows.reach.rows, device=self.graph.device)
        return self._tokens(self._starts.unsqueeze(1) + row)

    @cached_property
    def _columns(self) -> tuple[Int[Tensor, "block column"], Int[Tensor, "block column"]]:
        """The entries of `windows.columns` that each block reads, and their tokens."""
        columns = self.windows.columns
        assert columns is not None
        first = columns.first[self.first : self.last, None]
        entry = first + torch.arange(columns.width, device=first.device)
        return entry, columns.token[entry]

    def _tokens(self, slots: Tensor) -> Tensor:
        slots = slots.clamp(0, self.size - 1)
        return slots if self.windows.order is None else self.windows.order[slots]


def take(x: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """`x[start:stop]`, and `x` itself for those who take after this one.

    Parts may overlap. In the backward one buffer goes from taker to taker, to which each adds the
    gradient of its part: where slices would each make a tensor of the size of `x`.
    """
    part: tuple[Tensor, Tensor] = _Take.apply(x, start, stop)
    return part


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.range = x.shape, (start, stop)
        return x[start:stop], x

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, buffer: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return buffer, None, None
        start, stop = ctx.range
        if buffer is None:
            buffer = grad.new_zeros(ctx.shape)
        if torch.is_grad_enabled():
            # A backward of this backward needs the buffer as it was.
            added = buffer[start:stop] + grad
            return torch.cat([buffer[:start], added, buffer[stop:]]), None, None
        # Nobody else has seen the buffer: it was made by the last taker.
        buffer[start:stop] += grad
        return buffer, None, None


def _pad(x: Tensor, front: int, back: int, fill: int = 0) -> Tensor:
    """`x` with so many rows of `fill` before and after; itself where there are none."""
    if not torch.compiler.is_compiling() and front == back == 0:
        return x
    return F.pad(x, (0, 0) * (x.dim() - 1) + (front, back), value=fill)
