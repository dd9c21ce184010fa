"""A graph as padded examples side by side, for dense kernels."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graphformer import edge_data as edges_of
from graphformer.edge_data import EdgeValues
from graphformer.graph import Rectangle, TokenGraph
from graphformer.layout import Layout, Pair


def make_rectangle(graph: TokenGraph) -> Rectangle:
    """The rectangle of a graph: slots, mask, and its pairs."""
    queries, keys, topology = graph.queries, graph.keys, graph.topology
    query_ids, query_valid = _slots(queries)
    key_ids, key_valid = (query_ids, query_valid) if keys is queries else _slots(keys)
    pair = Pair(
        query_ids[:, :, None, None],
        key_ids[:, None, :, None],
        queries,
        keys,
        counted=queries.contiguous and keys.contiguous,
    )
    is_causal = topology.is_causal and queries.contiguous and keys is queries
    mask = empty = None
    if not is_causal and not (topology.is_complete and keys.uniform):
        mask, empty = _mask(graph, pair, query_valid, key_valid)
    return Rectangle(
        None if queries.uniform else query_ids.flatten(),
        None if keys.uniform else key_ids.flatten(),
        None if queries.uniform else _index(queries),
        None if keys.uniform else _index(keys),
        mask,
        is_causal,
        empty,
        pair,
    )


def rectangle_values(graph: TokenGraph, name: str) -> Float[Tensor, "example query key dim"]:
    """The edge data `name` on the rectangle of the graph; `missing` where nothing was given."""
    value = edges_of.find(name, graph.edge_data)
    return graph._keep((name, "rectangle"), value, lambda: _spread(graph, value))


def real_edges(graph: TokenGraph) -> Bool[Tensor, "_ row column"]:
    """Which pairs of the rectangle are edges: its mask, without what stands in for no keys."""
    return graph._make("real edges", lambda: _real_edges(graph))


def places(graph: TokenGraph, edge_index: Int[Tensor, "2 edge"]) -> tuple[Tensor, Tensor, Tensor]:
    """Example, row and column of edges in the rectangle, each [edge]."""
    key, query = edge_index[0].long(), edge_index[1].long()
    example = graph.queries.example[query]
    return example, query - graph.queries.ptr[example], key - graph.keys.ptr[example]


def _spread(graph: TokenGraph, value: EdgeValues) -> Tensor:
    values = value.known
    size = (graph.queries.num_examples, graph.queries.max_length, graph.keys.max_length)
    if isinstance(value.missing, str):
        rows = edges_of.mean_of_query(value, graph.queries.num_tokens)
        filled = rows[_slots(graph.queries)[0]].unsqueeze(2).expand(*size, -1)
    else:
        missing = torch.as_tensor(value.missing, dtype=values.dtype, device=values.device)
        filled = missing.expand(*size, values.shape[1])
    return torch.index_put(filled.contiguous(), places(graph, value.edge_index), values)


def _mask(
    graph: TokenGraph, pair: Pair, query_valid: Tensor, key_valid: Tensor
) -> tuple[Bool[Tensor, "_ 1 _ key"], Bool[Tensor, "_ _"] | None]:
    if graph.topology.is_complete:
        mask = key_valid.unsqueeze(1)
    else:
        mask = graph.topology.contains(pair).squeeze(-1)
        if not graph.keys.uniform:
            mask = mask & key_valid.unsqueeze(1)
        # A rule may have answered for all pairs at once; kernels want whole rows.
        mask = mask.expand(
            mask.shape[0], *torch.broadcast_shapes(mask.shape[1:], (1, key_valid.shape[1]))
        )
    empty = ~mask.any(-1)
    mask = mask | empty.unsqueeze(-1)
    unheard = bool((empty & query_valid).any())
    return mask.unsqueeze(1), empty if unheard else None


def _real_edges(graph: TokenGraph) -> Tensor:
    rectangle, pair = graph.rectangle, graph.rectangle.pair
    mask = rectangle.mask
    if rectangle.is_causal:
        mask = pair.distance.squeeze(-1).unsqueeze(1) <= 0
    assert mask is not None
    edges = mask.squeeze(1)
    if rectangle.empty is not None:
        edges = edges & ~rectangle.empty.unsqueeze(-1)
    # What stands in for a query that is not there may be a query of no such key.
    return edges & _slots(graph.queries)[1].unsqueeze(-1)


def _slots(layout: Layout) -> tuple[Int[Tensor, "example slot"], Bool[Tensor, "example slot"]]:
    count = torch.arange(layout.max_length, device=layout.device)
    valid = count < layout.ptr.diff().unsqueeze(1)
    ids = layout.ptr[:-1].unsqueeze(1) + count
    # Padding holds the last token of its own example: what is infinite in one spoils no other.
    # Of an example without tokens it holds another's, and queries without keys are silenced.
    return torch.minimum(ids, (layout.ptr[1:] - 1).clamp(min=0).unsqueeze(1)), valid


def _index(layout: Layout) -> Int[Tensor, "token"]:
    count = torch.arange(layout.num_tokens, device=layout.device)
    return count + layout.example * layout.max_length - layout.ptr[layout.example]
