"""Softmax attention as batched matrix products, with a backward written out.

On the CPU, short examples and bfloat16 run several times faster so than through SDPA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphformer.backends.request import Operands, Request
from graphformer.padding import make_slots


def matmul_attention(request: Request, operands: Operands, mask: Tensor | None) -> Tensor:
    """softmax(query key^T + mask) value, for scores that are nothing but products."""
    graph, heads = request.graph, request.heads
    query, key, value = operands[:3]
    if query.shape[1] != heads:
        query = query.expand(-1, heads, -1)
    if key.shape[1] != heads:
        key = key.repeat_interleave(heads // key.shape[1], 1)
    if value.shape[1] != heads:
        value = value.repeat_interleave(heads // value.shape[1], 1)
    rectangle = graph.rectangle
    query_slots = make_slots(graph, "query", heads) or (None, None)
    key_slots = make_slots(graph, "key", heads) or (None, None)
    examples = rectangle.pair.query.shape[0]
    return _Matmul.apply(
        query,
        key,
        value,
        mask,
        rectangle.empty,
        request.dropout,
        examples,
        *query_slots,
        *key_slots,
    )


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        empty: Tensor | None,
        dropout: float,
        examples: int,
        query_rows: Tensor | None,
        query_slots: Tensor | None,
        key_rows: Tensor | None,
        key_slots: Tensor | None,
    ) -> Tensor:
        heads = query.shape[1]
        batch = examples * heads
        query_box = _pad(query, batch, query_rows)
        key_box = _pad(key, batch, key_rows)
        value_box = _pad(value, batch, key_rows)
        scores = torch.bmm(query_box, key_box.transpose(1, 2))
        # Cast first: sums and products of two dtypes take ten times as long on a CPU.
        precision = _precision(query.dtype)
        box = scores.view(examples, heads, *scores.shape[1:]).to(precision)
        if mask is not None:
            box.add_(mask.to(precision))
        weights = torch.softmax(box, -1)
        if empty is not None:
            weights.masked_fill_(empty[:, None, :, None], 0.0)
        weights = weights.view(scores.shape).to(query.dtype)
        keep = _keep(weights, dropout)
        used = weights if keep is None else weights * keep
        out_box = torch.bmm(used, value_box)
        ctx.save_for_backward(
            query_box, key_box, value_box, weights, keep, query_slots, key_slots
        )  # fmt: skip
        ctx.out_shape = out_box.shape
        ctx.shapes = query.shape, key.shape, value.shape
        ctx.examples = examples
        return _unpad(out_box, (*query.shape[:-1], value.shape[-1]), query_slots)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the dense backend's matrix products have no double backward; write "
                "attend(..., backend='reference')"
            )
        query, key, value, weights, keep, query_slots, key_slots = ctx.saved_tensors
        grad = _pad_with_zeros(grad, ctx.out_shape, query_slots)
        used = weights if keep is None else weights * keep
        grad_value = torch.bmm(used.transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, value.transpose(1, 2))
        if keep is not None:
            grad_weights.mul_(keep)
        precision = _precision(weights.dtype)
        grad_scores = torch._softmax_backward_data(
            grad_weights.to(precision), weights.to(precision), -1, precision
        ).to(weights.dtype)
        grad_query = torch.bmm(grad_scores, key)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), query)
        query_shape, key_shape, value_shape = ctx.shapes
        return (
            _unpad(grad_query, query_shape, query_slots),
            _unpad(grad_key, key_shape, key_slots),
            _unpad(grad_value, value_shape, key_slots),
            *[None] * 8,
        )


def _pad(x: Tensor, batch: int, rows: Tensor | None) -> Tensor:
    """[token, head, dim] as [example * head, slot, dim]."""
    if rows is not None:
        return x.reshape(-1, x.shape[-1]).index_select(0, rows).view(batch, -1, x.shape[-1])
    heads = x.shape[1]
    return x.reshape(batch // heads, -1, *x.shape[1:]).transpose(1, 2).flatten(0, 1)


def _unpad(box: Tensor, shape: torch.Size | tuple[int, ...], slots: Tensor | None) -> Tensor:
    """[example * head, slot, dim] as [token, head, dim]."""
    if slots is not None:
        return box.reshape(-1, shape[-1]).index_select(0, slots).view(shape)
    return box.unflatten(0, (-1, shape[1])).transpose(1, 2).reshape(shape)


def _pad_with_zeros(grad: Tensor, shape: torch.Size, slots: Tensor | None) -> Tensor:
    if slots is None:
        return _pad(grad, shape[0], None)
    box = grad.new_zeros(shape[0] * shape[1], shape[2])
    return box.index_copy_(0, slots, grad.reshape(-1, shape[2])).view(shape)


def _keep(weights: Tensor, dropout: float) -> Tensor | None:
    """Zero where a weight is dropped, 1 / (1 - dropout) elsewhere."""
    if not dropout:
        return None
    return torch.nn.functional.dropout(torch.ones_like(weights), dropout)


def _precision(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
