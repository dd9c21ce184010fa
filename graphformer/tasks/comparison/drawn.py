"""Graphs that are drawn at any density: data, which a topology names as `edges("random")`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

Codes = np.ndarray[Any, np.dtype[np.int64]]


def draw_edges(name: str, length: int, density: float, seed: int) -> Int[Tensor, "2 edge"]:
    """The edges (keys, queries) of one example, sorted by query.

    Args:
        name: one of `DRAWN`.
        length: tokens.
        density: share of the pairs of tokens that are edges.
        seed: what is drawn is a function of the seed and the other arguments.
    """
    random = np.random.default_rng((seed, length))
    codes = np.sort(DRAWN[name](length, density, random))
    return torch.from_numpy(np.stack([codes % length, codes // length]))


def repeat_edges(edges: Int[Tensor, "2 edge"], length: int, batch: int) -> Int[Tensor, "2 more"]:
    """The same edges in each example of a batch."""
    first = length * torch.arange(batch)
    return (edges[:, None, :] + first[None, :, None]).flatten(1)


def random_pairs(length: int, density: float, random: np.random.Generator) -> Codes:
    """Every pair is as likely as every other."""
    size = _num_edges(length, density)
    return random.choice(length * length, size, replace=False, shuffle=False)


def power_law(length: int, density: float, random: np.random.Generator) -> Codes:
    """Hubs: the token of rank r has a share of r^-1/2 of the edges, as a query and as a key."""
    size = _num_edges(length, density)
    if size == length * length:
        return np.arange(size)
    names = [random.permutation(length) for _ in range(2)]
    found = np.empty(0, dtype=np.int64)
    while found.size < size:
        # The square of a uniform number is below x with probability x^1/2.
        ranks = (length * random.random((2, 2 * size)) ** 2).astype(np.int64)
        drawn = names[0][ranks[0]] * length + names[1][ranks[1]]
        found = np.unique(np.concatenate([found, drawn]))
    return random.choice(found, size, replace=False)


def blocks(length: int, density: float, random: np.random.Generator) -> Codes:
    """Complete graphs on stretches of equally many tokens, the last stretch perhaps shorter."""
    size = block_size(length, density)
    query = np.arange(length)[:, None]
    key = query // size * size + np.arange(size)
    return (query * length + key)[key < length]


def block_size(length: int, density: float) -> int:
    """Tokens of a block: what gives this density, at least 1."""
    return min(max(round(density * length), 1), length)


DRAWN: dict[str, Callable[[int, float, np.random.Generator], Codes]] = {
    "random": random_pairs,
    "power_law": power_law,
    "blocks": blocks,
}


def _num_edges(length: int, density: float) -> int:
    return min(max(round(density * length * length), 1), length * length)
