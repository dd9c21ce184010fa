"""What every topology answers, and the algebra that joins them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.layout import Layout, Pair
from graphformer.topology import counting

if TYPE_CHECKING:
    from graphformer.edge_data import EdgeValues
    from graphformer.graph import TokenGraph
    from graphformer.tokens import Tokens
    from graphformer.topology.band import Band


class Topology(ABC):
    """Who may attend to whom: a set of (query, key) pairs, the same kind of set for every example.

    Sets join with `|` (union), `&` (intersection) and `-` (difference); `.T` exchanges queries and
    keys. Topologies are immutable; rules with the same notation are equal. A new leaf is a frozen
    dataclass with `contains` and `list_edges`; for a one-off rule there is `where(predicate)`.
    """

    # How tightly the notation binds: `|` 1, `&` 2, `-` 3, anything else 4, as in Python.
    precedence: ClassVar[int] = 4

    @abstractmethod
    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        """Whether each pair is in the set; both of a pair are of one example."""

    @abstractmethod
    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        """The pairs of a batch as flat ids (key, query), each once.

        Rules list by ascending query, then by ascending key position; given edges come in their
        order; `A | B` lists A, then what of B is not in A.
        """

    def count_edges(self, queries: Layout, keys: Layout) -> int:
        """Number of pairs of a batch: in closed form where there is one, else by listing."""
        if self.closed_form is not None and queries.contiguous and keys.contiguous:
            return counting.count(self.closed_form, queries, keys)
        return self.list_edges(queries, keys)[0].shape[0]

    def listing_cost(self, queries: Layout, keys: Layout) -> int:
        """Number of pairs that `list_edges` goes through: at least the number of edges."""
        if self.closed_form is not None:
            return counting.count(self.closed_form, queries, keys)
        return self.count_edges(queries, keys)

    def resolve(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Topology:
        """The same topology with names, features and ids turned into checked edges of the batch.

        Args:
            queries: where the queries stand.
            keys: where the keys stand.
            edge_index_by_name: what `edges("name")` means: ids of the batch's flat tokens without
                virtual ones.

        Raises:
            ValueError: if a name is unknown, or edges do not fit the tokens.
        """
        return self

    def bind(
        self,
        queries: Tokens | Layout,
        keys: Tokens | Layout | None = None,
        **edge_data: EdgeValues | Tensor,
    ) -> TokenGraph:
        """The graph of these pairs over the tokens of a batch, to be passed to every layer.

        Args:
            queries: the tokens that receive.
            keys: the tokens that send; left out, the queries.
            edge_data: `EdgeValues(edge_index, values)` by name, for `edges("name")` and for scores.

        Raises:
            TypeError: if queries or keys are no tokens.
            ValueError: if tokens or edges do not fit each other.
        """
        from graphformer.graph import TokenGraph

        return TokenGraph.bind(self, queries, keys, **edge_data)

    @staticmethod
    def parse(text: str) -> Topology:
        """The topology that `text` writes, such as `"window(8) | global_tokens(1)"`.

        The notation is that of `repr`. Nothing is evaluated: the text is read as a syntax tree of
        the public names, numbers and strings.

        Raises:
            ValueError: if the text cannot be read, or names what holds data.
        """
        from graphformer.topology.notation import parse

        return parse(text)

    # ---- the algebra ----

    def __or__(self, other: Topology) -> Topology:
        from graphformer.topology.operators import Union

        return Union(self, _checked(other, "|"))

    def __and__(self, other: Topology) -> Topology:
        from graphformer.topology.operators import Intersection

        return Intersection(self, _checked(other, "&"))

    def __sub__(self, other: Topology) -> Topology:
        from graphformer.topology.operators import Difference

        return Difference(self, _checked(other, "-"))

    @property
    def T(self) -> Topology:  # noqa: N802 - the name that every matrix library has
        """The set with queries and keys exchanged."""
        from graphformer.topology.operators import Transpose

        return Transpose(self)

    def transposed(self) -> Topology:
        """The same set as `.T`, as a leaf of its own where there is one."""
        return self.T

    def __bool__(self) -> bool:
        raise TypeError(
            "a topology is neither true nor false: write | & - where you wrote or, and, not"
        )

    # ---- what backends ask ----

    @property
    def depends_on_size(self) -> bool:
        """Whether the pairs are known only for whole examples: a decoder cannot go on by them."""
        return False

    @cached_property
    def closed_form(self) -> counting.Form | None:
        """The set as a signed sum of terms that are counted without listing, or None."""
        return None

    def as_band(self) -> Band | None:
        """The set as one band, where it is one: `causal() & window(8)` is."""
        from graphformer.topology.band import Band

        return Band.of_form(self.closed_form)

    @property
    def is_complete(self) -> bool:
        """Whether this is `complete()`, however it is written."""
        from graphformer.topology.band import complete

        return self.as_band() == complete()

    @property
    def is_causal(self) -> bool:
        """Whether this is `causal()`, however it is written."""
        from graphformer.topology.band import causal

        return self.as_band() == causal()

    def union_parts(self) -> tuple[Topology, ...]:
        """Topologies whose union this is, bands as bands; `(A | B) & band` has two parts."""
        band = self.as_band()
        return self._parts() if band is None else (band,)

    def _parts(self) -> tuple[Topology, ...]:
        return (self,)


def _checked(other: object, symbol: str) -> Topology:
    if isinstance(other, Topology):
        return other
    what, hint = f"a {type(other).__name__}", "edges(edge_index) for given edges"
    if callable(other):
        what = f"the function {getattr(other, '__name__', other)}"
        hint = "call it, such as causal(), or where(predicate) for a rule of your own"
    raise TypeError(f"{symbol} joins two topologies, its right side is {what}: write {hint}")
