"""Softmax attention by a kernel that has the scores of some queries at a time, in the caches."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphformer.backends import kernels
from graphformer.backends.request import Operands, Request


class _Frame(NamedTuple):
    """What the kernel knows beside query, key and value.

    Attributes:
        query_ptr: offsets of the queries of each example.
        key_ptr: offsets of its keys.
        causal: whether a query hears the keys up to its own place.
        mask: a byte a pair, [example or 1, query or 1, key], or None where all are edges.
    """

    query_ptr: Int[Tensor, "example_plus_one"]
    key_ptr: Int[Tensor, "example_plus_one"]
    causal: bool
    mask: Tensor | None


class _Draw(NamedTuple):
    """With which probability a weight is set to zero, and what that is drawn from."""

    dropout: float
    seed: int


def can_run(request: Request) -> bool:
    """Whether the kernel is there and computes in this dtype, on this device."""
    on_cpu = request.graph.device.type == "cpu"
    return on_cpu and request.dtype in kernels.DTYPES and kernels.why_missing() is None


def prepare(request: Request) -> None:
    """Makes what a run reads of the graph."""
    _frame(request)


def run(request: Request, operands: Operands) -> Float[Tensor, "query head value_dim"]:
    """softmax(query key^T + mask) value, for scores that are nothing but products."""
    query, key, value = operands[:3]
    assert query is not None
    assert key is not None
    if query.shape[1] != request.heads:
        query = query.expand(-1, request.heads, -1)
    if key.shape[1] != value.shape[1]:
        size = max(key.shape[1], value.shape[1])
        key, value = (x.repeat_interleave(size // x.shape[1], 1) for x in (key, value))
    draw = _Draw(request.dropout, kernels.draw_seed() if request.dropout else 0)
    out: Tensor = _Tiles.apply(query, key, value, operands.scale, draw, _frame(request))
    return out


def _frame(request: Request) -> _Frame:
    return request.graph._make("tiles", lambda: _make_frame(request))


def _make_frame(request: Request) -> _Frame:
    graph = request.graph
    rectangle, mask = graph.rectangle, None
    if rectangle.mask is not None and not graph.topology.is_complete:
        mask = rectangle.mask.squeeze(1)
        if rectangle.empty is not None:
            mask = mask & ~rectangle.empty.unsqueeze(-1)
        mask = mask.contiguous().view(torch.uint8)
    pointers = graph.queries.ptr.contiguous(), graph.keys.ptr.contiguous()
    return _Frame(*pointers, rectangle.is_causal, mask)


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        draw: _Draw,
        frame: _Frame,
    ) -> Tensor:
        query, key, value = map(_side_by_side, (query, key, value))
        out = value.new_empty(*query.shape[:2], value.shape[2])
        log_sum = None
        if any(ctx.needs_input_grad):
            precision = torch.promote_types(query.dtype, torch.float32)
            log_sum = query.new_empty(query.shape[:2], dtype=precision)
        numbers, tensors = _describe(query, key, value, frame)
        ctx.settings = {"scale": scale, **draw._asdict()}
        numbers |= ctx.settings
        kernels.run_tiles(numbers, tensors | {"out": out, "log_sum": log_sum})
        ctx.save_for_backward(query, key, value, log_sum)
        ctx.frame = frame
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the dense backend's kernel has no double backward; write "
                "attend(..., backend='reference'), and in place of a drop-in keep torch's layer"
            )
        query, key, value, log_sum = ctx.saved_tensors
        grad = _side_by_side(grad)
        numbers, tensors = _describe(query, key, value, ctx.frame)
        gradients = {
            f"grad_{name}": torch.empty_like(x, memory_format=torch.contiguous_format)
            for name, x in zip(("query", "key", "value"), (query, key, value), strict=True)
        }
        numbers |= ctx.settings | {"grad_stride": grad.stride(0), "grad_head": grad.stride(1)}
        kernels.run_tiles(numbers, tensors | gradients | {"log_sum": log_sum, "grad_out": grad})
        return (*gradients.values(), None, None, None)


def _side_by_side(x: Tensor) -> Tensor:
    """The same numbers, those of a head side by side."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _describe(
    query: Tensor, key: Tensor, value: Tensor, frame: _Frame
) -> tuple[dict[str, Any], dict[str, Tensor | None]]:
    """What the kernel is told of a call, and where it reads."""
    mask = frame.mask
    numbers = {
        "num_examples": frame.query_ptr.shape[0] - 1,
        "heads": query.shape[1],
        "kv_heads": key.shape[1],
        "dim": query.shape[2],
        "value_dim": value.shape[2],
        "dtype": kernels.DTYPES[query.dtype],
        "causal": frame.causal,
        "mask_example": 0 if mask is None or mask.shape[0] == 1 else mask.stride(0),
        "mask_row": 0 if mask is None or mask.shape[1] == 1 else mask.stride(1),
    }
    for name, x in (("query", query), ("key", key), ("value", value)):
        numbers |= {f"{name}_stride": x.stride(0), f"{name}_head": x.stride(1)}
    tensors = {"query": query, "key": key, "value": value, "mask": mask}
    return numbers, tensors | {"query_ptr": frame.query_ptr, "key_ptr": frame.key_ptr}
