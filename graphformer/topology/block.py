"""Tokens that attend to all and are attended by all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.layout import Layout, Pair
from graphformer.topology import counting
from graphformer.topology.algebra import Topology
from graphformer.topology.arguments import whole_number
from graphformer.topology.listing import FAR, list_ranges


@dataclass(frozen=True, repr=False)
class Block(Topology):
    """A block of rows and a block of columns: query or key is one of the first tokens.

    Attributes:
        num_tokens: tokens from the start of each example, virtual ones first.
    """

    num_tokens: int

    @cached_property
    def closed_form(self) -> counting.Form | None:
        return {counting.Term(num_global=self.num_tokens): 1}

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        query = pair.query_position() < self.num_tokens - pair.queries.num_virtual
        return query | (pair.key_position() < self.num_tokens - pair.keys.num_virtual)

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        query = torch.arange(queries.num_tokens, device=queries.device)
        is_global = queries.at[:, 0] < self.num_tokens - queries.num_virtual
        last = torch.where(is_global, FAR, self.num_tokens - keys.num_virtual - 1)
        return list_ranges(query, torch.full_like(query, -FAR), last, queries, keys)

    def transposed(self) -> Topology:
        return self

    def __repr__(self) -> str:
        return f"global_tokens({self.num_tokens})"


def global_tokens(n: int) -> Block:
    """The first `n` tokens of each example attend to all, and all attend to them.

    Virtual tokens count first: over two virtual tokens `global_tokens(2)` is those two. Source:
    Beltagy et al. 2020 (Longformer), section 3.1.

    Args:
        n: number of tokens.

    Raises:
        TypeError: if `n` is no whole number.
        ValueError: if it is negative.
    """
    return Block(whole_number("global_tokens", "n", n, 0))
