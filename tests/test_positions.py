"""Encodings are what their formulas say, on any graph, alone and in a batch."""

from __future__ import annotations

from collections.abc import Iterator

import networkx
import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import AddLaplacianEigenvectorPE, AddRandomWalkPE
from torch_geometric.utils import from_networkx

from graphformer.positions import (
    Degree,
    Learned,
    degrees,
    laplacian,
    random_signs,
    random_walk,
    sinusoidal,
    spectrum,
    time_features,
)
from graphformer.positions import eigenvectors as solver
from graphformer.tokens import Tokens, nodes

NORMALIZATIONS = ["symmetric", "random_walk", "none"]


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    spectrum._WAVES.clear()
    yield
    torch.set_default_dtype(torch.float32)


def edges_of(graph: networkx.Graph) -> Tensor:
    """Both directions of each edge; nodes count in the order of the graph."""
    return from_networkx(networkx.convert_node_labels_to_integers(graph)).edge_index


def laplacian_matrix(graph: networkx.Graph, normalization: str) -> Tensor:
    adjacency = torch.from_numpy(networkx.to_numpy_array(graph))
    degree = adjacency.sum(1)
    if normalization == "none":
        return degree.diag() - adjacency
    root = degree**-0.5
    if normalization == "symmetric":
        return torch.eye(len(degree)) - root[:, None] * adjacency * root
    return torch.eye(len(degree)) - adjacency / degree[:, None]


def batch_of(*graphs: tuple[int, list[tuple[int, int]]]) -> tuple[Batch, Tokens]:
    """A batch of graphs given by their number of nodes and their directed edges."""
    data = [
        Data(x=torch.randn(n, 1), edge_index=torch.tensor(edges, dtype=torch.long).view(-1, 2).T)
        for n, edges in graphs
    ]
    batch = Batch.from_data_list(data)
    return batch, nodes(batch)


PATH = (5, [(0, 1), (1, 2), (2, 3), (3, 4)])
EDGELESS = (3, [])
TRIANGLE_AND_PAIR = (6, [(0, 2), (2, 4), (4, 0), (1, 3)])
SINGLE = (1, [])


def test_sinusoidal_is_the_formula_of_the_paper() -> None:
    waves = sinusoidal(torch.tensor([[0, 7], [123_456, -2]]), 6, base=100.0)
    assert waves.shape == (2, 2, 6)
    for row, column, position in ((0, 1, 7), (1, 0, 123_456), (1, 1, -2)):
        for pair in range(3):
            angle = position / 100.0 ** (2 * pair / 6)
            expected = torch.tensor([np.sin(angle), np.cos(angle)])
            torch.testing.assert_close(waves[row, column, 2 * pair : 2 * pair + 2], expected)


def test_sinusoidal_is_accurate_far_out_in_single_precision() -> None:
    positions = torch.tensor([10_000_001])
    exact = sinusoidal(positions, 8)
    torch.set_default_dtype(torch.float32)
    single = sinusoidal(positions, 8)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, atol=1e-7, rtol=0)


def test_learned_positions_are_rows_of_a_table_virtual_ones_first() -> None:
    learned = Learned(4, 3, num_virtual=2)
    rows = learned(torch.tensor([[-2, 0], [3, -1]]))
    assert torch.equal(rows, learned.embedding.weight[torch.tensor([[0, 2], [5, 1]])])
    rows.sum().backward()
    assert learned.embedding.weight.grad.sum(1).tolist() == [3.0, 3.0, 3.0, 0.0, 0.0, 3.0]
    assert learned(torch.zeros(0, dtype=torch.long)).shape == (0, 3)


@pytest.mark.compiled
def test_positions_of_tokens_compile_without_a_break() -> None:
    learned = Learned(8, 4, num_virtual=1)
    centrality = Degree(3, 4)

    def encode(at: Tensor) -> Tensor:
        return sinusoidal(at, 4) + learned(at) + centrality(at, at)

    at = torch.tensor([0, 1, 2, 0, 7])
    compiled = torch.compile(encode, fullgraph=True, backend="eager")
    assert torch.equal(compiled(at), encode(at))


