"""Edges that are data: ids of one batch's tokens, given or found when a batch is bound."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import networkx
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.layout import Layout, Pair
from graphformer.topology.algebra import Topology
from graphformer.topology.arguments import edge_ids


@dataclass(frozen=True, eq=False, repr=False)
class Edges(Topology):
    """Edges of one batch, as flat ids that count virtual tokens; bound only to that batch.

    Attributes:
        key: flat ids of the keys.
        query: flat ids of the queries.
        num_queries: queries of the batch.
        num_keys: keys of the batch.
        notation: how the topology was written.
    """

    key: Int[Tensor, "edge"]
    query: Int[Tensor, "edge"]
    num_queries: int
    num_keys: int
    notation: str = "edges(...)"

    @classmethod
    def of(
        cls, edge_index: Int[Tensor, "2 edge"], queries: Layout, keys: Layout, notation: str
    ) -> Edges:
        """The edges of a batch, given by ids that do not count virtual tokens.

        Raises:
            ValueError: if an id lies outside, an edge joins two examples, or an edge repeats.
        """
        key, query = flat_ids(edge_index, queries, keys, notation)
        edges = cls(key, query, queries.num_tokens, keys.num_tokens, notation)
        repeated = edges._codes.diff() == 0
        if bool(repeated.any()):
            code = int(edges._codes[1:][repeated][0])
            first = int((query * keys.num_tokens + key == code).nonzero()[0])
            source, target = edge_index[:, first].tolist()
            num_repeats = int(repeated.sum())
            several = f"{num_repeats:,} repeated edges, one of them"
            raise ValueError(
                f"{notation} has {several if num_repeats > 1 else '1 repeated edge,'} from key "
                f"{source} to query {target}: a topology is a set, write edge_index = "
                "torch_geometric.utils.coalesce(edge_index), or keep repeats, each its own term, "
                "with TokenGraph.from_edge_index"
            )
        return edges

    @cached_property
    def _codes(self) -> Int[Tensor, "edge"]:
        return torch.sort(self.query * self.num_keys + self.key).values

    @property
    def depends_on_size(self) -> bool:
        return True

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        self._check(pair.queries, pair.keys)
        wanted = pair.query * self.num_keys + pair.key
        if not self._codes.numel():
            return torch.zeros_like(wanted, dtype=torch.bool)
        place = torch.searchsorted(self._codes, wanted).clamp_(max=self._codes.numel() - 1)
        return self._codes[place] == wanted

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        self._check(queries, keys)
        return self.key, self.query

    def count_edges(self, queries: Layout, keys: Layout) -> int:
        self._check(queries, keys)
        return self.key.shape[0]

    def resolve(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Topology:
        self._check(queries, keys)
        return self

    def transposed(self) -> Topology:
        return Edges(self.query, self.key, self.num_keys, self.num_queries, f"{self.notation}.T")

    def _check(self, queries: Layout, keys: Layout) -> None:
        if (queries.num_tokens, keys.num_tokens) != (self.num_queries, self.num_keys):
            raise ValueError(
                f"{self.notation} was bound to {self.num_queries} queries and {self.num_keys} "
                f"keys, not to these {queries.num_tokens} and {keys.num_tokens}: edges are data "
                'of one batch, write edges("name") and bring each batch its own'
            )

    def __repr__(self) -> str:
        return self.notation


class Pending(Topology):
    """A leaf whose edges are found when a batch is bound; asked before, it binds for itself."""

    @abstractmethod
    def find(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Int[Tensor, "2 edge"]:
        """Its edges (keys, queries), as ids that do not count virtual tokens."""

    @property
    def depends_on_size(self) -> bool:
        return True

    def resolve(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Topology:
        return Edges.of(self.find(queries, keys, edge_index_by_name), queries, keys, repr(self))

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        return self.resolve(pair.queries, pair.keys, {}).contains(pair)

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        return self.resolve(queries, keys, {}).list_edges(queries, keys)

    def count_edges(self, queries: Layout, keys: Layout) -> int:
        return self.resolve(queries, keys, {}).count_edges(queries, keys)


@dataclass(frozen=True, eq=False, repr=False)
class GivenEdges(Pending):
    """Edges whose ids are those of the batch's tokens, without virtual ones.

    Attributes:
        edge_index: keys (row 0) and queries (row 1).
    """

    edge_index: Int[Tensor, "2 edge"]

    def find(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Int[Tensor, "2 edge"]:
        return self.edge_index

    def transposed(self) -> Topology:
        return GivenEdges(self.edge_index.flip(0))

    def __repr__(self) -> str:
        return "edges(...)"


@dataclass(frozen=True, repr=False)
class NamedEdges(Pending):
    """Edges that a batch brings as edge data of a name.

    Attributes:
        name: of the edge data that `bind` gets.
    """

    name: str

    def find(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Int[Tensor, "2 edge"]:
        if self.name not in edge_index_by_name:
            known = ", ".join(repr(name) for name in edge_index_by_name) or "none"
            raise ValueError(
                f"{self!r} needs edge data named {self.name!r}, the names given are: {known}; "
                f"write bind(tokens, {self.name}=EdgeValues(edge_index))"
            )
        return edge_ids(repr(self), edge_index_by_name[self.name])

    def __repr__(self) -> str:
        return f"edges({json.dumps(self.name, ensure_ascii=False)})"


def edges(edge_index: Tensor | str) -> GivenEdges | NamedEdges:
    """Exactly these edges: ids of one batch, or the name of what each batch brings.

    Args:
        edge_index: integer [2, edge], keys in row 0 and queries in row 1, as in PyG (source above
            target); ids of the batch's flat tokens without virtual ones. Or the name of edge data
            given to `bind`.

    Raises:
        TypeError: if it is neither, or holds no integers.
        ValueError: if its shape is another.
    """
    if isinstance(edge_index, str):
        return NamedEdges(edge_index)
    return GivenEdges(edge_ids("edges", edge_index))


def from_networkx(graph: networkx.Graph) -> GivenEdges:
    """The edges of a networkx graph: both directions where it is undirected.

    Nodes are numbered in the order of the graph; repeated edges of a multigraph count once.

    Args:
        graph: a graph, whose edge (u, v) sends from u to v.
    """
    number: dict[Any, int] = {node: index for index, node in enumerate(graph.nodes)}
    pairs = dict.fromkeys((number[edge[0]], number[edge[1]]) for edge in graph.edges())
    if not graph.is_directed():
        pairs |= dict.fromkeys((target, source) for source, target in pairs)
    return GivenEdges(torch.tensor(list(pairs), dtype=torch.int64).view(-1, 2).T.contiguous())


def flat_ids(
    edge_index: Int[Tensor, "2 edge"], queries: Layout, keys: Layout, notation: str
) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
    """Keys and queries of edges, as flat ids that count virtual tokens.

    Raises:
        ValueError: if an id lies outside, an edge joins two examples, or devices differ.
    """
    if edge_index.device != queries.device:
        raise ValueError(
            f"{notation} is on {edge_index.device}, the tokens are on {queries.device}: write "
            f'edge_index.to("{queries.device}")'
        )
    key = _shifted(edge_index[0], keys, f"{notation}, row 0 (keys)")
    query = _shifted(edge_index[1], queries, f"{notation}, row 1 (queries)")
    crossing = keys.example[key] != queries.example[query]
    if bool(crossing.any()):
        first = int(crossing.nonzero()[0])
        source, target = edge_index[:, first].tolist()
        raise ValueError(
            f"{notation} joins two examples: edge {first} goes from key {source} of example "
            f"{int(keys.example[key[first]])} to query {target} of example "
            f"{int(queries.example[query[first]])}; ids count through the whole batch, as "
            "torch_geometric's Batch makes them"
        )
    return key, query


def _shifted(ids: Tensor, layout: Layout, what: str) -> Int[Tensor, "edge"]:
    num_real = layout.num_tokens - layout.num_virtual * layout.num_examples
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= num_real):
        worst = int(ids.max()) if int(ids.max()) >= num_real else int(ids.min())
        raise ValueError(
            f"{what} names token {worst}, but the batch has {num_real} tokens (virtual ones not "
            f"counted): ids are 0 to {num_real - 1}"
        )
    if not layout.num_virtual:
        return ids.clone()  # which whoever gave them may change
    return (layout.at[:, 0] >= 0).nonzero().squeeze(1)[ids]
