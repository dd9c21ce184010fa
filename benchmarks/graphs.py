"""Graphs with a hub or two, drawn at any size."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Ends that are drawn at a time, so that drawing takes little beside the edges themselves.
CHUNK = 2**22


def power_law(num_nodes: int, num_edges: int, seed: int = 0) -> Tensor:
    """Edges [2, edge] whose ends are drawn by weights with a Pareto tail, repeats included.

    No node gets more than half a percent of all ends, about as in networks of citations.
    """
    generator = np.random.default_rng(seed)
    weight = generator.pareto(1.3, num_nodes) + 1
    weight = np.minimum(weight, weight.sum() * 0.005)
    upto = weight.cumsum()
    ends = torch.empty(2 * num_edges, dtype=torch.int64)
    for start in range(0, len(ends), CHUNK):
        part = ends[start : start + CHUNK]
        drawn = np.searchsorted(upto, upto[-1] * generator.random(len(part)), side="right")
        part.copy_(torch.from_numpy(drawn))
    return ends.view(2, num_edges)
