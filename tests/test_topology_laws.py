"""A topology is a set: what it contains, it lists and counts, and the laws of sets hold."""

from __future__ import annotations

import pickle

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
    EMPTY_SLOT,
    SIDE,
    contained,
    expanders,
    joined,
    lengths,
    listed,
    make_layout,
    pairs_of_example,
    rules,
    same_parity,
)

from graphformer.layout import Layout, Pair, map_tensors
from graphformer.topology import (
    Band,
    Block,
    Topology,
    causal,
    complete,
    edges,
    expander,
    global_tokens,
    hops,
    log_sparse,
    self_loops,
    strided,
    where,
    window,
)

few = settings(max_examples=30)
virtual = st.integers(0, 2)


@st.composite
def bipartite(draw: st.DrawFn) -> tuple[Layout, Layout]:
    """Queries and keys of the same examples, each of its own length."""
    query_lengths = draw(lengths)
    key_lengths = draw(
        st.lists(st.integers(0, 9), min_size=len(query_lengths), max_size=len(query_lengths))
    )
    return make_layout(query_lengths, draw(virtual)), make_layout(key_lengths, draw(virtual))


@st.composite
def scattered(draw: st.DrawFn) -> tuple[Layout, Layout]:
    """A decoder: queries and keys at any positions, keys with empty slots."""
    sides = []
    sizes = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=3))
    for side in range(2):
        positions: list[int] = []
        for size in sizes:
            length = size[side]
            found = draw(
                st.lists(st.integers(0, 12), min_size=length, max_size=length, unique=True)
            )
            empty = draw(st.integers(0, length)) if side else 0
            positions += found[empty:] + [EMPTY_SLOT] * empty
        sides.append(make_layout([size[side] for size in sizes], positions=positions))
    return sides[0], sides[1]


def random_edges(queries: Layout, keys: Layout, seed: int, share: float = 0.3) -> torch.Tensor:
    """Some pairs of each example in random order, as ids that do not count virtual tokens."""
    random = np.random.default_rng(seed)
    real_query = queries.at[:, 0].ge(0).cumsum(0) - 1
    real_key = keys.at[:, 0].ge(0).cumsum(0) - 1
    inside = (complete() & window(99)).list_edges(queries, keys)
    chosen = torch.from_numpy(random.random(len(inside[0])) < share)
    shuffled = torch.from_numpy(random.permutation(int(chosen.sum())))
    return torch.stack([real_key[inside[0][chosen]], real_query[inside[1][chosen]]])[:, shuffled]


@few
@given(joined(st.one_of(rules, expanders)), lengths, virtual)
def test_lists_and_counts_what_it_contains(
    topology: Topology, sizes: list[int], num_virtual: int
) -> None:
    tokens = make_layout(sizes, num_virtual)
    expected = contained(topology, tokens, tokens)
    assert listed(topology, tokens, tokens) == expected
    assert topology.count_edges(tokens, tokens) == len(expected)
    assert topology.listing_cost(tokens, tokens) >= len(expected)


@few
@given(joined(rules), bipartite())
def test_lists_and_counts_what_it_contains_between_two_sets(
    topology: Topology, sides: tuple[Layout, Layout]
) -> None:
    expected = contained(topology, *sides)
    assert listed(topology, *sides) == expected
    assert topology.count_edges(*sides) == len(expected)


@few
@given(joined(rules), scattered())
def test_lists_and_counts_what_it_contains_at_any_positions(
    topology: Topology, sides: tuple[Layout, Layout]
) -> None:
    expected = contained(topology, *sides)
    assert listed(topology, *sides) == expected
    assert topology.count_edges(*sides) == len(expected)


@few
@given(joined(rules), bipartite(), st.integers(0, 9))
def test_given_edges_join_rules_as_sets(
    rule: Topology, sides: tuple[Layout, Layout], seed: int
) -> None:
    given_edges = edges(random_edges(*sides, seed))
    for topology in (
        given_edges | rule,
        rule & given_edges,
        given_edges - rule,
        rule - given_edges,
    ):
        resolved = topology.resolve(*sides, {})
        expected = contained(topology, *sides)
        assert contained(resolved, *sides) == expected
        assert listed(resolved, *sides) == expected
        assert resolved.count_edges(*sides) == len(expected)


