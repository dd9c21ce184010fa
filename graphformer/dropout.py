"""Dropout from random bytes: on the CPU, torch's own draws a number an entry and is slow."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Entries are zero with probability `p` while training, and the others are scaled to make up.

    On the CPU an entry is kept where a random byte says so: `p` is then rounded to the nearest of
    1/256 to 255/256, and the scale is the inverse of the rounded probability of being kept, so
    that the mean is exact. Elsewhere, and in compiled code, it is `torch.nn.functional.dropout`. Of
    a sparse CSR tensor only what it stores is drawn for: its zeros stay zero anyway.

    Args:
        p: probability of zero, at least 0 and below 1.

    Raises:
        ValueError: if `p` is no such probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"Dropout takes a probability of at least 0 and below 1, it got {p}")
        self.p = p

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self.p == 0:
            return x
        if x.layout is torch.sparse_csr:
            parts = (x.crow_indices(), x.col_indices(), self.forward(x.values()), x.shape)
            return torch.sparse_csr_tensor(*parts, check_invariants=False)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        return drop(x, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def drop(x: Float[Tensor, "*shape"], p: float) -> Float[Tensor, "*shape"]:
    """`x` with entries set to zero with probability `p`, a multiple of 1/256, others scaled up."""
    threshold = min(max(round(256 * p), 1), 255)
    kept: Tensor = _Kept.apply(x, random_keep(x, threshold), 256 / (256 - threshold))
    return kept


def random_keep(x: Tensor, threshold: int) -> UInt8[Tensor, "*shape"]:
    """One with probability 1 - threshold / 256, zero otherwise, for each entry of `x`."""
    words = torch.empty(x.numel() // 8 + 1, dtype=torch.int64, device=x.device)
    # The whole range of int64: of the default range the sign is missing, and bytes are not uniform.
    words.random_(-(2**63), None)
    # In place, since bytes are compared into bytes ten times as fast as into booleans.
    return words.view(torch.uint8)[: x.numel()].view(x.shape).ge_(threshold)


class _Kept(torch.autograd.Function):
    """x * keep * scale, of which the backward needs the bytes of `keep` alone."""

    @staticmethod
    def forward(x: Tensor, keep: Tensor, scale: float) -> Tensor:
        return (x * keep).mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        _, keep, ctx.scale = inputs
        ctx.save_for_backward(keep)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(ctx.scale), None, None
