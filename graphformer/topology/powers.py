"""Keys whose distances grow as the powers of two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.layout import Layout, Pair
from graphformer.topology import counting
from graphformer.topology.algebra import Topology
from graphformer.topology.band import are_real
from graphformer.topology.listing import FAR, expand, list_ranges

_DISTANCES = (0, *(2**exponent for exponent in range(40)))


@dataclass(frozen=True, repr=False)
class Powers(Topology):
    """Keys 0, 1, 2, 4, 8, ... tokens before the query, or after it.

    Attributes:
        after: the keys stand after the query.
    """

    after: bool = False

    @cached_property
    def closed_form(self) -> counting.Form | None:
        sign = 1 if self.after else -1
        distances = frozenset(sign * distance for distance in _DISTANCES)
        return {counting.Term(skips_virtual=True, distances=distances): 1}

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        distance = pair.distance if self.after else -pair.distance
        is_power = (distance >= 0) & (distance & (distance - 1) == 0)
        return is_power & are_real(pair)

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        query = torch.arange(queries.num_tokens, device=queries.device)
        distances = torch.tensor(_DISTANCES, device=queries.device)
        room = queries.at[:, 0].contiguous()
        if self.after:
            end = keys.ptr.diff()[queries.example] - keys.num_virtual - 1
            room = end - room if keys.contiguous else torch.full_like(room, FAR)
        count = torch.searchsorted(distances, room, right=True)
        index, query = expand(query, torch.zeros_like(count), count)
        if not self.after:
            index = count[query] - 1 - index
        distance = distances[index] if self.after else -distances[index]
        position = queries.at[query, 0] + distance
        return list_ranges(query, position, position, queries, keys, skips_virtual=True)

    def transposed(self) -> Topology:
        return Powers(not self.after)

    def __repr__(self) -> str:
        return "log_sparse().T" if self.after else "log_sparse()"


def log_sparse() -> Powers:
    """Every token attends to itself and to those 1, 2, 4, 8, ... tokens before it.

    Virtual tokens are left out. Source: Li et al. 2019 (LogSparse Transformer), section 4.2.
    """
    return Powers()