def test_time_features_place_a_moment_in_each_longer_period() -> None:
    # A Wednesday, the 60th day of a leap year, in the ninth week.
    moment = ["2012-02-29 06:30:15"]
    day = [2 / 6, 28 / 30, 59 / 365]
    expected = {
        "second": [15 / 59, 30 / 59, 6 / 23, *day],
        "minute": [30 / 59, 6 / 23, *day],
        "hour": [6 / 23, *day],
        "day": day,
        "week": [28 / 30, 8 / 52],
        "month": [1 / 11],
    }
    for frequency, columns in expected.items():
        features = time_features(moment, frequency)
        torch.testing.assert_close(features, torch.tensor([columns]) - 0.5)


def test_time_features_agree_with_the_calendar_of_the_standard_library() -> None:
    days = np.arange("1965-01-01", "2032-01-01", 5, dtype="datetime64[D]")
    week, day = time_features(days, "week"), time_features(days, "day")
    for row, moment in enumerate(days.tolist()):
        year_day = moment.timetuple().tm_yday
        assert (week[row, 1] + 0.5).item() == pytest.approx((moment.isocalendar().week - 1) / 52)
        assert (day[row, 0] + 0.5).item() == pytest.approx(moment.weekday() / 6)
        assert (day[row, 2] + 0.5).item() == pytest.approx((year_day - 1) / 365)


def test_time_features_keep_the_shape_and_take_any_unit() -> None:
    hours = np.arange("2016-07-01T00", "2016-07-03T00", dtype="datetime64[h]")
    features = time_features(hours.reshape(2, 24).astype("datetime64[ns]"), "hour")
    assert features.shape == (2, 24, 4)
    assert torch.equal(features.flatten(0, 1), time_features([str(hour) for hour in hours]))
    assert (features.amin(), features[..., 0].amax()) == (-0.5, 0.5)


