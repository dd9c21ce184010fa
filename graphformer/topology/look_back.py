"""Which keys a decoder may forget: those that no query still to come can hear."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.topology.algebra import Topology


def may_be_heard(
    topology: Topology, keys: Int[Tensor, "example key"], query: Int[Tensor, "example"]
) -> Bool[Tensor, "example key"] | None:
    """Which keys a query at `query`, or behind it, may hear; None where all may be heard for ever.

    A topology without a closed form, such as `where(predicate)`, may hear anything.

    Args:
        topology: who attends to whom, no query to a key that follows it.
        keys: positions of keys.
        query: position of the next query of each example.
    """
    form = topology.closed_form
    if form is None:
        return None
    # The set is a signed sum of terms: where no positive one holds, there is no pair.
    terms = [term for term, sign in form.items() if sign > 0]
    heard = torch.zeros_like(keys, dtype=torch.bool)
    first = query.unsqueeze(1)
    for term in terms:
        low = term.low
        if term.distances is not None:
            reach = min(term.distances, default=0)
            low = reach if low is None else max(low, reach)
        if low is None and term.num_global is None:
            return None
        inside = torch.ones_like(heard) if low is None else keys >= first + low
        if term.num_global is not None:
            # A query beyond the global tokens hears these alone.
            inside = inside & ((keys < term.num_global) | (first < term.num_global))
        heard = heard | inside
    return heard