@settings(max_examples=20)
@given(rules, rules | joined(rules), rules, bipartite())
def test_laws_of_sets_hold(
    a: Topology, b: Topology, c: Topology, sides: tuple[Layout, Layout]
) -> None:
    def same(left: Topology, right: Topology) -> None:
        assert listed(left, *sides) == listed(right, *sides)
        assert left.count_edges(*sides) == right.count_edges(*sides)

    everything = complete()
    same(a | b, b | a)
    same(a & b, b & a)
    same((a | b) | c, a | (b | c))
    same((a | b) & c, (a & c) | (b & c))
    same(a - b, a & (everything - b))
    same(everything - (a | b), (everything - a) & (everything - b))
    same(everything - (a & b), (everything - a) | (everything - b))
    same(a | a, a)
    same(a - a, everything - everything)
    same((a | b).T, a.T | b.T)
    same((a & b).T, a.T & b.T)
    same((a - b).T, a.T - b.T)
    same(a.T.T, a)
    same(a.transposed(), a.T)


@few
@given(joined(rules), bipartite())
def test_transpose_exchanges_queries_and_keys(
    topology: Topology, sides: tuple[Layout, Layout]
) -> None:
    queries, keys = sides
    exchanged = {(query, key) for key, query in listed(topology, keys, queries)}
    assert listed(topology.T, queries, keys) == exchanged
    assert contained(topology.T, queries, keys) == exchanged


@few
@given(joined(st.one_of(rules, expanders)), lengths, virtual)
def test_a_batch_is_the_block_diagonal_of_its_examples(
    topology: Topology, sizes: list[int], num_virtual: int
) -> None:
    alone = set()
    for example, size in enumerate(sizes):
        start = sum(sizes[:example]) + example * num_virtual
        tokens = make_layout([size], num_virtual)
        alone |= {(key + start, query + start) for key, query in listed(topology, tokens, tokens)}
    batch = make_layout(sizes, num_virtual)
    assert listed(topology, batch, batch) == alone


@few
@given(rules, bipartite())
def test_rules_list_by_query_and_then_by_key_position(
    rule: Topology, sides: tuple[Layout, Layout]
) -> None:
    for topology in (rule, rule.T):
        key, query = topology.list_edges(*sides)
        edges_in_order = list(zip(query.tolist(), key.tolist(), strict=True))
        assert edges_in_order == sorted(edges_in_order)


@few
@given(joined(rules), lengths)
def test_rectangles_of_counted_positions_agree_with_lists(
    topology: Topology, sizes: list[int]
) -> None:
    tokens = make_layout([max(sizes)] * len(sizes))
    ids = torch.arange(tokens.num_tokens).view(len(sizes), -1)
    pair = Pair(ids[:, :, None, None], ids[:, None, :, None], tokens, tokens, counted=True)
    rectangle = pair.query + pair.key
    inside = topology.contains(pair).expand(rectangle.shape).squeeze(-1)
    example, _, key = inside.nonzero(as_tuple=True)
    query = inside.nonzero(as_tuple=True)[1]
    found = set(zip(ids[example, key].tolist(), ids[example, query].tolist(), strict=True))
    assert found == listed(topology, tokens, tokens)


@few
@given(joined(rules), lengths, virtual)
def test_union_parts_join_to_the_whole(
    topology: Topology, sizes: list[int], num_virtual: int
) -> None:
    tokens = make_layout(sizes, num_virtual)
    parts = topology.union_parts()
    together = set().union(*(listed(part, tokens, tokens) for part in parts))
    assert together == listed(topology, tokens, tokens)
    assert all(part.as_band() is None or isinstance(part, Band) for part in parts)


