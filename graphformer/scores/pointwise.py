"""The functions of a score that kernels know how to fuse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Pointwise:
    """A function of one score; `identity` says that it changes nothing."""

    @property
    def identity(self) -> bool:
        return False

    def __call__(self, score: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Identity(Pointwise):
    """The score itself."""

    @property
    def identity(self) -> bool:
        return True

    def __call__(self, score: Tensor) -> Tensor:
        return score


@dataclass(frozen=True)
class LeakyReLU(Pointwise):
    """The score where positive, `slope` times the score elsewhere."""

    slope: float = 0.2

    def __call__(self, score: Tensor) -> Tensor:
        return F.leaky_relu(score, self.slope)


@dataclass(frozen=True)
class SoftCap(Pointwise):
    """`cap` * tanh(score / `cap`): scores stay between -cap and cap (Gemma 2, 2408.00118)."""

    cap: float = 50.0

    def __call__(self, score: Tensor) -> Tensor:
        return self.cap * torch.tanh(score / self.cap)
