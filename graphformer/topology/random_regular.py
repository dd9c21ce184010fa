"""Random graphs of few edges through which everything is near everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.layout import Layout, Pair
from graphformer.topology.algebra import Topology
from graphformer.topology.arguments import whole_number


@dataclass(frozen=True, repr=False)
class Expander(Topology):
    """A random undirected graph on the tokens of each example that are not virtual.

    Attributes:
        degree: neighbors of a token; fewer where random edges coincide.
        seed: of the random graph; with an example's size it determines the edges.
    """

    degree: int
    seed: int = 0

    @property
    def depends_on_size(self) -> bool:
        return True

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        table, start = self._tables(pair.queries, pair.keys)
        position, key = pair.query_position(), pair.key_position()
        row = start[pair.queries.example[pair.query]] + position
        row = row.clamp(0, table.shape[0] - 1)
        inside = torch.zeros((), dtype=torch.bool, device=key.device)
        for neighbor in table.unbind(1):
            inside = inside | (neighbor[row] == key)
        return inside & (position >= 0) & (key >= 0)

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        table, start = self._tables(queries, keys)
        query = (queries.at[:, 0] >= 0).nonzero().squeeze(1)
        example = queries.example[query]
        key = table[start[example] + queries.at[query, 0]]
        there = key >= 0
        first = keys.ptr[example] + keys.num_virtual
        return (key + first[:, None])[there], query[:, None].expand_as(key)[there]

    def listing_cost(self, queries: Layout, keys: Layout) -> int:
        return queries.num_tokens * self.degree

    def resolve(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Topology:
        self._check(queries, keys)
        return self

    def transposed(self) -> Topology:
        return self

    def _tables(self, queries: Layout, keys: Layout) -> tuple[Tensor, Tensor]:
        """Neighbors [row, degree] for all sizes of the batch, and each example's first row."""
        self._check(queries, keys)
        lengths = queries.lengths.numpy() - queries.num_virtual
        sizes, which = np.unique(lengths, return_inverse=True)
        tables = [_neighbors(int(size), self.degree, self.seed) for size in sizes]
        before = np.cumsum(sizes) - sizes
        # The last row stands for whatever has no row: a virtual token, a slot of padding.
        tables.append(np.full((1, self.degree), -1, dtype=np.int32))
        table = torch.from_numpy(np.concatenate(tables)).to(queries.device, torch.int64)
        return table, torch.from_numpy(before[which]).to(queries.device)

    def _check(self, queries: Layout, keys: Layout) -> None:
        sizes = queries.lengths - queries.num_virtual
        if not queries.contiguous or not keys.contiguous:
            raise ValueError(
                f"{self!r} depends on the size of the example, and these tokens are a part of one "
                "(positions do not count up from 0): a decoder that sees one new token takes rules "
                "such as window and global_tokens"
            )
        if not torch.equal(sizes, keys.lengths - keys.num_virtual):
            raise ValueError(
                f"{self!r} is a graph on one set of tokens, but queries and keys differ in length: "
                "bind it without keys"
            )

    def __repr__(self) -> str:
        seed = f", seed={self.seed}" if self.seed else ""
        return f"expander({self.degree}{seed})"


def expander(degree: int, seed: int = 0) -> Expander:
    """Every token attends to `degree` random others, through which all are a few hops apart.

    The union of `degree // 2` random cycles through all tokens, and of a random perfect matching
    where `degree` is odd; undirected, without self loops. It depends on the seed and on the number
    of tokens of an example, virtual ones left out. Source: Shirzad et al. 2023 (Exphormer).

    Args:
        degree: neighbors of a token; fewer where random edges coincide.
        seed: of the random graph.

    Raises:
        TypeError: if an argument is no whole number.
        ValueError: if `degree` is below 1, or `seed` negative.
    """
    return Expander(
        whole_number("expander", "degree", degree, 1), whole_number("expander", "seed", seed, 0)
    )


@lru_cache(maxsize=128)
def _neighbors(size: int, degree: int, seed: int) -> np.ndarray:
    """The neighbors of each token in ascending order, -1 where there are fewer, int32."""
    random = np.random.default_rng((seed, size))
    table = np.full((size, degree), -1, dtype=np.int32)
    for column in range(0, degree - 1, 2):
        cycle = random.permutation(size)
        table[cycle, column] = np.roll(cycle, 1)
        table[cycle, column + 1] = np.roll(cycle, -1)
    if degree % 2:
        left, right = random.permutation(size)[: size // 2 * 2].reshape(2, -1)
        table[left, -1], table[right, -1] = right, left
    table[table == np.arange(size)[:, None]] = -1
    table.sort(axis=1)
    table[:, 1:][table[:, 1:] == table[:, :-1]] = -1
    table.sort(axis=1)
    return table
