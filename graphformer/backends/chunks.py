"""Some consecutive blocks of windows: their parts of flat tensors, and those parts as boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from graphformer.backends.windows import Columns, Windows
from graphformer.graph import TokenGraph
from graphformer.layout import Pair


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some consecutive blocks of a graph, and the boxes [block, head, row, ...] made of them.

    Attributes:
        graph: the graph.
        windows: its blocks and windows.
        blocks: which blocks.
        queries: the slots of their queries.
        keys: the slots of their windows, so far as there are any.
        entries: the entries of `windows.columns` that they read.
        is_plain: the blocks are full and plain, so that their boxes are views.
    """

    graph: TokenGraph
    windows: Windows
    blocks: slice
    queries: slice
    keys: slice
    entries: slice
    is_plain: bool = False

    def query_boxes(self, x: Tensor) -> Tensor:
        """The queries `x` [slot, head, ...] as [block, head, row, ...], zero beyond the last."""
        if self.is_plain:
            return x.unflatten(0, (-1, self.windows.reach.rows)).transpose(1, 2)
        return _gather(x, self._rows - self.queries.start, self._is_row)

    def key_boxes(self, x: Tensor, columns: Tensor | None = None) -> Tensor:
        """The keys `x` [slot, head, ...] as [block, head, column, ...], zero outside of the group.

        Those of the global columns [entry, head, ...] are joined to them.
        """
        reach = self.windows.reach
        if self.is_plain:
            boxes = x.unfold(0, reach.width, reach.rows).movedim(-1, 2)
        else:
            boxes = _gather(x, self._window - self.keys.start, self._is_key)
        if columns is None or self.windows.columns is None:
            return boxes
        entries = self._entries
        there = self.windows.columns.there[entries]
        return torch.cat([boxes, _gather(columns, entries - self.entries.start, there)], 2)

    def masks(self) -> tuple[Bool[Tensor, "_ 1 row column"], Bool[Tensor, "block 1 row 1"] | None]:
        """Which pairs are edges, and the rows without any, which the mask has as edges throughout.

        Edges of windows come first, then those of the global columns.
        """
        windows = self.windows
        if self.is_plain and windows.columns is None:
            return windows.near[None, None], None
        mask = windows.near & self._is_key.unsqueeze(1) & self._looks.unsqueeze(2)
        if windows.columns is not None:
            mask = torch.cat([mask, self._column_mask(windows.columns)], -1)
        mask = mask.unsqueeze(1)
        empty = ~mask.any(-1, keepdim=True)
        return mask | empty, empty

    def pair(self, num_heads: int) -> Pair:
        """The pairs [block, row, column, 1]; what the mask excludes is a pair of some tokens."""
        layout, columns = self.graph.queries, self.windows.columns
        query, key = self._tokens(self._rows), self._tokens(self._window)
        if columns is not None:
            key = torch.cat([key, columns.token[self._entries]], 1)
        return Pair(
            query[:, :, None, None], key[:, None, :, None], layout, layout, num_heads=num_heads
        )

    def queries_of(
        self, out: Float[Tensor, "block head row dim"]
    ) -> Float[Tensor, "slot head dim"]:
        """The rows of the boxes that are queries, by slot."""
        rows = out.transpose(1, 2).flatten(0, 1)
        if self.is_plain:
            return rows
        index = self.windows.row[self.queries] - self.blocks.start * self.windows.reach.rows
        return rows.index_select(0, index)

    def _column_mask(self, columns: Columns) -> Bool[Tensor, "block row entry"]:
        layout, entries = self.graph.queries, self._entries
        query = self._tokens(self._rows)[:, :, None, None]
        key = columns.token[entries][:, None, :, None]
        # Global queries have rows of their own.
        is_local = layout.at[:, 0][query] >= columns.num_global - layout.num_virtual
        inside = self.graph.topology.contains(Pair(query, key, layout, layout)) & is_local
        return inside.squeeze(-1) & columns.there[entries].unsqueeze(1)

    @property
    def _rows(self) -> Int[Tensor, "block row"]:
        """The slots of the queries, and some after them."""
        row = torch.arange(self.windows.reach.rows, device=self.graph.device)
        return self.windows.start[self.blocks].unsqueeze(1) + row

    @property
    def _is_row(self) -> Bool[Tensor, "block row"]:
        row = torch.arange(self.windows.reach.rows, device=self.graph.device)
        return row < self.windows.length[self.blocks].unsqueeze(1)

    @property
    def _looks(self) -> Bool[Tensor, "block row"]:
        """Which rows look through windows."""
        return (self._code(self._rows) >= 0) & self._is_row

    @property
    def _window(self) -> Int[Tensor, "block column"]:
        """The slots of the windows, and some before the first and after the last."""
        reach = self.windows.reach
        column = torch.arange(reach.low, reach.low + reach.width, device=self.graph.device)
        return self.windows.start[self.blocks].unsqueeze(1) + column

    @property
    def _is_key(self) -> Bool[Tensor, "block column"]:
        """Which keys are of the group of the block."""
        window, code = self._window, self.windows.code
        inside = (window >= 0) & (window < code.shape[0])
        return inside & (self._code(window) == self.windows.group[self.blocks].unsqueeze(1))

    @property
    def _entries(self) -> Int[Tensor, "block entry"]:
        """The entries of `windows.columns` of each block."""
        columns = self.windows.columns
        assert columns is not None
        entry = torch.arange(columns.num_global, device=self.graph.device)
        return columns.first[self.blocks].unsqueeze(1) + entry

    def _code(self, slots: Tensor) -> Tensor:
        return self.windows.code[slots.clamp(0, self.windows.code.shape[0] - 1)]

    def _tokens(self, slots: Tensor) -> Tensor:
        slots = slots.clamp(0, self.windows.code.shape[0] - 1)
        return slots if self.windows.order is None else self.windows.order[slots]


def take(x: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """`x[part]`, and `x` itself for those who take after this one.

    Parts may overlap. In the backward one buffer goes from taker to taker, to which each adds the
    gradient of its part: where slices would each make a tensor of the size of `x`.
    """
    taken: tuple[Tensor, Tensor] = _Take.apply(x, part)
    return taken


class _Take(torch.autograd.Function):
    """(x[part], x), whose gradients become one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.part = x.shape, part
        return x[part], x

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, buffer: Tensor | None
    ) -> tuple[Tensor | None, None]:
        if grad is None:
            return buffer, None
        part = ctx.part
        if buffer is None:
            buffer = grad.new_zeros(ctx.shape)
        if torch.is_grad_enabled():
            # A backward of this backward needs the buffer as it was.
            added = buffer[part] + grad
            return torch.cat([buffer[: part.start], added, buffer[part.stop :]]), None
        # Nobody else has seen the buffer: it was made by the last taker.
        buffer[part] += grad
        return buffer, None


def _gather(
    x: Tensor, index: Int[Tensor, "block item"], kept: Bool[Tensor, "block item"]
) -> Tensor:
    """Rows of `x` as [block, head, item, ...], zero where not `kept`."""
    # Zeros from a row of their own, not by a product: nothing infinite may come over from others.
    size = x.shape[0]
    padded = F.pad(x.flatten(1), (0, 0, 0, 1))
    # `embedding`, since the backward of `x[index]` is not deterministic.
    return F.embedding(index.where(kept, size), padded).unflatten(-1, x.shape[1:]).transpose(1, 2)
