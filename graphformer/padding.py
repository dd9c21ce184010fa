"""Flat tokens into padded rectangles and back, head by head, copied only where they must be."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from graphformer.graph import TokenGraph


def make_slots(graph: TokenGraph, side: str, heads: int) -> tuple[Tensor, Tensor] | None:
    """The row [token * head] in each slot [example * head * position], and the slot of each row.

    None where all examples are equally long, so that the rectangle is a view.
    """
    if side == "key" and not graph.bipartite:
        side = "query"
    return graph._make(f"slots:{side}:{heads}", lambda: _slots(graph, side, heads))


def to_rectangle(
    x: Float[Tensor, "token head dim"], graph: TokenGraph, side: str
) -> Float[Tensor, "example head slot dim"]:
    """Flat tokens as a rectangle; padding slots hold some token, and must have zero gradients."""
    heads = x.shape[1]
    indexes = make_slots(graph, side, heads)
    length = graph.rectangle.pair.query.shape[1]
    if side == "key":
        length = graph.rectangle.pair.key.shape[2]
    if indexes is None:
        return x.view(-1, length, heads, x.shape[-1]).transpose(1, 2)
    return pick_rows(x.flatten(0, 1), *indexes).view(-1, heads, length, x.shape[-1])


def from_rectangle(
    x: Float[Tensor, "example head slot dim"], graph: TokenGraph
) -> Float[Tensor, "query head dim"]:
    """The queries of a rectangle as flat tokens."""
    indexes = make_slots(graph, "query", x.shape[1])
    if indexes is None:
        return x.transpose(1, 2).flatten(0, 1)
    return pick_rows(x.flatten(0, 2), indexes[1], None).view(-1, x.shape[1], x.shape[-1])


def all_heads(
    x: Float[Tensor, "example _ slot dim"], heads: int
) -> Float[Tensor, "example _ slot dim"]:
    """Groups of heads spread to all; one head stays one, which stands for all."""
    if x.shape[1] in (1, heads):
        return x
    return x.repeat_interleave(heads // x.shape[1], 1)


def pick_rows(
    x: Shaped[Tensor, "row *dim"], index: Int[Tensor, "picked"], back: Int[Tensor, "row"] | None
) -> Shaped[Tensor, "picked *dim"]:
    """The rows of `x` by number, whose gradients are never summed.

    Args:
        x: the rows.
        index: which rows; none twice, but for those whose gradients are zero.
        back: where each row of `x` was picked, which makes the backward as quick; None where some
            were not.
    """
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        # It has every transform; compiled code takes no function of our own that has them all.
        return x.index_select(0, index)
    picked: Tensor = _Rows.apply(x, index, back)
    return picked


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor | None) -> Tensor:
        ctx.save_for_backward(index, back)
        ctx.shape = x.shape
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, back = ctx.saved_tensors
        if back is not None:
            return grad.index_select(0, back), None, None
        return grad.new_zeros(ctx.shape).index_copy(0, index, grad), None, None


def _slots(graph: TokenGraph, side: str, heads: int) -> tuple[Tensor, Tensor] | None:
    rectangle = graph.rectangle
    tokens = rectangle.query_slots if side == "query" else rectangle.key_slots
    index = rectangle.query_index if side == "query" else rectangle.key_index
    if tokens is None or index is None:
        return None
    length = tokens.shape[0] // graph.queries.num_examples
    head = torch.arange(heads, device=tokens.device)
    rows = tokens.view(-1, 1, length) * heads + head.view(1, -1, 1)
    example, position = index // length, index % length
    slots = (example.unsqueeze(1) * heads + head) * length + position.unsqueeze(1)
    return rows.flatten(), slots.flatten()
