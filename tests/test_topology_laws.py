"""A topology is a set: what it contains, it lists and counts, and the laws of sets hold."""

from __future__ import annotations

import operator
import pickle
from functools import reduce

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
    EMPTY_SLOT,
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
    from_networkx,
    global_tokens,
    grid,
    hops,
    log_sparse,
    nearest,
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
@given(rules, st.integers(1, 12), virtual)
def test_a_decoder_sees_the_row_of_its_token(rule: Topology, length: int, num_virtual: int) -> None:
    """One new token over a cache with empty slots has the keys it has in the whole example."""
    if "grid" in repr(rule):
        return
    topology = rule & causal()
    whole = make_layout([length], num_virtual)
    rows = contained(topology, whole, whole)
    spare = 3
    cache = list(range(-num_virtual, length)) + [EMPTY_SLOT] * spare
    keys = make_layout([length + spare], num_virtual, positions=cache)
    for position in range(length):
        query = make_layout([1], positions=[position])
        query = Layout(query.ptr, query.at, query.lengths, num_virtual, False)
        expected = {(key, 0) for key, row in rows if row == position + num_virtual}
        assert listed(topology, query, keys) == expected
        assert contained(topology, query, keys) == expected


def test_leaves_contain_what_their_names_say() -> None:
    tokens = make_layout([9])

    def keys_of(topology: Topology, query: int) -> list[int]:
        return sorted(key for key, row in contained(topology, tokens, tokens) if row == query)

    assert keys_of(complete(), 4) == list(range(9))
    assert keys_of(causal(), 4) == [0, 1, 2, 3, 4]
    assert keys_of(causal().T, 4) == [4, 5, 6, 7, 8]
    assert keys_of(self_loops(), 4) == [4]
    assert keys_of(window(2), 4) == [2, 3, 4, 5, 6]
    assert keys_of(window(2, dilation=3), 4) == [1, 4, 7]
    assert keys_of(strided(3), 4) == [1, 4, 7]
    assert keys_of(log_sparse(), 8) == [0, 4, 6, 7, 8]
    assert keys_of(log_sparse().T, 1) == [1, 2, 3, 5]
    assert keys_of(global_tokens(2), 4) == [0, 1]
    assert keys_of(global_tokens(2), 1) == list(range(9))
    assert keys_of(grid((3, 3), 1), 0) == [0, 1, 3, 4]
    assert keys_of(grid((3, 3), 1), 4) == list(range(9))
    assert keys_of(where(same_parity), 4) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 3, 2), (1, 5, 1, 2)])
@pytest.mark.parametrize("radius", [0, 1, 2, 20])
def test_grids_of_any_number_of_axes_list_what_they_contain(
    shape: tuple[int, ...], radius: int
) -> None:
    cells = torch.cartesian_prod(*(torch.arange(size) for size in shape)).view(-1, len(shape))
    at = torch.cat([torch.arange(len(cells))[:, None], cells], 1)
    ptr = torch.tensor([0, len(cells), 2 * len(cells)])
    tokens = Layout(ptr, torch.cat([at, at]), ptr.diff(), 0, True)
    found = listed(grid(shape, radius), tokens, tokens)
    near = (cells[:, None] - cells).abs().amax(-1) <= radius
    assert len(found) == 2 * int(near.sum())
    assert found == contained(grid(shape, radius), tokens, tokens)


def test_virtual_tokens_count_first_and_are_skipped_by_windows() -> None:
    tokens = make_layout([3, 1], num_virtual=2)
    assert listed(window(1), tokens, tokens) == {
        *((2, 2), (3, 2), (2, 3), (3, 3), (4, 3), (3, 4), (4, 4)),
        (7, 7),
    }
    first = {(key, query) for key, query in listed(global_tokens(2), tokens, tokens)}
    everything = listed(complete(), tokens, tokens)
    assert first == {(key, query) for key, query in everything if {key, query} & {0, 1, 5, 6}}
    assert listed(self_loops(), tokens, tokens) == {(token, token) for token in range(8)}
    for rule in (window(3), strided(1), log_sparse(), expander(2), grid((3, 3), 2)):
        assert not {0, 1, 5, 6} & {token for pair in listed(rule, tokens, tokens) for token in pair}


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 51])
def test_an_expander_is_undirected_of_its_degree_and_connected(degree: int, size: int) -> None:
    tokens = make_layout([size])
    found = listed(expander(degree), tokens, tokens)
    assert found == {(query, key) for key, query in found}
    graph = networkx.Graph(sorted(found))
    assert networkx.number_of_selfloops(graph) == 0
    assert all(count <= degree for _, count in graph.degree)
    if degree >= 2 and size >= 2:
        assert len(graph) == size
        assert networkx.is_connected(graph)
    if size == 51 and degree % 2 == 0:
        assert 2 * graph.number_of_edges() > 0.8 * degree * size


