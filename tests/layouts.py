"""Layouts of small batches, and the sets of pairs that `contains` says, for tests of topologies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st

from graphformer.layout import Layout, Pair
from graphformer.topology import (
    Topology,
    causal,
    complete,
    expander,
    global_tokens,
    grid,
    log_sparse,
    self_loops,
    strided,
    where,
    window,
)

SIDE = 3  # Examples have at most SIDE * SIDE tokens, which then stand on a square.
EMPTY_SLOT = 2**30


def make_layout(
    lengths: Sequence[int], num_virtual: int = 0, positions: Sequence[int] | None = None
) -> Layout:
    """Examples of so many tokens, virtual ones not counted; on axes 1 and 2 stands a square."""
    ptr = torch.tensor([0, *(length + num_virtual for length in lengths)]).cumsum(0)
    index = [torch.arange(-num_virtual, length) for length in lengths]
    at = torch.cat([torch.zeros(0, dtype=torch.int64), *index])
    square = torch.where(at[:, None] < 0, at[:, None], torch.stack([at // SIDE, at % SIDE], 1))
    if positions is not None:
        at = torch.tensor(positions, dtype=torch.int64)
    at = torch.cat([at[:, None], square], 1)
    counted = positions is None
    return Layout(ptr, at, ptr.diff(), num_virtual, counted)


def pairs_of_example(queries: Layout, keys: Layout, example: int) -> Pair:
    """All pairs of one example as a rectangle [1, query, key, 1]."""
    query = torch.arange(int(queries.ptr[example]), int(queries.ptr[example + 1]))
    key = torch.arange(int(keys.ptr[example]), int(keys.ptr[example + 1]))
    return Pair(query.view(1, -1, 1, 1), key.view(1, 1, -1, 1), queries, keys)


def contained(topology: Topology, queries: Layout, keys: Layout) -> set[tuple[int, int]]:
    """The pairs (key, query) that the topology says it contains, each asked for."""
    found = set()
    for example in range(queries.num_examples):
        pair = pairs_of_example(queries, keys, example)
        inside = topology.contains(pair)
        assert inside.dtype == torch.bool
        inside, query, key = torch.broadcast_tensors(inside, pair.query, pair.key)
        found |= set(zip(key[inside].tolist(), query[inside].tolist(), strict=True))
    return found


def listed(topology: Topology, queries: Layout, keys: Layout) -> set[tuple[int, int]]:
    """The pairs (key, query) that the topology lists, each once."""
    key, query = topology.list_edges(queries, keys)
    assert key.dtype == query.dtype == torch.int64
    edges = list(zip(key.tolist(), query.tolist(), strict=True))
    assert len(set(edges)) == len(edges), "an edge is listed twice"
    return set(edges)


def same_parity(pair: Pair) -> torch.Tensor:
    return pair.distance % 2 == 0


lengths = st.lists(st.integers(0, SIDE * SIDE), min_size=1, max_size=3)
rules = st.one_of(
    st.sampled_from(
        [complete(), causal(), self_loops(), log_sparse(), where(same_parity), strided(3)]
        + [grid((SIDE, SIDE), radius) for radius in range(3)]
    ),
    st.builds(window, st.integers(0, 4), st.integers(1, 3)),
    st.builds(global_tokens, st.integers(0, 4)),
)
expanders = st.builds(expander, st.integers(1, 5), st.integers(0, 3))


def joined(leaves: st.SearchStrategy[Topology]) -> st.SearchStrategy[Topology]:
    """Whatever the algebra makes of the leaves."""
    return st.recursive(
        leaves,
        lambda part: st.one_of(
            st.builds(lambda left, right: left | right, part, part),
            st.builds(lambda left, right: left & right, part, part),
            st.builds(lambda left, right: left - right, part, part),
            st.builds(lambda operand: operand.T, part),
        ),
        max_leaves=5,
    )
