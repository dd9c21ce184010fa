"""Softmax attention through torch's `scaled_dot_product_attention`: scores are never in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from graphformer.backends.request import Operands, Request
from graphformer.backends.shelves import Order, Shelf, make_order, make_shelves
from graphformer.padding import from_rectangle, pick_rows, to_rectangle


def prepare(request: Request) -> None:
    """Makes what a run reads of the graph."""
    if _is_ragged(request):
        _shelves(request)
        make_order(request.graph, "query", 1, request.heads)
        make_order(request.graph, "key", 1, request.heads)


def run(request: Request, operands: Operands) -> Float[Tensor, "query head value_dim"]:
    """On the CPU, examples by length; elsewhere, and where all are alike, all at once."""
    attend = _attend_shelves if _is_ragged(request) else attend_rectangle
    return attend(request, operands)


def attend_rectangle(request: Request, operands: Operands) -> Float[Tensor, "query head value_dim"]:
    """The attention of the whole batch, padded to its longest example."""
    graph = request.graph
    rectangle = graph.rectangle
    assert operands.query is not None
    assert operands.key is not None
    boxes = (
        to_rectangle(operands.query, graph, "query"),
        to_rectangle(operands.key, graph, "key"),
        to_rectangle(operands.value, graph, "key"),
    )
    out = _attend(request, boxes, rectangle.mask, operands.scale)
    if rectangle.empty is not None:
        out = out.masked_fill(rectangle.empty[:, None, :, None], 0.0)
    return from_rectangle(out, graph)


def _is_ragged(request: Request) -> bool:
    graph = request.graph
    return graph.device.type == "cpu" and not (graph.queries.uniform and graph.keys.uniform)


def _shelves(request: Request) -> tuple[Shelf, ...]:
    return make_shelves(request.graph, request.heads, request.dtype, fused=True)


def _attend_shelves(request: Request, operands: Operands) -> Tensor:
    graph, shelves = request.graph, _shelves(request)
    queries = make_order(graph, "query", 1, request.heads)
    keys = make_order(graph, "key", 1, request.heads)
    assert queries is not None
    assert keys is not None
    assert operands.query is not None
    assert operands.key is not None
    num_rows = [shelf.num_examples * shelf.rows for shelf in shelves]
    num_columns = [shelf.num_examples * shelf.columns for shelf in shelves]
    sides = (
        _take(operands.query, queries, num_rows),
        _take(operands.key, keys, num_columns),
        _take(operands.value, keys, num_columns),
    )
    outs = []
    for shelf, *parts in zip(shelves, *sides, strict=True):
        boxes = [x.unflatten(0, (shelf.num_examples, -1)).transpose(1, 2) for x in parts]
        out = _attend(request, boxes, shelf.mask, operands.scale)
        if shelf.empty is not None:
            out = out.masked_fill(shelf.empty, 0.0)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return pick_rows(outs[0] if len(outs) == 1 else torch.cat(outs), queries.slots, None)


def _take(x: Tensor, order: Order, sizes: list[int]) -> tuple[Tensor, ...]:
    """The tokens of each shelf, [slot, head, dim]."""
    # `split`, since its backward joins once where that of slices fills a whole tensor a shelf.
    return pick_rows(x, order.rows, order.slots).split(sizes)


def _attend(
    request: Request, boxes: Sequence[Tensor], mask: Tensor | None, scale: float
) -> Float[Tensor, "example head query value_dim"]:
    heads, (query, key, value) = request.heads, boxes
    grouped = value.shape[1] != heads
    if key.shape[1] != value.shape[1]:
        key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
        grouped = False
    return F.scaled_dot_product_attention(
        query if query.shape[1] == heads else query.expand(-1, heads, -1, -1),
        key,
        value,
        attn_mask=mask,
        is_causal=request.graph.rectangle.is_causal,
        scale=scale,
        enable_gqa=grouped,
    )
