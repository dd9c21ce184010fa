"""How likely a random walk is to return."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from graphformer.layout import Layout
from graphformer.positions.example_edges import ExampleEdges
from graphformer.tokens import Tokens

# Entries of a chunk of rows, were it dense: 32 MB of float64.
_CHUNK = 2**22


def random_walk(
    edge_index: Int[Tensor, "2 edge"], tokens: Tokens | Layout | int, steps: int
) -> Float[Tensor, "token steps"]:
    """How likely a walk from a token is there again after 1 to `steps` steps, in torch's default
    dtype; zeros for virtual tokens.

    A walk follows each edge that leaves its token with equal probability, and ends where there is
    none. Column k is the diagonal of (D^-1 A)^k. A repeated edge counts once.

    Args:
        edge_index: ids of source and target, counted without virtual tokens.
        tokens: the tokens, or the number of nodes of a single graph.
        steps: number of columns.

    Raises:
        ValueError: if `steps` is below 1, or an edge leaves the batch or its example.

    Source: Dwivedi et al., "Graph Neural Networks with Learnable Structural and Positional
    Representations", 2022, section 3.1.
    """
    if steps < 1:
        raise ValueError(f"random_walk got steps={steps}: give at least 1.")
    edges = ExampleEdges.of(edge_index, tokens, "random_walk")
    adjacency = edges.adjacency()
    out_degree = np.maximum(adjacency.sum(axis=1), 1)
    transition = sparse.diags_array(1 / out_degree) @ adjacency
    longest = max(int(edges.lengths.max()), 1)
    chunk = max(_CHUNK // longest, 1)
    returned = np.zeros((edges.num_nodes, steps))
    backward = transition.T.tocsr()
    for start in range(0, edges.num_nodes, chunk):
        rows = slice(start, start + chunk)
        returned[rows] = _returns(transition, backward, rows, steps)
    probabilities = torch.from_numpy(returned).to(torch.get_default_dtype())
    return edges.spread(probabilities).to(edge_index.device)


def _returns(
    transition: sparse.csr_array, backward: sparse.csr_array, rows: slice, steps: int
) -> np.ndarray:
    """Diagonals of the powers of `transition`, at `rows`.

    A walk of 2m steps is m steps from its token and m back to it, so only powers up to half of
    `steps`, which have far fewer entries, are computed.
    """
    diagonals = [transition.diagonal()[rows]]
    there, back = transition[rows], backward[rows]
    for step in range(2, steps + 1):
        if step % 2:
            there = there @ transition
        elif step > 2:
            back = back @ backward
        diagonals.append((there * back).sum(axis=1))
    return np.stack(diagonals, axis=1)
