"""A topology bound to the tokens of a batch: who attends to whom, by id, built once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graphformer import edge_data as edges_of
from graphformer.compressed_rows import CompressedRows, compress, transpose
from graphformer.edge_data import EdgeValues
from graphformer.layout import Layout, Pair, check_layouts, map_tensors
from graphformer.topology import Edges, Topology
from graphformer.topology.arguments import edge_ids

if TYPE_CHECKING:
    import networkx
    from matplotlib.axes import Axes

    from graphformer.tokens import Tokens

__all__ = ["CompressedRows", "EdgeValues", "Rectangle", "Side", "TokenGraph"]


class Rectangle(NamedTuple):
    """The examples of a batch side by side, padded to the longest: what dense kernels need.

    Attributes:
        query_slots: the token in each slot [example * longest query], or None where all examples
            are equally long and the rectangle is a view.
        key_slots: the same for the keys.
        query_index: the slot of each query, or None.
        key_index: the slot of each key, or None.
        mask: which pairs are edges, broadcast over examples where all have the same; None where
            all pairs are. Rows without keys are True throughout, so that softmax stays finite.
        is_causal: the mask is the plain causal one of a square.
        empty: the queries without keys [example, query], or None where there are none.
        pair: the pairs, [example, query, key, 1].
    """

    query_slots: Int[Tensor, "query_slot"] | None
    key_slots: Int[Tensor, "key_slot"] | None
    query_index: Int[Tensor, "query"] | None
    key_index: Int[Tensor, "key"] | None
    mask: Bool[Tensor, "_ 1 #query_length key_length"] | None
    is_causal: bool
    empty: Bool[Tensor, "_ #query_length"] | None
    pair: Pair


class Side(NamedTuple):
    """What a score may know of the queries, or of the keys, beside their projections."""

    layout: Layout
    graph: TokenGraph

    @property
    def positions(self) -> Int[Tensor, "token axis"]:
        """Where each token stands; axis 0 is the index in its example."""
        return self.layout.at

    @property
    def example(self) -> Int[Tensor, "token"]:
        """The example of each token."""
        return self.layout.example

    @property
    def in_degree(self) -> Int[Tensor, "token"] | None:
        """Keys of each token as a query; None for the keys of a bipartite graph."""
        return self.graph.in_degree if self.layout is self.graph.queries else None

    @property
    def out_degree(self) -> Int[Tensor, "token"] | None:
        """Queries of each token as a key; None for the queries of a bipartite graph."""
        return self.graph.out_degree if self.layout is self.graph.keys else None


class TokenGraph:
    """A topology bound to queries and keys, built once a batch and passed to every layer.

    Made by `topology.bind(queries, keys, **edge_data)` or `TokenGraph.from_edge_index`. Indexes
    (CSR, CSC, rectangle, degrees) are made on first use and kept.

    Attributes:
        topology: the topology, its names and features resolved to edges of this batch.
        queries: where the queries stand.
        keys: where the keys stand; the same object as `queries` where they are the same tokens.
        edge_data: values on edges, by name.
    """

    def __init__(
        self,
        topology: Topology,
        queries: Layout,
        keys: Layout,
        edge_data: Mapping[str, EdgeValues] | None = None,
        edge_index: Tensor | None = None,
    ) -> None:
        self.topology = topology
        self.queries = queries
        self.keys = keys
        self.edge_data = dict(edge_data or {})
        self.plans: dict[Any, Any] = {}
        self.unasked: deque[Any] = deque()  # keys of plans that calls made and `plan` did not
        self._made: dict[str, Any] = {}
        self._values: edges_of.Kept = {}
        self.repeats = edge_index is not None
        if edge_index is not None:
            self._made["edge_index"] = edge_index

    @classmethod
    def bind(
        cls,
        topology: Topology,
        queries: Tokens | Layout,
        keys: Tokens | Layout | None = None,
        **edge_data: EdgeValues | Tensor,
    ) -> TokenGraph:
        """`topology.bind(...)`; see `Topology.bind`."""
        query_layout = Layout.of(queries)
        key_layout = query_layout if keys is None or keys is queries else Layout.of(keys)
        check_layouts(query_layout, key_layout)
        values = {name: edges_of.check(name, given) for name, given in edge_data.items()}
        shifted = {
            name: edges_of.shift(name, value, query_layout, key_layout)
            for name, value in values.items()
        }
        by_name = {name: value.edge_index for name, value in values.items()}
        resolved = topology.resolve(query_layout, key_layout, by_name)
        return cls(resolved, query_layout, key_layout, shifted)

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Int[Tensor, "2 edge"],
        num_queries: int,
        num_keys: int | None = None,
        **edge_data: Float[Tensor, "edge ..."],
    ) -> TokenGraph:
        """The graph of one example with exactly these edges, repeats included.

        Every repeated edge is a term of its own, as in PyG's layers.

        Args:
            edge_index: keys (row 0) and queries (row 1) of the edges.
            num_queries: number of queries.
            num_keys: number of keys; left out, the keys are the queries.
            edge_data: values of the edges by name, in the order of `edge_index`.

        Raises:
            TypeError: if `edge_index` holds no integers.
            ValueError: if it has another shape, ids lie outside, or values do not fit the edges.
        """
        # A copy, for the ids are checked now and read later: whoever gave them may change them.
        with torch.inference_mode(False):
            edge_index = edge_ids("from_edge_index", edge_index).clone()
        edges_of.check_range(edge_index, num_queries, num_queries if num_keys is None else num_keys)
        queries = _one_example(num_queries, edge_index.device)
        keys = queries if num_keys is None else _one_example(num_keys, edge_index.device)
        values = {
            name: edges_of.check(name, EdgeValues(edge_index, value))
            for name, value in edge_data.items()
        }
        topology = Edges(edge_index[0], edge_index[1], queries.num_tokens, keys.num_tokens)
        return cls(topology, queries, keys, values, edge_index)

    # ---- edges ----

    @property
    def num_edges(self) -> int:
        """Number of edges: in closed form where the topology has one."""
        return self._make("num_edges", self._count)

    @property
    def density(self) -> float:
        """Edges over the (query, key) pairs of the examples."""
        pairs = int((self.queries.lengths * self.keys.lengths).sum())
        return self.num_edges / pairs if pairs else 0.0

    @property
    def edge_index(self) -> Int[Tensor, "2 edge"]:
        """Keys (row 0) and queries (row 1): of `A | B` those of A, then B's others."""
        return self._make("edge_index", self._list)

    @property
    def csr(self) -> CompressedRows:
        """The edges sorted by query."""
        return self._make("csr", self._sort_by_query)

    @property
    def csc(self) -> CompressedRows:
        """The edges sorted by key, those of a key by query."""
        return self._make("csc", self._sort_by_key)

    @property
    def transposed(self) -> CompressedRows:
        """The edges of `csr` in the order of `csc`; `order` counts them in the order of `csr`."""
        return self._make("transposed", lambda: transpose(self.csr, self.keys.num_tokens))

    @property
    def in_degree(self) -> Int[Tensor, "query"]:
        """Number of keys of each query."""
        return self._make("in_degree", lambda: self._degree(1, self.queries.num_tokens))

    @property
    def out_degree(self) -> Int[Tensor, "key"]:
        """Number of queries of each key."""
        return self._make("out_degree", lambda: self._degree(0, self.keys.num_tokens))

    @property
    def bipartite(self) -> bool:
        """Whether keys are other tokens than queries."""
        return self.keys is not self.queries

    @property
    def bound(self) -> TokenGraph:
        """The graph that was bound, of which this one is a copy with other edge data, or itself."""
        return self._make("query_side", lambda: Side(self.queries, self)).graph

    @property
    def query_side(self) -> Side:
        """What a score may know of the queries."""
        side = self._make("query_side", lambda: Side(self.queries, self))
        # A graph with other edge data shares what is made, but not the data.
        return side if side.graph is self else Side(self.queries, self)

    @property
    def key_side(self) -> Side:
        """What a score may know of the keys; the same as of the queries unless bipartite."""
        if not self.bipartite:
            return self.query_side
        side = self._make("key_side", lambda: Side(self.keys, self))
        return side if side.graph is self else Side(self.keys, self)

    def edge_pair(self, num_heads: int, edges: Tensor | None = None) -> Pair:
        """The pairs of all edges, or of those that `edges` picks by number, each [edge, 1]."""
        index = self.edge_index if edges is None else self.edge_index.index_select(1, edges)
        named = [name for name, given in self.edge_data.items() if given.values is not None]
        data = {name: self.edge_values(name) for name in named}
        if edges is not None:
            data = {name: value.index_select(0, edges) for name, value in data.items()}
        query, key = index[1].unsqueeze(-1), index[0].unsqueeze(-1)
        return Pair(query, key, self.queries, self.keys, data, num_heads)

    # ---- edge data ----

    def edge_values(self, name: str) -> Float[Tensor, "edge dim"]:
        """The edge data `name` in the order of `edge_index`; added edges have `missing`."""
        value = edges_of.find(name, self.edge_data)
        if self.repeats:
            return value.known
        found = self._make(f"match:{name}", lambda: edges_of.match(value, self))
        return self._keep((name, "edges"), value, lambda: edges_of.spread(value, found, self))

    def edge_values_of(self, name: str) -> EdgeValues:
        """The edge data as it was given, ids counting virtual tokens.

        Raises:
            ValueError: if there is none of this name, or it has no values; known names are listed.
        """
        return edges_of.find(name, self.edge_data)

    def with_edge_data(self, **values: Tensor) -> TokenGraph:
        """The same graph with new values, in the given edge order; they may require gradients.

        Raises:
            ValueError: if a name is unknown or values do not fit its edges.
        """
        # Made here, they are of the graph that was bound, and hold none of the new values.
        _ = self.query_side, self.key_side
        graph = TokenGraph(self.topology, self.queries, self.keys, self.edge_data)
        graph.plans, graph.unasked = self.plans, self.unasked
        graph._made, graph.repeats = self._made, self.repeats
        for name, given in values.items():
            old = edges_of.find(name, self.edge_data)
            graph.edge_data[name] = edges_of.check(name, old._replace(values=given))
        graph._values = {
            place: value for place, value in self._values.items() if place[0] not in values
        }
        return graph

    @property
    def rectangle(self) -> Rectangle:
        """The graph as a padded rectangle with a mask."""
        return self._make("rectangle", self._lay_out)

    # ---- elsewhere ----

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TokenGraph:
        """The same graph with all it holds on `device`."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TokenGraph:
        """The same graph in page-locked memory."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    @property
    def device(self) -> torch.device:
        return self.queries.device

    def to_networkx(self) -> networkx.DiGraph:
        """The graph with an edge key -> query for each pair; see `graphformer.drawing`."""
        from graphformer.drawing import to_networkx

        return to_networkx(self)

    def draw(self, axes: Axes | None = None) -> Axes:
        """A picture: nodes and links where small, the adjacency matrix where large."""
        from graphformer.drawing import draw

        return draw(self, axes)

    def __repr__(self) -> str:
        return (
            f"TokenGraph({self.topology!r}: {self.queries.num_tokens} queries, "
            f"{self.keys.num_tokens} keys, {self.queries.num_examples} examples)"
        )

    def __getstate__(self) -> dict[str, Any]:
        # Plans name modules of this process; values are made again from the edge data.
        return {**self.__dict__, "plans": {}, "unasked": deque(), "_values": {}}

    def _make(self, name: str, make: Callable[[], Any]) -> Any:
        if name in self._made:
            return self._made[name]
        # What a validation makes under inference mode, training must be able to use.
        with torch.inference_mode(False):
            made = make()
        # Compiled code that changes a graph would be compiled anew for the changed one. Of two
        # threads that come at once the first one's serves both.
        return made if torch.compiler.is_compiling() else self._made.setdefault(name, made)

    def _move_queries(self, at: Tensor) -> None:
        """Puts the queries at other positions, in place, and forgets what was made of the old."""
        self.queries.at.copy_(at)
        for name in [name for name in self._made if name.startswith("at query:")]:
            del self._made[name]

    def _keep(
        self, place: tuple[str, str], value: EdgeValues, make: Callable[[], Tensor]
    ) -> Tensor:
        """What `make` makes of edge data, once; anew where they change or may want gradients."""
        return edges_of.keep(self._values, place, value, make)

    def _lay_out(self) -> Rectangle:
        from graphformer.rectangle import make_rectangle

        return make_rectangle(self)

    def _count(self) -> int:
        if "edge_index" in self._made:
            return self._made["edge_index"].shape[1]
        return self.topology.count_edges(self.queries, self.keys)

    def _list(self) -> Tensor:
        return torch.stack(self.topology.list_edges(self.queries, self.keys))

    def _degree(self, row: int, size: int) -> Tensor:
        return torch.bincount(self.edge_index[row], minlength=size)

    def _sort_by_query(self) -> CompressedRows:
        key, query = self.edge_index
        # Who has the edges may have changed them: kernels would read what is not there.
        edges_of.check_range(self.edge_index, self.queries.num_tokens, self.keys.num_tokens)
        return compress(query, key, self.queries.num_tokens, self.keys.num_tokens)

    def _sort_by_key(self) -> CompressedRows:
        ptr, query, place = self.transposed
        return CompressedRows(ptr, query, self.csr.order[place.long()])

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> TokenGraph:
        memo: dict[int, Any] = {}
        graph = TokenGraph(
            map_tensors(self.topology, change, memo),
            map_tensors(self.queries, change, memo),
            map_tensors(self.keys, change, memo),
            map_tensors(self.edge_data, change, memo),
        )
        # Sides and parts of the graph belong to this one: the other makes its own.
        kept = {k: v for k, v in self._made.items() if not isinstance(v, Side | TokenGraph)}
        graph._made = map_tensors(kept, change, memo)
        graph.repeats = self.repeats
        return graph


def _one_example(size: int, device: torch.device) -> Layout:
    ptr = torch.tensor([0, size], device=device)
    at = torch.arange(size, device=device).unsqueeze(1)
    return Layout(ptr, at, torch.tensor([size]), 0, True)
