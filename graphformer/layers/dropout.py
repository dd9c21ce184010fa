"""Dropout in one pass: on the CPU, torch's own draws one number after another, and is slow."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.backends import kernels
from graphformer.backends.operators import LIBRARY

LIBRARY.define("drop(Tensor x, float p, int seed) -> Tensor")


class Dropout(nn.Module):
    """Entries are zero with probability `p` while training, and the others are scaled to make up.

    On the CPU a kernel hashes a seed of torch's generator and the place of an entry, and the
    backward does so again: there is no mask in memory. Elsewhere, without the kernels, and in
    compiled code, it is `torch.nn.functional.dropout`. Of a sparse CSR tensor only what it stores
    is drawn for: its zeros stay zero anyway.

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
        if torch.compiler.is_compiling() or not has_kernel(x):
            return F.dropout(x, self.p)
        return drop(x, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def has_kernel(x: Tensor) -> bool:
    """Whether a kernel drops entries of such a tensor."""
    return x.device.type == "cpu" and x.dtype in kernels.DTYPES and kernels.why_missing() is None


def drop(x: Float[Tensor, "*shape"], p: float) -> Float[Tensor, "*shape"]:
    """`x` with entries set to zero with probability `p`, and others scaled up, by the kernel."""
    dropped: Tensor = _Dropped.apply(x, p, kernels.draw_seed())
    return dropped


class _Dropped(torch.autograd.Function):
    """Linear in `x`: the same entries of a gradient, or of a tangent, are dropped."""

    @staticmethod
    def forward(x: Tensor, p: float, seed: int) -> Tensor:
        out: Tensor = torch.ops.graphformer.drop(x, p, seed)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, int], output: Tensor) -> None:
        _, ctx.p, ctx.seed = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Dropped.apply(grad, ctx.p, ctx.seed), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        dropped: Tensor = _Dropped.apply(tangent, ctx.p, ctx.seed)
        return dropped


@torch.library.impl(LIBRARY, "drop", "CPU")
def _drop(x: Tensor, p: float, seed: int) -> Tensor:
    return kernels.drop(x.contiguous(), p, seed)


@torch.library.register_fake("graphformer::drop", lib=LIBRARY)
def _fake_drop(x: Tensor, p: float, seed: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
