"""Optimizers and learning rate schedules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def fused_optimizer(
    kind: type[Optimizer], parameters: Iterable[nn.Parameter], **options: Any
) -> Optimizer:
    """An optimizer that takes one step for all parameters at once, where torch can.

    Args:
        kind: `torch.optim.AdamW`, or another that takes `fused`.
        parameters: on one device.
        options: of `kind`, such as the learning rate.
    """
    chosen = list(parameters)
    fused = all(each.device.type in FUSED_DEVICES and each.is_floating_point() for each in chosen)
    return kind(chosen, fused=fused, **options)  # type: ignore[call-arg]
