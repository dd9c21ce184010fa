"""Copies of a module's weights, each tied weight once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

Weights = Mapping[str, Tensor]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that are saved, by name; what is tied has one name."""
    saved = module.state_dict()
    named = chain(module.named_parameters(), module.named_buffers())
    return {name: each for name, each in named if name in saved}


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers as they are now, whatever becomes of them."""
    return {name: each.detach().clone() for name, each in weights_of(module).items()}


@torch.no_grad()
def put_weights(module: nn.Module, weights: Weights) -> None:
    """The module has these weights, which stay its own tensors."""
    own = weights_of(module)
    for name, each in weights.items():
        own[name].copy_(each)


@contextmanager
def with_weights(module: nn.Module, weights: Weights) -> Iterator[None]:
    """The module has these weights in the block, and its own again after it."""
    own = copy_weights(module)
    put_weights(module, weights)
    try:
        yield
    finally:
        put_weights(module, own)


def mean_weights(points: Sequence[Weights]) -> dict[str, Tensor]:
    """The mean of each parameter over all points; of whole numbers the last.

    Args:
        points: at least one, of the same module.
    """
    *_, last = points
    return {
        name: mean([point[name].to(each.device) for point in points])
        if each.is_floating_point()
        else each
        for name, each in last.items()
    }


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape, summed in double precision."""
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for each in tensors:
        total += each
    return (total / len(tensors)).to(tensors[0].dtype)
