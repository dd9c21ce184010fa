"""Edges of ragged examples listed by index arithmetic, in time proportional to their number."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from graphformer.layout import Layout, Pair

# Further than any two positions are apart.
FAR = 2**40
# Positions of one example lie within half of this, so that example * SPAN + position sorts by both.
SPAN = 2**33


def list_ranges(
    query: Int[Tensor, "range"],
    first: Int[Tensor, "range"],
    last: Int[Tensor, "range"],
    queries: Layout,
    keys: Layout,
    *,
    step: int = 1,
    skips_virtual: bool = False,
) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
    """Edges (key, query) from every key at `first`, `first + step`, ... up to `last`.

    Range by range, and in each by ascending key position.

    Args:
        query: flat id of the query of each range.
        first: a key position, which need not exist.
        last: a key position, which need not exist.
        queries: where the queries stand.
        keys: where the keys stand.
        step: positions from one key to the next.
        skips_virtual: leave out edges from or to virtual tokens.
    """
    if skips_virtual:
        real = queries.at[query, 0] >= 0
        query, first, last = query[real], first[real], last[real]
    example = queries.example[query]
    if not keys.contiguous:
        lowest = 0 if skips_virtual else -FAR
        return _list_sorted(query, example, first, last, keys, step, lowest)
    lowest = 0 if skips_virtual else -keys.num_virtual
    first = torch.where(first < lowest, lowest + (first - lowest) % step, first)
    last = torch.minimum(last, keys.ptr.diff()[example] - keys.num_virtual - 1)
    count = ((last - first).div(step, rounding_mode="floor") + 1).clamp(min=0)
    start = keys.ptr[example] + keys.num_virtual + first
    return expand(query, start, count, step)


def expand(
    query: Int[Tensor, "range"],
    start: Int[Tensor, "range"],
    count: Int[Tensor, "range"],
    step: int = 1,
) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
    """Pairs (key, query): to each query `count` keys from `start` on, `step` apart."""
    num_edges = int(count.sum())
    before = count.cumsum(0) - count
    base = torch.repeat_interleave(start - step * before, count, output_size=num_edges)
    key = torch.arange(num_edges, device=query.device).mul_(step).add_(base)
    return key, torch.repeat_interleave(query, count, output_size=num_edges)


def sort_by_query(
    key: Int[Tensor, "edge"], query: Int[Tensor, "edge"]
) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
    """The same edges by ascending query, and for each query by ascending key."""
    order = torch.argsort(key, stable=True)
    order = order[torch.argsort(query[order], stable=True)]
    return key[order], query[order]


def edge_pair(edges: tuple[Tensor, Tensor], queries: Layout, keys: Layout) -> Pair:
    """The pairs of listed edges (key, query), [edge, 1]."""
    key, query = edges
    return Pair(query.unsqueeze(1), key.unsqueeze(1), queries, keys)


def _list_sorted(
    query: Tensor,
    example: Tensor,
    first: Tensor,
    last: Tensor,
    keys: Layout,
    step: int,
    lowest: int,
) -> tuple[Tensor, Tensor]:
    """The same for keys at any positions: found in their order by (example, position)."""
    codes, order = torch.sort(_code(keys.example, keys.at[:, 0]), stable=True)
    start = torch.searchsorted(codes, _code(example, first.clamp(min=lowest)))
    stop = torch.searchsorted(codes, _code(example, last), right=True)
    count = (stop - start).clamp(min=0)
    place, query = expand(query, start, count)
    key = order[place]
    if step > 1:
        anchor = torch.repeat_interleave(first, count, output_size=key.shape[0])
        kept = (keys.at[key, 0] - anchor) % step == 0
        key, query = key[kept], query[kept]
    return key, query


def _code(example: Tensor, position: Tensor) -> Tensor:
    half = SPAN // 2
    return example * SPAN + position.clamp(-half, half - 1) + half
