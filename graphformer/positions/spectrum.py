"""Eigenvectors of the Laplacian: the waves of a graph, from slow to fast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse import csgraph
from torch import Tensor

from graphformer.layout import Layout
from graphformer.positions.eigenvectors import slowest_waves
from graphformer.positions.example_edges import ExampleEdges
from graphformer.positions.remembered import Remembered
from graphformer.tokens import Tokens

Normalization = Literal["symmetric", "random_walk", "none"]

_WAVES = Remembered(num_bytes=2**27)


def laplacian(
    edge_index: Int[Tensor, "2 edge"],
    tokens: Tokens | Layout | int,
    k: int,
    normalization: Normalization = "symmetric",
) -> Float[Tensor, "token k"]:
    """Eigenvectors of the `k` smallest eigenvalues above 0 of the graph around each token, in
    torch's default dtype; zeros for virtual tokens.

    Each connected component is a graph of its own, whose eigenvectors have length 1: so an example
    has the same positions alone and in a batch, and what is not connected is not mixed. The
    constant eigenvector of each component is left out; a component of fewer than k + 1 nodes has
    zeros for what it lacks. Edges hold in both directions; repeated edges and self loops change
    nothing. The first of the largest entries of an eigenvector is positive; where an eigenvalue is
    repeated, the basis is arbitrary but reproducible. Solved graphs are remembered.

    Args:
        edge_index: ids of source and target, counted without virtual tokens.
        tokens: the tokens, or the number of nodes of a single graph.
        k: number of columns.
        normalization: "symmetric": I - D^-1/2 A D^-1/2. "random_walk": I - D^-1 A. "none": D - A.

    Raises:
        ValueError: if `k` is below 1, the normalization is unknown, or an edge leaves the batch or
            its example.

    Source: Dwivedi and Bresson, "A Generalization of Transformer Networks to Graphs", 2021.
    """
    if k < 1:
        raise ValueError(f"laplacian got k={k}: give at least 1 eigenvector.")
    if normalization not in get_args(Normalization):
        raise ValueError(
            f"laplacian got normalization={normalization!r}: use one of {get_args(Normalization)}."
        )
    edges = ExampleEdges.of(edge_index, tokens, "laplacian")
    waves = np.zeros((edges.num_nodes, k))
    for nodes, graph in _components(edges.adjacency()):
        count = min(k, len(nodes) - 1)
        waves[nodes, :count] = _remembered_waves(graph, count, normalization)
    positions = torch.from_numpy(waves).to(torch.get_default_dtype())
    return edges.spread(positions).to(edge_index.device)


def random_signs(
    x: Float[Tensor, "token k"],
    generator: torch.Generator | None = None,
    tokens: Tokens | Layout | None = None,
) -> Float[Tensor, "token k"]:
    """Eigenvectors whose signs, which mean nothing, are drawn anew: for training.

    Args:
        x: what `laplacian` gave.
        generator: where the signs are drawn from.
        tokens: the tokens, to draw signs for each example by itself.
    """
    num_examples = 1 if tokens is None else tokens.num_examples
    device = x.device if generator is None else generator.device
    drawn = torch.randint(2, (num_examples, x.shape[1]), generator=generator, device=device)
    signs = (2 * drawn - 1).to(x)
    return x * (signs if tokens is None else signs[Layout.of(tokens).example])


def _remembered_waves(graph: sparse.csr_array, k: int, normalization: str) -> np.ndarray:
    content = (
        f"{normalization} {k}".encode(),
        graph.indptr.astype(np.int64).tobytes(),
        graph.indices.astype(np.int64).tobytes(),
    )
    return _WAVES.get(content, lambda: slowest_waves(graph, k, normalization))


def _components(adjacency: sparse.csr_array) -> Iterator[tuple[np.ndarray, sparse.csr_array]]:
    """Nodes and symmetric adjacency, without self loops, of each component of several nodes."""
    both = (adjacency + adjacency.T).tocoo()
    _, component = csgraph.connected_components(both, directed=False)
    order = component.argsort(kind="stable")
    place = order.argsort()
    apart = both.row != both.col
    pairs = place[both.row[apart]], place[both.col[apart]]
    blocks = sparse.csr_array((np.ones(len(pairs[0])), pairs), shape=both.shape)
    blocks.sort_indices()
    stops = np.bincount(component).cumsum()
    for start, stop in zip(np.append(0, stops), stops, strict=False):
        if stop - start > 1:
            offsets = blocks.indptr[start : stop + 1]
            inside = slice(offsets[0], offsets[-1])
            parts = (blocks.data[inside], blocks.indices[inside] - start, offsets - offsets[0])
            yield order[start:stop], sparse.csr_array(parts, shape=(stop - start, stop - start))
