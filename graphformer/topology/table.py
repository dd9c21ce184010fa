"""Pairs that a table names: what rules of positions cannot tell apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.layout import Layout, Pair
from graphformer.topology.algebra import Topology


@dataclass(frozen=True, eq=False, repr=False)
class Table(Topology):
    """Pairs of a batch whose examples have as many keys each, one entry a pair.

    A decoder's beams are sequences of one example: where each of them stands among the keys of all,
    no position says.

    Attributes:
        entries: whether each query hears each key of its example.
        notation: how the topology is written.
    """

    entries: Bool[Tensor, "query slot"]
    notation: str

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        num_slots = self.entries.shape[1]
        return self.entries.view(-1)[pair.query * num_slots + pair.key % num_slots]

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        query, slot = self.entries.nonzero().unbind(1)
        return keys.ptr[queries.example[query]] + slot, query

    def count_edges(self, queries: Layout, keys: Layout) -> int:
        return int(self.entries.sum())

    def __repr__(self) -> str:
        return self.notation


def table_of(rule: Topology, queries: Layout, keys: Layout, heard: Tensor) -> Table:
    """The pairs of a rule that `heard` [query, slot] allows.

    Args:
        rule: of positions.
        queries: where the queries stand.
        keys: where the keys stand, as many in each example.
        heard: whether each query may hear each key of its example.
    """
    num_slots = heard.shape[1]
    query = torch.arange(queries.num_tokens, device=queries.device)
    key = keys.ptr[queries.example].unsqueeze(1) + torch.arange(num_slots, device=keys.device)
    pair = Pair(query.view(-1, 1, 1), key.unsqueeze(2), queries, keys)
    inside = rule.contains(pair).squeeze(2)
    return Table(inside & heard, f"{rule!r}, as a table")
