"""Linear maps of one input, and sums, written where the system gives large pages.

On a large graph each is a fresh tensor of some hundred megabytes. To get its memory page by page
takes as long as a third of the product, and torch adds the gradients of the input one by one, each
of them fresh too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module
from torch_geometric.nn.dense.linear import Linear

from graphformer.backends import kernels

# Bytes from which on maps of one input are quicker as one function, which adds up its gradient.
SMALLEST = 1 << 18


def mapped(x: Tensor, *maps: nn.Module) -> list[Tensor]:
    """What each map makes of `x`, with the gradients that the maps themselves would give."""
    if not all(_is_ours(x, each) for each in maps):
        return [each(x) for each in maps]
    parts: list[Any] = [each.weight for each in maps] + [each.bias for each in maps]
    return list(_Maps.apply(x, *parts))


def plus(x: Tensor, other: Tensor) -> Tensor:
    """The sum of what has the width of `x` and what has its shape, or is a row for all."""
    if not _has_bytes(x, x.shape[1], kernels.LARGE) or other.dtype != x.dtype:
        return x + other
    total: Tensor = _Plus.apply(x, other)
    return total


def is_plain(linear: Any) -> bool:
    """Whether a map is nothing but its weight, so that another product may take it up."""
    return _is_unhooked(linear) and linear.bias is None


def may_map(linear: Any, x: Tensor) -> bool:
    """Whether another product may take up a map of `x`; else it gives its own result, or error."""
    if not is_plain(linear):
        return False
    fits = x.dtype == linear.weight.dtype or torch.is_autocast_enabled(x.device.type)
    return fits and x.shape[1] == linear.weight.shape[1]


def _is_unhooked(linear: Any) -> bool:
    return (
        type(linear) is Linear
        and not linear._forward_hooks
        and not linear._forward_pre_hooks
        and not linear._backward_hooks
        and not linear._backward_pre_hooks
        and not module._has_any_global_hook()
    )


def _is_ours(x: Tensor, linear: Any) -> bool:
    return (
        _is_unhooked(linear)
        and _has_bytes(x, linear.weight.shape[0], SMALLEST)
        and x.dtype == linear.weight.dtype
        and x.shape[1] == linear.weight.shape[1]
        and not torch.is_autocast_enabled("cpu")
    )


def _has_bytes(x: Tensor, width: int, least: int) -> bool:
    """Whether rows of this width, as many as x has, are so many bytes that we write them."""
    return (
        x.device.type == "cpu"
        and x.layout is torch.strided
        and x.shape[0] * width * x.element_size() >= least
        and kernels.why_missing() is None
    )


class _Maps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Tensor | None) -> tuple[Tensor, ...]:
        count = len(parts) // 2
        weights, biases = parts[:count], parts[count:]
        ctx.save_for_backward(x, *weights)
        ctx.set_materialize_grads(False)
        return tuple(
            _product(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        count = len(weights)
        wanted = ctx.needs_input_grad
        given = [
            (grad, weight) for grad, weight in zip(grads, weights, strict=True) if grad is not None
        ]
        of_x = _sum_of_products(given) if wanted[0] and given else None
        of_weights = [
            grad.T @ x if grad is not None and wanted[1 + index] else None
            for index, grad in enumerate(grads)
        ]
        of_biases = [
            grad.sum(0) if grad is not None and wanted[1 + count + index] else None
            for index, grad in enumerate(grads)
        ]
        return (of_x, *of_weights, *of_biases)


class _Plus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor) -> Tensor:
        ctx.is_row = other.dim() < x.dim()
        return torch.add(x, other, out=kernels.expect_writes(torch.empty_like(x)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        if not ctx.needs_input_grad[1]:
            return grad, None
        return grad, grad.sum(0) if ctx.is_row else grad


def _product(x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    out = kernels.expect_writes(x.new_empty(x.shape[0], weight.shape[0]))
    if bias is None:
        return torch.mm(x, weight.T, out=out)
    return torch.addmm(bias, x, weight.T, out=out)


def _sum_of_products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    (grad, weight), *others = pairs
    if torch.is_grad_enabled():
        # Somebody differentiates once more, and what is written in place has no derivative.
        return sum((more @ other for more, other in others), grad @ weight)
    total = kernels.expect_writes(grad.new_empty(grad.shape[0], weight.shape[1]))
    torch.mm(grad, weight, out=total)
    for more, other in others:
        total.addmm_(more, other)
    return total
