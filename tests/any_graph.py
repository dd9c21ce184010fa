"""Whole graphs as hypothesis draws them: hubs, repeats, self loops, tokens that nobody hears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

import graphformer as gf


class Edges(NamedTuple):
    """Edges between so many keys and queries, any of which may have none, or the same one twice."""

    edge_index: Tensor
    num_keys: int
    num_queries: int

    @property
    def num_edges(self) -> int:
        return self.edge_index.shape[1]

    def bind(self, bipartite: bool = False, **edge_data: Tensor) -> gf.TokenGraph:
        """Their graph, repeats included, where keys are other tokens than queries or the same."""
        num_keys = self.num_keys if bipartite else None
        return gf.TokenGraph.from_edge_index(
            self.edge_index, self.num_queries, num_keys, **edge_data
        )

    def alone(self) -> Tensor:
        """Which queries have no key."""
        return torch.bincount(self.edge_index[1], minlength=self.num_queries) == 0

    def unheard(self) -> Tensor:
        """Which keys no query hears."""
        return torch.bincount(self.edge_index[0], minlength=self.num_keys) == 0


@st.composite
def edges(draw: st.DrawFn, bipartite: bool = False, least: int = 1) -> Edges:
    """Random edges, repeats and self loops among them, with or without a hub on either side.

    Args:
        draw: hypothesis's own.
        bipartite: whether there may be another number of keys than of queries.
        least: tokens that there are at least.
    """
    num_queries = draw(st.integers(least, 7))
    num_keys = draw(st.integers(least, 7)) if bipartite else num_queries
    pairs: list[tuple[int, int]] = []
    if num_queries and num_keys:
        pair = st.tuples(st.integers(0, num_keys - 1), st.integers(0, num_queries - 1))
        pairs = draw(st.lists(pair, max_size=12))
        if draw(st.booleans()):
            pairs += [(key, 0) for key in range(num_keys)]
        if draw(st.booleans()):
            pairs += [(0, query) for query in range(num_queries)]
    if pairs and draw(st.booleans()):
        pairs += pairs[::2]
    pairs = draw(st.permutations(pairs))
    edge_index = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T
    return Edges(edge_index.contiguous(), num_keys, num_queries)


def beside(graphs: Sequence[Edges]) -> tuple[Edges, list[dict[str, slice]]]:
    """The graphs as one without edges between them, and which rows of it are whose.

    Returns:
        The union, and for each graph its slices "edge", "key" and "query".
    """
    parts, rows, key, query, edge = [], [], 0, 0, 0
    for graph in graphs:
        parts.append(graph.edge_index + torch.tensor([[key], [query]]))
        ends = key + graph.num_keys, query + graph.num_queries, edge + graph.num_edges
        rows.append({"key": slice(key, ends[0]), "query": slice(query, ends[1]),
                     "edge": slice(edge, ends[2])})  # fmt: skip
        key, query, edge = ends
    return Edges(torch.cat(parts, 1), key, query), rows