def test_an_expander_depends_on_seed_and_size_alone() -> None:
    alone = make_layout([8])
    first = listed(expander(3, seed=1), alone, alone)
    assert listed(expander(3, seed=1), alone, alone) == first
    assert listed(expander(3, seed=2), alone, alone) != first
    batch = make_layout([5, 8], num_virtual=1)
    moved = {(key + 7, query + 7) for key, query in first}
    in_batch = listed(expander(3, seed=1), batch, batch)
    assert {pair for pair in in_batch if pair[0] >= 6} == moved


@few
@given(lengths, st.integers(1, 4), st.integers(0, 9))
def test_nearest_agrees_with_sorting_all_distances(sizes: list[int], k: int, seed: int) -> None:
    tokens = make_layout(sizes, num_virtual=1)
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(sum(sizes), 3)))
    expected = set()
    real = (tokens.at[:, 0] >= 0).nonzero().squeeze(1).tolist()
    for query, of_query in enumerate(real):
        others = [
            (float((x[query] - x[key]).norm()), of_key)
            for key, of_key in enumerate(real)
            if key != query and tokens.example[of_key] == tokens.example[of_query]
        ]
        expected |= {(key, of_query) for _, key in sorted(others)[:k]}
    topology = nearest(x, k).resolve(tokens, tokens, {})
    assert listed(topology, tokens, tokens) == expected
    assert contained(topology, tokens, tokens) == expected


def test_nearest_is_the_same_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = make_layout([40, 7, 7, 0, 1])
    x = torch.randn(55, 4)
    whole = nearest(x, 3).resolve(tokens, tokens, {}).list_edges(tokens, tokens)
    monkeypatch.setattr("graphformer.topology.neighbors.CHUNK", 64)
    parts = nearest(x, 3).resolve(tokens, tokens, {}).list_edges(tokens, tokens)
    assert torch.equal(torch.stack(whole), torch.stack(parts))


def test_where_is_the_same_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = make_layout([9, 0, 4, 7])
    whole = where(same_parity).list_edges(tokens, tokens)
    monkeypatch.setattr("graphformer.topology.predicate.CHUNK", 10)
    parts = where(same_parity).list_edges(tokens, tokens)
    assert torch.equal(torch.stack(whole), torch.stack(parts))


@few
@given(st.integers(0, 12), st.integers(1, 5), st.integers(0, 99))
def test_hops_agree_with_shortest_paths(size: int, largest: int, seed: int) -> None:
    graph = networkx.gnp_random_graph(size, 0.2, seed=seed, directed=True)
    tokens = make_layout([size])
    within = set()
    for source, distances in networkx.all_pairs_shortest_path_length(graph, cutoff=largest):
        within |= {(source, target) for target, distance in distances.items() if distance}
    edge_index = torch.tensor(list(graph.edges), dtype=torch.int64).view(-1, 2).T
    topology = hops(edge_index, largest)
    assert listed(topology, tokens, tokens) == within
    assert contained(topology, tokens, tokens) == within


def test_hops_of_named_edges_count_repeated_edges_once() -> None:
    tokens = make_layout([2, 3])
    bonds = torch.tensor([[2, 3, 3, 3], [3, 4, 4, 3]])
    topology = hops("bond", 2).resolve(tokens, tokens, {"bond": bonds})
    assert listed(topology, tokens, tokens) == {(2, 3), (3, 4), (2, 4)}


def test_networkx_graphs_keep_their_direction_and_order() -> None:
    undirected = networkx.Graph([("b", "a"), ("a", "c"), ("c", "c")])
    directed = networkx.MultiDiGraph([("b", "a"), ("b", "a"), ("a", "c")])
    tokens = make_layout([3])
    assert listed(from_networkx(directed), tokens, tokens) == {(0, 1), (1, 2)}
    both_ways = {(0, 1), (1, 0), (1, 2), (2, 1), (2, 2)}
    assert listed(from_networkx(undirected), tokens, tokens) == both_ways
    assert listed(from_networkx(networkx.empty_graph(3)), tokens, tokens) == set()


def test_given_edges_come_first_and_in_their_order() -> None:
    tokens = make_layout([3, 2], num_virtual=1)
    given_edges = torch.tensor([[4, 2, 0], [3, 1, 0]])
    key, query = (edges(given_edges) | self_loops()).list_edges(tokens, tokens)
    assert key.tolist() == [6, 3, 1, 0, 2, 3, 4, 5, 6]
    assert query.tolist() == [5, 2, 1, 0, 2, 3, 4, 5, 6]


def test_named_edges_are_those_the_batch_brings() -> None:
    tokens = make_layout([2, 2])
    topology = edges("bond").T | self_loops()
    resolved = topology.resolve(tokens, tokens, {"bond": torch.tensor([[0], [1]])})
    assert (1, 0) in listed(resolved, tokens, tokens)
    assert repr(resolved) == repr(topology)
    assert resolved.resolve(tokens, tokens, {}) is resolved


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