@pytest.mark.parametrize("num_nodes", [3, 4, 7, 20, 601])
def test_laplacian_of_a_cycle_spans_the_sinusoids(num_nodes: int) -> None:
    position = torch.arange(num_nodes)
    cycle = torch.stack([position, (position + 1) % num_nodes])
    num_waves = min((num_nodes - 1) // 2, 5)
    frequencies = 2 * torch.pi * torch.arange(1, num_waves + 1).double() / num_nodes
    waves = sinusoidal(position, 2 * num_waves, frequencies=frequencies)
    eigenvectors = laplacian(cycle, num_nodes, 2 * num_waves)
    for wave in range(num_waves):
        pair = slice(2 * wave, 2 * wave + 2)
        plane = eigenvectors[:, pair]
        residual = plane @ torch.linalg.lstsq(plane, waves[:, pair]).solution - waves[:, pair]
        assert residual.abs().max() < 1e-6


GRAPHS = {
    "karate": networkx.karate_club_graph(),
    "tree": networkx.balanced_tree(2, 4),
    "grid": networkx.grid_2d_graph(4, 7),
    "preferential": networkx.barabasi_albert_graph(60, 2, seed=0),
}


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", GRAPHS)
def test_laplacian_gives_the_smallest_eigenvalues_above_zero(name: str, normalization: str) -> None:
    graph = networkx.Graph(GRAPHS[name].edges)
    waves = laplacian(edges_of(graph), len(graph), 6, normalization)
    matrix = laplacian_matrix(graph, normalization)
    values = torch.linalg.eigvals(matrix).real.sort().values[1:7]
    torch.testing.assert_close(matrix @ waves, waves * values, atol=1e-10, rtol=0)
    torch.testing.assert_close(waves.norm(dim=0), torch.ones(6))


LARGE = {
    "cycle, whose eigenvalues are close and double": networkx.cycle_graph(400),
    "torus, whose eigenvalues are fourfold": networkx.grid_2d_graph(15, 15, periodic=True),
    "complete, with a single one": networkx.complete_graph(100),
    "star, with two": networkx.star_graph(100),
    "tree, with many copies": networkx.balanced_tree(2, 7),
    "cube, with some": networkx.grid_graph([5, 5, 5]),
    "preferential": networkx.barabasi_albert_graph(300, 2, seed=0),
}


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", LARGE)
def test_large_graphs_are_solved_as_small_ones(
    name: str, normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = LARGE[name]
    monkeypatch.setattr(solver, "_DENSE", 0)
    waves = laplacian(edges_of(graph), len(graph), 7, normalization)
    matrix = laplacian_matrix(graph, normalization)
    values = torch.linalg.eigvals(matrix).real.sort().values[1:8]
    torch.testing.assert_close(matrix @ waves, waves * values, atol=1e-9, rtol=0)
    assert torch.linalg.matrix_rank(waves) == 7
    spectrum._WAVES.clear()
    assert torch.equal(waves, laplacian(edges_of(graph), len(graph), 7, normalization))


def test_laplacian_agrees_with_that_of_torch_geometric() -> None:
    graph = networkx.Graph(GRAPHS["karate"].edges)
    data = Data(edge_index=edges_of(graph), num_nodes=len(graph))
    theirs = AddLaplacianEigenvectorPE(5, is_undirected=True, attr_name="pe")(data).pe
    ours = laplacian(data.edge_index, len(graph), 5)
    overlap = (theirs.double() * ours).sum(0).abs()
    torch.testing.assert_close(overlap, torch.ones(5), atol=1e-5, rtol=0)


def test_tiny_and_disconnected_graphs_have_zeros_for_what_they_lack() -> None:
    batch, tokens = batch_of(PATH, EDGELESS, TRIANGLE_AND_PAIR, SINGLE, (0, []))
    waves = laplacian(batch.edge_index, tokens, 4)
    path, edgeless, triangle_and_pair, single, empty = tokens.with_x(waves).unbatch()
    assert torch.linalg.matrix_rank(path) == 4
    assert not edgeless.any()
    assert not single.any()
    assert empty.shape == (0, 4)
    # Each component is a graph of its own: two waves on three nodes, one on two, none on one.
    triangle, pair, alone = (triangle_and_pair[ids] for ids in ([0, 2, 4], [1, 3], [5]))
    torch.testing.assert_close(triangle[:, :2].T @ triangle[:, :2], torch.eye(2))
    torch.testing.assert_close(pair[:, 0], torch.tensor([1.0, -1.0]) / 2**0.5)
    assert not triangle[:, 2:].any()
    assert not pair[:, 1:].any()
    assert not alone.any()


def test_direction_repetition_and_self_loops_change_no_wave() -> None:
    path = torch.tensor(PATH[1]).T
    waves = laplacian(path, 5, 4)
    for other in (path.flip(0), torch.cat([path, path.flip(0), path], 1), path[:, [3, 1, 0, 2]]):
        assert torch.equal(laplacian(other, 5, 4), waves)
    loops = torch.arange(5).expand(2, 5)
    assert torch.equal(laplacian(torch.cat([path, loops], 1), 5, 4), waves)


ENCODINGS = {
    "laplacian": lambda edge_index, tokens: laplacian(edge_index, tokens, 3),
    "random_walk": lambda edge_index, tokens: random_walk(edge_index, tokens, 5),
    "degrees": lambda edge_index, tokens: torch.stack(degrees(edge_index, tokens), 1),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_graph_has_the_same_positions_alone_and_in_a_batch(name: str) -> None:
    batch, tokens = batch_of(PATH, EDGELESS, TRIANGLE_AND_PAIR, SINGLE, PATH)
    together = tokens.with_x(ENCODINGS[name](batch.edge_index, tokens)).unbatch()
    for graph, found in zip(batch.to_data_list(), together, strict=True):
        spectrum._WAVES.clear()
        assert torch.equal(ENCODINGS[name](graph.edge_index, graph.num_nodes), found)


@pytest.mark.parametrize("name", ENCODINGS)
def test_virtual_tokens_have_zeros_and_move_no_edge(name: str) -> None:
    batch, tokens = batch_of(PATH, EDGELESS, TRIANGLE_AND_PAIR)
    more = tokens.with_virtual(2)
    found = ENCODINGS[name](batch.edge_index, more)
    assert torch.equal(ENCODINGS[name](batch.edge_index, more.layout), found)
    assert not found[more.at[:, 0] < 0].any()
    plain = ENCODINGS[name](batch.edge_index, tokens)
    assert torch.equal(more.with_x(found).without_virtual().x, plain)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_signs_do_not_depend_on_the_solver(
    normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = networkx.path_graph(31)
    dense = laplacian(edges_of(graph), 31, 8, normalization)
    spectrum._WAVES.clear()
    monkeypatch.setattr(solver, "_DENSE", 0)
    iterated = laplacian(edges_of(graph), 31, 8, normalization)
    torch.testing.assert_close(iterated, dense, atol=1e-8, rtol=0)


def test_random_signs_are_one_a_column_and_example_and_reproducible() -> None:
    batch, tokens = batch_of(*[PATH] * 40)
    waves = laplacian(batch.edge_index, tokens, 4)
    drawn = random_signs(waves, torch.Generator().manual_seed(0), tokens)
    assert torch.equal(drawn, random_signs(waves, torch.Generator().manual_seed(0), tokens))
    signs = (drawn / waves)[waves.abs().amin(1) > 1e-9].view(40, -1, 4)
    torch.testing.assert_close(signs, signs[:, :1].expand_as(signs))
    assert 40 < (signs[:, 0] > 0).sum() < 120
    shared = random_signs(waves, torch.Generator().manual_seed(1))
    assert torch.equal(shared.abs(), waves.abs())
    assert all(torch.equal(one, shared[:5]) for one in shared.split(5))


def test_solved_graphs_are_found_again_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []

    def counted(graph: object, k: int, normalization: str) -> np.ndarray:
        solved.append(k)
        return solver.slowest_waves(graph, k, normalization)

    monkeypatch.setattr(spectrum, "slowest_waves", counted)
    batch, tokens = batch_of(PATH, TRIANGLE_AND_PAIR, PATH)
    first = laplacian(batch.edge_index, tokens, 3)
    assert solved == [3, 2, 1]
    first.zero_()
    assert laplacian(batch.edge_index.flip(1), tokens, 3).any()
    assert solved == [3, 2, 1]
    laplacian(batch.edge_index, tokens, 3, "none")
    assert solved == [3, 2, 1] * 2


def test_memory_forgets_what_was_not_asked_for_longest() -> None:
    remembered = spectrum.Remembered(num_bytes=16)
    computed: list[str] = []

    def get(name: str) -> None:
        def compute() -> np.ndarray:
            computed.append(name)
            return np.zeros(1)

        assert not remembered.get((name.encode(),), compute).flags.writeable

    for name in ("a", "b", "a", "c", "a", "b"):
        get(name)
    assert computed == ["a", "b", "c", "b"]
    assert remembered.held_bytes == 16


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9])
def test_random_walk_is_the_diagonal_of_powers(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    directed = networkx.gnp_random_graph(23, 0.12, seed=0, directed=True)
    directed.add_edge(3, 3)
    edge_index = torch.tensor(list(directed.edges)).T
    adjacency = torch.from_numpy(networkx.to_numpy_array(directed))
    transition = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)
    powers = [torch.linalg.matrix_power(transition, step) for step in range(1, steps + 1)]
    expected = torch.stack([power.diagonal() for power in powers], 1)
    torch.testing.assert_close(random_walk(edge_index, 23, steps), expected)
    monkeypatch.setattr("graphformer.positions.walks._CHUNK", 100)
    torch.testing.assert_close(random_walk(edge_index, 23, steps), expected)


def test_random_walk_agrees_with_that_of_torch_geometric() -> None:
    graph = networkx.Graph(GRAPHS["karate"].edges)
    data = Data(edge_index=edges_of(graph), num_nodes=len(graph))
    theirs = AddRandomWalkPE(6, attr_name="pe")(data).pe
    torch.testing.assert_close(random_walk(data.edge_index, len(graph), 6), theirs.double())


def test_degrees_count_edges_that_end_and_begin() -> None:
    edge_index = torch.tensor([[0, 0, 2, 2], [1, 2, 1, 1]])
    into, out_of = degrees(edge_index, 4)
    assert (into.tolist(), out_of.tolist()) == ([0, 3, 1, 0], [2, 0, 2, 0])


def test_degree_adds_the_vectors_of_clipped_degrees() -> None:
    centrality = Degree(largest=2, dim=3)
    rows = centrality(torch.tensor([0, 9]), torch.tensor([1, 2]))
    into, out_of = centrality.in_embedding.weight, centrality.out_embedding.weight
    assert torch.equal(rows, torch.stack([into[0] + out_of[1], into[2] + out_of[2]]))
