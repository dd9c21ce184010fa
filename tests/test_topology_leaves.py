"""Each leaf is the set that its name says."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
    contained,
    lengths,
    listed,
    make_layout,
    same_parity,
)

from graphformer.edge_data import hop_distance
from graphformer.layout import Layout
from graphformer.topology import (
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


@given(size=st.integers(1, 12), largest=st.integers(1, 4), seed=st.integers(0, 99))
def test_hop_distances_agree_with_shortest_paths(size: int, largest: int, seed: int) -> None:
    drawn = networkx.gnp_random_graph(size, 0.2, seed=seed, directed=True)
    edge_index = torch.tensor(list(drawn.edges), dtype=torch.int64).reshape(-1, 2).T
    found = hop_distance(edge_index, largest, size)
    lengths = dict(networkx.all_pairs_shortest_path_length(drawn))
    expected = torch.full((size, size), float(largest + 1))
    for key, reached in lengths.items():
        for query, count in reached.items():
            expected[key, query] = min(count, largest)
    table = torch.full((size, size), float(found.missing))
    table[found.edge_index[0], found.edge_index[1]] = found.values
    assert torch.equal(table, expected)


def test_hop_distances_refuse() -> None:
    edge_index = torch.tensor([[0], [3]])
    with pytest.raises(ValueError, match="at least 1 hop, not 0"):
        hop_distance(edge_index, largest=0)
    with pytest.raises(ValueError, match="holds the query 3, but there are 2 query tokens"):
        hop_distance(edge_index, num_nodes=2)
