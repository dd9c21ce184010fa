"""Long examples are counted without listing, and listed in memory proportional to their edges."""

from __future__ import annotations

import operator
from functools import reduce

import pytest
import torch
from layouts import (
    contained,
    listed,
    make_layout,
    same_parity,
)

from graphformer.layout import Layout
from graphformer.topology import (
    Band,
    Block,
    Topology,
    causal,
    complete,
    expander,
    global_tokens,
    grid,
    log_sparse,
    self_loops,
    where,
    window,
)


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        (complete(), 10**12),
        (causal(), 10**6 * (10**6 + 1) // 2),
        (window(256), 10**6 * 513 - 256 * 257),
        (causal() & window(256), 10**6 * 257 - 256 * 257 // 2),
        (global_tokens(4), 2 * 4 * 10**6 - 16),
        (self_loops(), 10**6),
        (complete() - causal(), 10**6 * (10**6 - 1) // 2),
    ],
)
def test_a_million_tokens_are_counted_without_listing(
    topology: Topology, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("listed")

    tokens = make_layout([10**6])
    for leaf in (Band, Block):
        monkeypatch.setattr(leaf, "list_edges", refuse)
    assert topology.count_edges(tokens, tokens) == expected


@pytest.mark.parametrize("num_windows", [6, 14])
def test_a_union_of_many_dilated_windows_is_counted(num_windows: int) -> None:
    """Its intersections are counted, or where they are too many its edges are."""
    tokens = make_layout([60])
    topology = reduce(operator.or_, (window(2, dilation) for dilation in range(1, num_windows)))
    expected = len(contained(topology, tokens, tokens))
    assert topology.count_edges(tokens, tokens) == expected
    assert len(listed(topology, tokens, tokens)) == expected


def test_only_what_rules_leave_is_listed_to_count_a_union() -> None:
    tokens = make_layout([300_000])
    topology = complete() | expander(3)
    assert topology.count_edges(tokens, tokens) == 300_000**2
    assert (window(9) | expander(2)).count_edges(tokens, tokens) > 300_000 * 19


@pytest.mark.parametrize(
    ("topology", "per_token"),
    [
        (window(4), 9),
        (window(4, dilation=1000), 9),
        (window(1) | global_tokens(2), 7),
        (log_sparse(), 18),
        (expander(4), 4),
        (causal() & (window(3) | global_tokens(1)), 5),
        (window(1) & where(same_parity), 1),
        (complete() & expander(2), 2),
    ],
)
def test_long_examples_are_listed_in_memory_proportional_to_their_edges(
    topology: Topology, per_token: int
) -> None:
    tokens = make_layout([200_000])
    key, query = topology.list_edges(tokens, tokens)
    assert key.shape == query.shape
    assert len(key) <= per_token * 200_000


def test_a_large_grid_is_listed_in_memory_proportional_to_its_edges() -> None:
    side = 300
    index = torch.arange(side**2)
    at = torch.stack([index, index // side, index % side], 1)
    tokens = Layout(torch.tensor([0, side**2]), at, torch.tensor([side**2]), 0, True)
    key, _ = grid((side, side), 1).list_edges(tokens, tokens)
    assert len(key) == (3 * side - 2) ** 2
