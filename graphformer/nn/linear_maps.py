"""Linear maps of one input in one product, and sums, written where the system gives large pages.

On a large graph each is a fresh tensor of some hundred megabytes. To get its memory page by page
takes as long as a third of the product, and torch adds the gradients of the input one by one, each
of them fresh too. On a small one calls cost as much as products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module
from torch_geometric.nn.dense.linear import Linear

from graphformer.backends import kernels
from graphformer.columns import side_by_side

# Bytes from which on maps of one input are quicker as one function, which adds up its gradient.
SMALLEST = 1 << 18


def mapped(x: Tensor, *maps: nn.Module) -> list[Tensor]:
    """What each map makes of `x`, with the gradients that the maps themselves would give.

    They are columns of one tensor, side by side.
    """
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


def plus_map(out: Tensor, x: Tensor, linear: nn.Module) -> Tensor:
    """The sum of what has been found for the rows of `x`, and of what a map makes of these."""
    if not _is_ours(x, linear) or out.dtype != x.dtype:
        return plus(out, linear(x))
    total: Tensor = _PlusMap.apply(out, x, linear.weight, linear.bias)
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
        and "forward" not in vars(linear)
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
        weights: Any = parts[:count]
        biases = parts[count:]
        ctx.save_for_backward(x, *weights)
        ctx.set_materialize_grads(False)
        if count == 1:
            return (_product(x, weights[0], biases[0]),)
        widths = [weight.shape[0] for weight in weights]
        return _product(x, torch.cat(weights), _joined(biases, widths)).split(widths, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        count = len(weights)
        wanted = ctx.needs_input_grad
        whole = _whole_of(grads)
        if whole is not None:
            return _gradients(whole, x, weights, wanted)
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


class _PlusMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        total = kernels.expect_writes(torch.empty_like(out))
        torch.addmm(out, x, weight.T, out=total)
        return total if bias is None else total.add_(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            grad,
            _sum_of_products([(grad, weight)]) if of_x else None,
            grad.T @ x if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def _gradients(
    whole: Tensor, x: Tensor, weights: list[Tensor], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of what maps are made of, of one tensor with those of all their results."""
    count, widths = len(weights), [weight.shape[0] for weight in weights]
    of_x = _product(whole, torch.cat(weights).T) if wanted[0] else None
    nothing = (None,) * count
    of_weights = (whole.T @ x).split(widths) if any(wanted[1 : 1 + count]) else nothing
    of_biases = whole.sum(0).split(widths) if any(wanted[1 + count :]) else nothing
    parts = zip((*of_weights, *of_biases), wanted[1:], strict=True)
    return (of_x, *(part if wants else None for part, wants in parts))


def _joined(biases: tuple[Tensor | None, ...], widths: list[int]) -> Tensor | None:
    """The biases of all maps, zero where one has none; None where none has one."""
    some = next((bias for bias in biases if bias is not None), None)
    if some is None:
        return None
    given = zip(biases, widths, strict=True)
    return torch.cat([some.new_zeros(width) if bias is None else bias for bias, width in given])


def _whole_of(grads: tuple[Tensor | None, ...]) -> Tensor | None:
    """The tensor that the gradients are columns of, where nobody differentiates once more."""
    given = [grad for grad in grads if grad is not None]
    if len(given) < max(len(grads), 2) or torch.is_grad_enabled():
        return None
    return side_by_side(given)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
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