@few
@given(rules, st.integers(1, 9), virtual)
def test_a_decoder_sees_the_row_of_its_token(rule: Topology, length: int, num_virtual: int) -> None:
    """One new token over a cache with empty slots has the keys it has in the whole example."""
    topology = rule & causal()
    whole = make_layout([length], num_virtual)
    rows = contained(topology, whole, whole)
    spare = 3
    cache = list(range(-num_virtual, length)) + [EMPTY_SLOT] * spare
    keys = make_layout([length + spare], num_virtual, positions=cache)
    for position in range(length):
        at = torch.tensor([[position, position // SIDE, position % SIDE]])
        query = Layout(torch.tensor([0, 1]), at, torch.tensor([1]), num_virtual, False)
        expected = {(key, 0) for key, row in rows if row == position + num_virtual}
        assert listed(topology, query, keys) == expected
        assert contained(topology, query, keys) == expected


def test_tensors_of_a_topology_are_changed_through_all_operators() -> None:
    tokens = make_layout([3])
    topology = (edges(torch.tensor([[0], [2]])) - self_loops()).T.resolve(tokens, tokens, {})
    copied = map_tensors(topology, torch.clone, {})
    assert copied is not topology
    assert listed(copied, tokens, tokens) == listed(topology, tokens, tokens) == {(2, 0)}
    rule = window(2) | global_tokens(1)
    assert map_tensors(rule, torch.clone, {}) is rule


def test_bands_that_meet_are_a_band() -> None:
    assert (causal() & window(8)).as_band() == Band(-8, 0, skips_virtual=True)
    assert (window(8, dilation=2) & strided(3)).as_band() == Band(-12, 12, 6, skips_virtual=True)
    assert (causal() & causal().T).as_band() == self_loops()
    assert (window(2) | window(5)).as_band() == window(5)
    assert (complete() - causal()).as_band() is None
    assert global_tokens(1).as_band() is None


def test_complete_and_causal_are_known_however_they_are_written() -> None:
    assert complete().is_complete
    assert (causal() & complete()).is_causal
    assert (causal() | complete()).is_complete
    assert causal().T.T.is_causal
    for other in (causal().T, window(3), strided(1), global_tokens(9), causal() & window(3)):
        assert not other.is_complete
        assert not other.is_causal


def test_parts_of_a_decoder_topology_are_bands_and_blocks() -> None:
    longformer = window(4) | global_tokens(2)
    assert longformer.union_parts() == (window(4), Block(2))
    assert longformer.T.union_parts() == (window(4), Block(2))
    assert (longformer & causal()).union_parts() == (
        Band(-4, 0, skips_virtual=True),
        Block(2) & causal(),
    )
    assert (window(4) | expander(3) | causal()).union_parts() == (window(4), expander(3), causal())


def test_what_depends_on_the_size_says_so() -> None:
    data = edges(torch.tensor([[0], [0]]))
    for topology in (expander(3), edges("bond"), data, hops("bond", 2), window(1) | expander(3).T):
        assert topology.depends_on_size
    for topology in (complete(), window(1) | global_tokens(1), log_sparse().T, where(same_parity)):
        assert not topology.depends_on_size


def test_rules_are_equal_by_notation_and_edges_by_identity() -> None:
    assert window(8) | global_tokens(1) == window(8) | global_tokens(1)
    assert len({causal(), causal() & window(2), causal(), Band(high=0)}) == 2
    assert window(8) != window(8, dilation=2)
    assert edges("bond") == edges("bond")
    edge_index = torch.tensor([[0], [1]])
    given_edges = edges(edge_index)
    assert given_edges == given_edges
    assert given_edges != edges(edge_index)


@few
@given(joined(st.one_of(rules, expanders)))
def test_topologies_pickle(topology: Topology) -> None:
    assert pickle.loads(pickle.dumps(topology)) == topology


def test_pairs_of_many_examples_are_answered_at_once() -> None:
    tokens = make_layout([2, 4, 3])
    pair = pairs_of_example(tokens, tokens, 1)
    assert expander(2).contains(pair).shape == (1, 4, 4, 1)
    assert window(1).contains(pair).shape == (1, 4, 4, 1)
