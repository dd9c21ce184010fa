"""Softmax attention as batched matrix products, with a backward written out.

On the CPU, short examples and bfloat16 run several times faster so than through SDPA.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from graphformer.backends.request import Operands, Request
from graphformer.backends.shelves import Order, Shelf, make_order, make_shelves
from graphformer.scores.score import precise


class _Frame(NamedTuple):
    """What the products know beside query, key and value.

    Attributes:
        shelves: the examples by length.
        queries: the order of the queries on them, or None where it is that of the tokens.
        keys: the order of the keys.
        num_examples: number of examples.
        dropout: probability with which a weight is set to zero.
    """

    shelves: tuple[Shelf, ...]
    queries: Order | None
    keys: Order | None
    num_examples: int
    dropout: float


def prepare(request: Request) -> None:
    """Makes what a run reads of the graph."""
    _frame(request)


def run(request: Request, operands: Operands) -> Float[Tensor, "query head value_dim"]:
    """softmax(query key^T + mask) value, for scores that are nothing but products."""
    heads = request.heads
    query, key, value = operands[:3]
    assert query is not None
    assert key is not None
    if query.shape[1] != heads:
        query = query.expand(-1, heads, -1)
    if key.shape[1] != heads:
        key = key.repeat_interleave(heads // key.shape[1], 1)
    if value.shape[1] != heads:
        value = value.repeat_interleave(heads // value.shape[1], 1)
    out: Tensor = _Matmul.apply(query, key, value, operands.scale, _frame(request))
    return out


def _frame(request: Request) -> _Frame:
    return request.graph._make(f"frame:{request.numbers}", lambda: _make_frame(request))


def _make_frame(request: Request) -> _Frame:
    graph, heads = request.graph, request.heads
    return _Frame(
        make_shelves(graph, heads, torch.promote_types(request.dtype, torch.float32), fused=False),
        make_order(graph, "query", heads, heads),
        make_order(graph, "key", heads, heads),
        graph.queries.num_examples,
        request.dropout,
    )


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, frame: _Frame
    ) -> Tensor:
        examples, heads = frame.num_examples, query.shape[1]
        queries = _pad(query, examples, frame.queries)
        keys = _pad(key, examples, frame.keys)
        values = _pad(value, examples, frame.keys)
        out = queries.new_empty(queries.shape[0], value.shape[-1])
        weights, kept = [], []
        for shelf in frame.shelves:
            box = _weigh(_rows(queries, shelf, heads), _columns(keys, shelf, heads), scale, shelf)
            weights.append(box)
            if frame.dropout:
                kept.append(torch.nn.functional.dropout(torch.ones_like(box), frame.dropout))
                box = box * kept[-1]
            torch.bmm(box, _columns(values, shelf, heads), out=_rows(out, shelf, heads))
            _silence(_rows(out, shelf, heads), shelf)
        ctx.save_for_backward(queries, keys, values, *weights, *kept)
        ctx.scale, ctx.frame = scale, frame
        ctx.shapes = query.shape, key.shape, value.shape
        return _unpad(out, (*query.shape[:-1], value.shape[-1]), examples, frame.queries)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the dense backend's matrix products have no double backward; write "
                "attend(..., backend='reference'), and in place of a drop-in keep torch's layer"
            )
        frame: _Frame = ctx.frame
        examples, heads = frame.num_examples, grad.shape[1]
        queries, keys, values, *rest = ctx.saved_tensors
        weights, kept = rest[: len(frame.shelves)], rest[len(frame.shelves) :]
        grads = _pad_with_zeros(grad, queries.shape[0], examples, frame.queries)
        grad_queries, grad_keys, grad_values = map(torch.empty_like, (queries, keys, values))
        for number, (shelf, box) in enumerate(zip(frame.shelves, weights, strict=True)):
            above = _rows(grads, shelf, heads)
            used = box * kept[number] if kept else box
            torch.bmm(used.transpose(1, 2), above, out=_columns(grad_values, shelf, heads))
            grad_box = torch.bmm(above, _columns(values, shelf, heads).transpose(1, 2))
            if kept:
                grad_box.mul_(kept[number])
            grad_box = torch._softmax_backward_data(grad_box, box, -1, box.dtype)
            _silence(grad_box, shelf)
            below, above = _columns(keys, shelf, heads), _rows(queries, shelf, heads)
            _multiply(grad_box, below, ctx.scale, _rows(grad_queries, shelf, heads))
            _silence(_rows(grad_queries, shelf, heads), shelf)
            grad_box = grad_box.transpose(1, 2)
            _multiply(grad_box, above, ctx.scale, _columns(grad_keys, shelf, heads))
        query_shape, key_shape, value_shape = ctx.shapes
        return (
            _unpad(grad_queries, query_shape, examples, frame.queries),
            _unpad(grad_keys, key_shape, examples, frame.keys),
            _unpad(grad_values, value_shape, examples, frame.keys),
            None,
            None,
        )


def _weigh(query: Tensor, key: Tensor, scale: float, shelf: Shelf) -> Tensor:
    """The weights of a shelf, [example * head, row, column]."""
    # Scores of 16 bits would put errors of a percent into the weights.
    rows, columns = precise(query), precise(key).transpose(1, 2)
    scores = rows.new_empty(rows.shape[0], rows.shape[1], columns.shape[2])
    _multiply(rows, columns, scale, scores)
    box = scores.view(shelf.num_examples, -1, shelf.rows, shelf.columns)
    if shelf.mask is not None:
        box.add_(shelf.mask)
    weights = torch.softmax(box, -1).to(query.dtype)
    if shelf.empty is not None:
        weights.masked_fill_(shelf.empty, 0.0)
    return weights.view(scores.shape)


def _multiply(left: Tensor, right: Tensor, scale: float, out: Tensor) -> None:
    """The product of both times `scale`, into `out`."""
    torch.baddbmm(out, left, right, beta=0, alpha=scale, out=out)


def _silence(box: Tensor, shelf: Shelf) -> None:
    """Zeros, in place, for queries without keys: weights of zero would let infinite values through.

    Args:
        box: of a shelf, [example * head, row, ...].
        shelf: the shelf.
    """
    if shelf.empty is not None:
        box.view(shelf.num_examples, -1, *box.shape[1:]).masked_fill_(shelf.empty, 0.0)


def _rows(x: Tensor, shelf: Shelf, heads: int) -> Tensor:
    """The queries of a shelf, [example * head, row, dim], a view."""
    return _box(x, shelf.first_query * heads, shelf, shelf.rows)


def _columns(x: Tensor, shelf: Shelf, heads: int) -> Tensor:
    """The keys of a shelf, [example * head, column, dim], a view."""
    return _box(x, shelf.first_key * heads, shelf, shelf.columns)


def _box(x: Tensor, start: int, shelf: Shelf, length: int) -> Tensor:
    start += shelf.heads.start * length
    boxes = shelf.num_examples * len(shelf.heads)
    return x[start : start + boxes * length].view(boxes, length, x.shape[-1])


def _pad(x: Tensor, examples: int, order: Order | None) -> Tensor:
    """[token, head, dim] as [slot * head, dim]: example by example, head by head."""
    if order is not None:
        return x.reshape(-1, x.shape[-1]).index_select(0, order.rows)
    return x.unflatten(0, (examples, -1)).transpose(1, 2).reshape(-1, x.shape[-1])


def _unpad(
    x: Tensor, shape: torch.Size | tuple[int, ...], examples: int, order: Order | None
) -> Tensor:
    """[slot * head, dim] as [token, head, dim]."""
    if order is not None:
        return x.index_select(0, order.slots).view(shape)
    return x.view(examples, shape[1], -1, shape[2]).transpose(1, 2).reshape(shape)


def _pad_with_zeros(grad: Tensor, size: int, examples: int, order: Order | None) -> Tensor:
    if order is None:
        return _pad(grad, examples, None)
    padded = grad.new_zeros(size, grad.shape[-1])
    return padded.index_copy_(0, order.slots, grad.reshape(-1, grad.shape[-1]))
