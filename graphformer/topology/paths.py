"""Tokens a few edges apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_array
from torch import Tensor

from graphformer.layout import Layout
from graphformer.topology.arguments import whole_number
from graphformer.topology.edge_list import GivenEdges, NamedEdges, Pending, edges, flat_ids


@dataclass(frozen=True, repr=False)
class Hops(Pending):
    """Pairs whose shortest path along given edges has 1 to `largest` of them.

    Attributes:
        steps: the edges of a single step.
        largest: hops.
    """

    steps: GivenEdges | NamedEdges
    largest: int

    def find(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Int[Tensor, "2 edge"]:
        edge_index = self.steps.find(queries, keys, edge_index_by_name)
        lengths = queries.lengths - queries.num_virtual
        if not torch.equal(lengths, keys.lengths - keys.num_virtual):
            raise ValueError(
                f"{self!r} follows edges from token to token of one set, but queries and keys "
                "differ: bind it without keys"
            )
        flat_ids(edge_index, queries, keys, repr(self))
        return within_hops(edge_index, int(lengths.sum()), self.largest)

    def __repr__(self) -> str:
        inside = repr(self.steps).removeprefix("edges(").removesuffix(")")
        return f"hops({inside}, {self.largest})"


def hops(edge_index: Tensor | str, k: int) -> Hops:
    """Every token attends to those from which 1 to `k` edges lead to it; not to itself.

    Args:
        edge_index: integer [2, edge], or the name of edge data, as for `edges`. Repeated edges
            count once.
        k: hops.

    Raises:
        TypeError: if `edge_index` or `k` is of another type.
        ValueError: if `edge_index` has another shape, or `k` is below 1.
    """
    return Hops(edges(edge_index), whole_number("hops", "k", k, 1))


def within_hops(
    edge_index: Int[Tensor, "2 edge"], num_tokens: int, largest: int
) -> Int[Tensor, "2 pair"]:
    """Pairs (key, query) of different tokens, at most `largest` edges apart, by ascending query."""
    pairs, counts = count_hops(edge_index, num_tokens, largest)
    return pairs[:, counts > 0]


def count_hops(
    edge_index: Int[Tensor, "2 edge"], num_tokens: int, largest: int | None = None
) -> tuple[Int[Tensor, "2 pair"], Int[Tensor, "pair"]]:
    """Pairs (key, query) with a way between them, by ascending query, and its number of edges.

    Of a token and itself it is 0; ways longer than `largest` are left out.
    """
    key, query = edge_index.cpu().numpy()
    shape = (num_tokens, num_tokens)
    step = csr_array((np.ones(key.shape[0], dtype=bool), (query, key)), shape=shape)
    reached = csr_array(([True] * num_tokens, (range(num_tokens), range(num_tokens))), shape=shape)
    # Pairs that are one edge further apart at each turn.
    rings = [reached]
    while rings[-1].nnz and (largest is None or len(rings) <= largest):
        rings.append(_without(rings[-1] @ step, reached))
        reached = reached + rings[-1]
    ends = [np.stack(ring.tocoo().coords[::-1]) for ring in rings]
    found = np.concatenate(ends, axis=1).astype(np.int64)
    counts = np.repeat(np.arange(len(rings)), [ring.nnz for ring in rings])
    order = np.lexsort(found)
    pairs, hop_counts = torch.from_numpy(found[:, order]), torch.from_numpy(counts[order])
    return pairs.to(edge_index.device), hop_counts.to(edge_index.device)


def _without(matrix: csr_array, other: csr_array) -> csr_array:
    """The entries of a boolean matrix that the other does not have."""
    result = matrix > (matrix.multiply(other))
    result.eliminate_zeros()
    return result
