"""Functions of a user's own look at edges only, in rectangles where some pairs are none.

What is infinite or no number at a pair that is no edge (the logarithm of a distance of zero, say)
would spoil sums and gradients, whatever multiplies it with zero afterwards. So such a pair is shown
as one of the edges.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graphformer.layout import Pair

Mask = Bool[Tensor, "_ _ _"]


def only_edges(pair: Pair, mask: Mask) -> Pair:
    """The pairs [example, row, column, 1] of a rectangle, with an edge in place of each non-edge.

    Args:
        pair: the pairs.
        mask: which of them are edges.
    """
    ids = (pair.query.squeeze(-1), pair.key.squeeze(-1))
    mask = mask.expand(torch.broadcast_shapes(mask.shape, *(given.shape for given in ids)))
    edge = _an_edge(mask)
    query, key = (
        torch.where(mask, given, given.expand(mask.shape).flatten()[edge]).unsqueeze(-1)
        for given in ids
    )
    data = {name: only_values(values, mask) for name, values in pair.edge_data.items()}
    return replace(pair, query=query, key=key, edge_data=data, counted=False)


def only_values(values: Float[Tensor, "_ _ _ dim"], mask: Mask) -> Float[Tensor, "_ _ _ dim"]:
    """The values of pairs, with those of an edge in place of those of each non-edge."""
    shape = torch.broadcast_shapes(mask.shape, values.shape[:-1])
    mask, values = mask.expand(shape), values.expand(*shape, -1)
    other = values.flatten(0, 2).index_select(0, _an_edge(mask).view(1))
    return torch.where(mask.unsqueeze(-1), values, other)


def _an_edge(mask: Mask) -> Int[Tensor, ""]:
    """The place of the first edge, without waiting for a GPU to say which."""
    return mask.flatten().to(torch.uint8).argmax()
