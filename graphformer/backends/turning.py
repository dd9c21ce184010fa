"""Rotary positions in one pass: what a score prepared is read once, turned, and written once."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graphformer.backends import kernels
from graphformer.backends.operators import LIBRARY, is_unseen
from graphformer.scores.rotary import Turns
from graphformer.scores.rotary import turn as turn_in_steps

LIBRARY.define("turn(Tensor x, Tensor cosine, Tensor sine, bool back) -> Tensor")


def turn(x: Float[Tensor, "token head width"], turns: Turns) -> Float[Tensor, "token head width"]:
    """Pairs of coordinates turned, by the kernel where there is one for `x`, in steps elsewhere."""
    if not _has_kernel(x):
        return turn_in_steps(x, turns)
    turned: Tensor = _Turned.apply(x, *turns, False)
    return turned


def _has_kernel(x: Tensor) -> bool:
    """The steps are what compilers fuse, and transforms batch."""
    return (
        x.device.type == "cpu"
        and x.dtype in kernels.DTYPES
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and kernels.why_missing() is None
    )


class _Turned(torch.autograd.Function):
    """Linear in `x`: a gradient is turned back, and a tangent the same way."""

    @staticmethod
    def forward(x: Tensor, cosine: Tensor, sine: Tensor, back: bool) -> Tensor:
        run = kernels.turn if is_unseen((x, cosine, sine)) else torch.ops.graphformer.turn
        out: Tensor = run(x, cosine, sine, back)
        return out

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor
    ) -> None:
        # No inputs of an autograd graph that could be changed in place: the graph keeps them.
        _, ctx.cosine, ctx.sine, ctx.back = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Turned.apply(grad, ctx.cosine, ctx.sine, not ctx.back), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Tensor | None) -> Tensor:
        turned: Tensor = _Turned.apply(tangent, ctx.cosine, ctx.sine, ctx.back)
        return turned


@torch.library.impl(LIBRARY, "turn", "CPU")
def _turn(x: Tensor, cosine: Tensor, sine: Tensor, back: bool) -> Tensor:
    return kernels.turn(x, cosine, sine, back)


@torch.library.register_fake("graphformer::turn", lib=LIBRARY)
def _fake_turn(x: Tensor, cosine: Tensor, sine: Tensor, back: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
