"""Any rule that a function of pairs can say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.layout import Layout, Pair
from graphformer.topology.algebra import Topology
from graphformer.topology.listing import edge_pair, expand

# Pairs that a predicate sees at once: 32 MiB for each int64 tensor it makes of them.
CHUNK = 2**22


@dataclass(frozen=True, repr=False)
class Where(Topology):
    """The pairs for which a function is true.

    Listing and counting go through all pairs of every example, in chunks, so that time grows with
    the squares of the lengths; intersected with a window or with edges, only through theirs.

    Attributes:
        predicate: from a `Pair` to bool [..., 1].
    """

    predicate: Callable[[Pair], Tensor]

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        inside = self.predicate(pair)
        what = f"a {type(inside).__name__}"
        if isinstance(inside, Tensor):
            if inside.dtype == torch.bool and inside.shape[-1:] == (1,):
                return inside
            what = f"{inside.dtype} of shape {list(inside.shape)}"
        raise TypeError(
            f"the predicate of {self!r} returned {what}: return torch.bool [..., 1], such as "
            "pair.distance % 2 == 0"
        )

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        """Goes through all pairs of every example, `CHUNK` at a time."""
        found = [
            torch.stack([key[inside], query[inside]])
            for key, query, inside in self._chunks(queries, keys)
        ]
        edges = torch.cat(found, 1) if found else queries.ptr.new_zeros(2, 0)
        return edges[0], edges[1]

    def count_edges(self, queries: Layout, keys: Layout) -> int:
        """The same, but none is kept."""
        return sum(int(inside.sum()) for _, _, inside in self._chunks(queries, keys))

    def _chunks(self, queries: Layout, keys: Layout) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Key and query of some pairs, and which of these are edges."""
        example = queries.example
        count = keys.ptr.diff()[example]
        start = keys.ptr[example]
        chunk_of_query = (count.cumsum(0) - count).div(CHUNK, rounding_mode="floor")
        sizes = torch.unique_consecutive(chunk_of_query, return_counts=True)[1].tolist()
        query = torch.arange(queries.num_tokens, device=queries.device)
        for part in zip(query.split(sizes), start.split(sizes), count.split(sizes), strict=True):
            key, query_of_key = expand(*part)
            pair = edge_pair((key, query_of_key), queries, keys)
            yield key, query_of_key, self.contains(pair).expand(key.shape[0], 1).squeeze(1)

    def listing_cost(self, queries: Layout, keys: Layout) -> int:
        return int((queries.lengths * keys.lengths).sum())

    def __repr__(self) -> str:
        name = getattr(self.predicate, "__name__", "...")
        return f"where({name if name.isidentifier() else '...'})"


def where(predicate: Callable[[Pair], Tensor]) -> Where:
    """Every query attends to the keys for which `predicate(pair)` is true.

    `where(lambda pair: pair.distance % 7 == 0)` joins the same weekday of a daily series. Listing
    its edges goes through all pairs, and so does counting them, as a plan does; the dense backend
    lists none. To send it to another
    process, write the predicate as a function of a module.

    Args:
        predicate: from a `Pair`, whose `distance`, `query_position(axis)` and `key_position(axis)`
            are integer [..., 1], to bool [..., 1].

    Raises:
        TypeError: if `predicate` is no function.
    """
    if not callable(predicate):
        raise TypeError(
            f"where() got a {type(predicate).__name__}: write a function of a pair, such as "
            "where(lambda pair: pair.distance % 7 == 0)"
        )
    return Where(predicate)
