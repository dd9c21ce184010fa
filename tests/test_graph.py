"""A token graph: its edges and indexes, the values on them, and its travels."""

from __future__ import annotations

import gc
import pickle
import weakref
from functools import partial

import networkx
import pytest
import torch
from cases import has_even_sum, make_tokens
from torch import Tensor
from torch.utils.data import DataLoader

import graphformer as gf

KEYS = torch.tensor([3, 0, 1, 5, 4])
QUERIES = torch.tensor([1, 1, 0, 4, 5])
GIVEN = torch.stack([KEYS, QUERIES])
LENGTHS = (4, 3)


def make_graph(topology: gf.Topology | None = None, **edge_data: gf.EdgeValues) -> gf.TokenGraph:
    topology = gf.edges("bond") | gf.self_loops() if topology is None else topology
    values = torch.arange(10.0).view(5, 2)
    edge_data = edge_data or {"bond": gf.EdgeValues(GIVEN, values)}
    return topology.bind(make_tokens(LENGTHS), **edge_data)


# ---- edges ----


def test_given_edges_keep_their_order_and_added_ones_follow() -> None:
    graph = make_graph()
    loops = torch.arange(7).expand(2, -1)
    assert torch.equal(graph.edge_index, torch.cat([GIVEN, loops], 1))
    assert graph.num_edges == 12
    assert graph.density == 12 / (16 + 9)


def test_edges_are_counted_without_being_listed() -> None:
    graph = gf.window(256).bind(make_tokens((100_000,)))
    assert graph.num_edges == 100_000 * 513 - 256 * 257
    assert "edge_index" not in vars(graph)["_made"]


def test_a_density_of_no_pairs_is_zero() -> None:
    assert gf.complete().bind(make_tokens((0, 0))).density == 0.0
    graph = gf.complete().bind(make_tokens((0, 2)), make_tokens((3, 0)))
    assert graph.num_edges == 0


@pytest.mark.parametrize(
    ("row", "number", "message"),
    [
        (0, 10**6, r"edge_index\[0\] holds the key 1000005"),
        (1, -2, r"the query -2, but there are 7"),
    ],
)
def test_edges_changed_to_what_is_no_token_are_not_sorted(
    row: int, number: int, message: str
) -> None:
    graph = gf.TokenGraph.from_edge_index(GIVEN, 7)
    graph.edge_index[row] += number
    with pytest.raises(ValueError, match=message):
        _ = graph.csc


@pytest.mark.parametrize(
    "topology", [gf.edges("bond") | gf.self_loops(), gf.window(1), gf.causal() - gf.complete()]
)
def test_compressed_rows_hold_the_same_edges(topology: gf.Topology) -> None:
    graph = make_graph(topology, bond=gf.EdgeValues(GIVEN))
    for rows, own, other in ((graph.csr, 1, 0), (graph.csc, 0, 1)):
        counted = torch.repeat_interleave(torch.arange(7), rows.ptr.diff().long())
        assert torch.equal(graph.edge_index[own, rows.order], counted)
        assert torch.equal(graph.edge_index[other, rows.order], rows.index.long())
        assert rows.ptr.dtype == rows.index.dtype == torch.int32
    assert torch.equal(graph.in_degree, graph.csr.ptr.diff().long())
    assert torch.equal(graph.out_degree, graph.csc.ptr.diff().long())


def test_edges_of_a_key_stand_by_query_however_they_were_given() -> None:
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(6, (2, 40), generator=generator)
    graph = gf.TokenGraph.from_edge_index(edge_index, 6)
    ptr, query, place = graph.transposed
    assert torch.equal(ptr, graph.csc.ptr)
    assert torch.equal(query, graph.csc.index)
    assert torch.equal(graph.csr.order[place.long()], graph.csc.order)
    for rising in (query, place):
        assert all((one.diff() >= 0).all() for one in rising.tensor_split(ptr[1:-1].long()))


def test_from_edge_index_keeps_repeats_and_isolated_tokens() -> None:
    edge_index = torch.tensor([[0, 0, 2, 0], [1, 1, 1, 3]])
    graph = gf.TokenGraph.from_edge_index(edge_index, 5, 4, bond=torch.arange(4.0))
    assert torch.equal(graph.edge_index, edge_index)
    assert graph.num_edges == 4
    assert graph.bipartite
    assert graph.in_degree.tolist() == [0, 3, 0, 1, 0]
    assert graph.out_degree.tolist() == [3, 0, 1, 0]
    assert graph.edge_values("bond").flatten().tolist() == [0, 1, 2, 3]
    assert not graph.topology.is_complete, "its edges are those given"
    assert "complete" not in repr(graph)


def test_from_edge_index_takes_graphs_without_edges() -> None:
    graph = gf.TokenGraph.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), 3)
    x = torch.randn(3, 1, 2)
    assert gf.attend(x, x, x, graph).eq(0).all()


@pytest.mark.parametrize("kind", ["repeats kept", "a set"])
def test_edges_that_change_later_change_no_graph(kind: str) -> None:
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
    if kind == "a set":
        graph = gf.edges(edge_index).bind(gf.sequences(torch.zeros(1, 3, 1)))
    else:
        graph = gf.TokenGraph.from_edge_index(edge_index, 3)
    before = edge_index.clone()
    edge_index[0, 1] = 10_000_000
    assert torch.equal(graph.edge_index, before)
    assert graph.csr.index.max() == 2


def test_ids_do_not_count_virtual_tokens() -> None:
    tokens = make_tokens(LENGTHS, num_virtual=2)
    graph = gf.edges("bond").bind(tokens, bond=gf.EdgeValues(GIVEN, torch.arange(5.0)))
    expected = GIVEN + 2 + 2 * (LENGTHS[0] <= GIVEN)
    assert torch.equal(graph.edge_index, expected)
    assert graph.edge_values("bond").flatten().tolist() == [0, 1, 2, 3, 4]
    both = (gf.edges(GIVEN) | gf.global_tokens(2)).bind(tokens)
    assert torch.equal(both.edge_index[:, :5], expected)


def test_examples_without_tokens_shift_no_ids() -> None:
    edge_index = torch.tensor([[0, 2, 3], [1, 3, 2]])
    for num_virtual in (0, 1):
        tokens = make_tokens((0, 2, 0, 0, 2, 0), num_virtual)
        graph = gf.edges("bond").bind(tokens, bond=gf.EdgeValues(edge_index, torch.ones(3)))
        positions = graph.queries.at[graph.edge_index, 0]
        assert positions.tolist() == [[0, 0, 1], [1, 1, 0]]
        assert graph.queries.example[graph.edge_index[0]].tolist() == [1, 4, 4]


# ---- edge data ----


def test_edges_without_data_have_what_is_missing() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.0]])
    for missing, expected in (
        (0.0, [[0.0, 0.0]] * 7),
        (1.5, [[1.5, 1.5]] * 7),
        (torch.tensor([1.0, 2.0]), [[1.0, 2.0]] * 7),
        ("mean", [[5, 6], [2, 3], [0, 0], [0, 0], [7, 8], [9, 10], [0, 0]]),
    ):
        graph = make_graph(bond=gf.EdgeValues(GIVEN, values, missing))
        found = graph.edge_values("bond")
        assert torch.equal(found[:5], values)
        assert torch.equal(found[5:], torch.tensor(expected, dtype=torch.float32))


def test_data_of_edges_that_are_not_there_is_not_heard() -> None:
    extra = torch.cat([GIVEN, torch.tensor([[0], [3]])], 1)
    graph = make_graph(
        gf.edges("bond"), bond=gf.EdgeValues(GIVEN), other=gf.EdgeValues(extra, torch.arange(6.0))
    )
    assert graph.edge_values("other").flatten().tolist() == [0, 1, 2, 3, 4]


def test_edges_without_values_are_named_and_are_no_data_of_pairs() -> None:
    tokens = make_tokens(LENGTHS)
    graph = gf.edges("bond").bind(tokens, bond=gf.EdgeValues(GIVEN))
    assert graph.edge_pair(1).edge_data == {}
    x = torch.randn(7, 1, 4)
    expected = gf.attend(x, x, x, gf.edges(GIVEN).bind(tokens))
    assert torch.equal(gf.attend(x, x, x, graph), expected)


def test_integer_data_becomes_floating_and_keeps_its_values() -> None:
    graph = make_graph(bond=gf.EdgeValues(GIVEN, torch.arange(5)))
    assert graph.edge_values("bond")[:5].flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_replaced_values_are_the_ones_that_are_used() -> None:
    """Plans and indexes are shared with the first graph, values are not."""
    first, second = torch.randn(5, 2), torch.randn(5, 2)
    graph = make_graph(bond=gf.EdgeValues(GIVEN, first))
    score, x = gf.EdgeDot("bond", torch.randn(1, 4, 2)), torch.randn(7, 1, 4)
    for backend in ("reference", "dense"):
        attend = partial(gf.attend, x, x, x, score=score, backend=backend, edge_sum="bond")
        before = attend(graph=graph)
        after = attend(graph=graph.with_edge_data(bond=second))
        anew = attend(graph=make_graph(bond=gf.EdgeValues(GIVEN, second)))
        assert torch.equal(after.out, anew.out)
        assert torch.equal(after.edge_sum, anew.edge_sum)
        assert not torch.equal(before.out, after.out)
        assert torch.equal(attend(graph=graph).out, before.out)


@pytest.mark.parametrize("backend", ["reference", "dense"])
def test_gradients_reach_values_whatever_ran_before(backend: str) -> None:
    """Neither an evaluation, nor an earlier step, nor a change in place leaves anything stale."""
    values = torch.randn(5, 2, requires_grad=True)
    score, x = gf.EdgeDot("bond", torch.randn(1, 4, 2)), torch.randn(7, 1, 4)
    graph = make_graph(bond=gf.EdgeValues(GIVEN, values))
    with torch.no_grad():
        before = gf.attend(x, x, x, graph, score, backend=backend)
    for _ in range(2):
        out = gf.attend(x, x, x, graph, score, backend=backend)
        assert torch.equal(out, before)
        (gradient,) = torch.autograd.grad(out.square().sum(), values)
        assert gradient.abs().sum() > 0
    with torch.no_grad():
        values.add_(1.0)
    anew = make_graph(bond=gf.EdgeValues(GIVEN, values))
    changed = gf.attend(x, x, x, graph, score, backend=backend)
    assert torch.equal(changed, gf.attend(x, x, x, anew, score, backend=backend))


def test_a_graph_first_used_in_inference_mode_can_be_trained_on() -> None:
    x = torch.randn(7, 2, 4, requires_grad=True)
    score = gf.Additive(2, 4) + gf.EdgeBias("bond", 2, 2) + gf.ALiBi(2)
    for topology in (gf.complete(), gf.window(1) | gf.edges("bond"), gf.causal()):
        for backend in ("reference", "dense", None):
            graph = make_graph(topology)
            with torch.inference_mode():
                gf.attend(x, x, x, graph, score, backend=backend)
                gf.attend(x, x, x, graph, backend=backend)
                graph.queries.example, graph.csc  # noqa: B018 - made here, used below
            out = gf.attend(x, x, x, graph, score, backend=backend)
            out = out + gf.attend(x, x, x, graph, backend=backend)
            out.sum().backward()


def test_graphs_are_freed_with_their_batch() -> None:
    x = torch.randn(7, 1, 4, requires_grad=True)
    graph = make_graph()
    gf.attend(x, x, x, graph)
    gf.explain(graph)
    found = weakref.ref(graph)
    del graph
    gc.collect()
    assert found() is None


# ---- elsewhere ----


def collate(lengths: list[int], rule: str) -> gf.TokenGraph:
    """Runs in a worker."""
    graph = gf.Topology.parse(rule).bind(
        make_tokens(tuple(lengths)), bond=gf.EdgeValues(GIVEN, torch.arange(5.0))
    )
    gf.plan(graph, heads=2, dim=4)
    return graph


def test_graphs_are_made_in_workers() -> None:
    rule = 'edges("bond") | window(1)'
    loader = DataLoader(
        [*LENGTHS, *LENGTHS], 2, num_workers=1, collate_fn=partial(collate, rule=rule)
    )
    x = torch.randn(7, 2, 4)
    for graph in loader:
        here = collate(list(LENGTHS), rule)
        assert torch.equal(graph.edge_index, here.edge_index)
        assert torch.equal(graph.edge_values("bond"), here.edge_values("bond"))
        assert torch.equal(gf.attend(x, x, x, graph), gf.attend(x, x, x, here))
        assert repr(graph) == repr(here)


def test_a_pickled_graph_keeps_what_it_made_and_forgets_plans() -> None:
    graph = (gf.edges("bond") | gf.where(has_even_sum)).bind(
        make_tokens(LENGTHS), bond=gf.EdgeValues(GIVEN, torch.arange(5.0))
    )
    x = torch.randn(7, 1, 4)
    expected = gf.attend(x, x, x, graph, gf.DotProduct() + gf.EdgeBias("bond", 1))
    again = pickle.loads(pickle.dumps(graph))
    assert not again.plans
    assert again.keys is again.queries
    score = gf.DotProduct() + gf.EdgeBias("bond", 1)
    assert gf.attend(x, x, x, again, score).shape == expected.shape


def test_moving_a_graph_moves_all_of_it() -> None:
    graph = make_graph()
    x = torch.randn(7, 1, 4)
    expected = gf.attend(x, x, x, graph)
    made = graph.csr, graph.rectangle
    moved = graph.to("cpu")
    assert moved.device == torch.device("cpu")
    assert moved.keys is moved.queries
    assert torch.equal(gf.attend(x, x, x, moved), expected)
    assert [part.dtype for part in moved.csr] == [part.dtype for part in made[0]]
    assert moved.edge_data["bond"].values.dtype == torch.float32
    away = graph.to("meta")
    assert away.device == torch.device("meta")
    assert away.edge_index.device == away.csr.index.device == torch.device("meta")
    assert away.queries.lengths.device == torch.device("cpu"), "nothing waits to learn lengths"
    assert away.num_edges == graph.num_edges


def test_a_moved_graph_leaves_behind_the_graphs_that_backends_made_of_it() -> None:
    graph = (gf.window(1) | gf.global_tokens(1)).bind(make_tokens((9, 7)))
    x = torch.randn(16, 1, 4)
    expected = gf.attend(x, x, x, graph, backend="band")
    assert any(isinstance(part, gf.TokenGraph) for part in graph._made.values())
    moved = graph.to("cpu")
    assert not any(isinstance(part, gf.TokenGraph) for part in moved._made.values())
    assert torch.equal(gf.attend(x, x, x, moved, backend="band"), expected)


def test_a_moved_graph_of_repeats_keeps_them() -> None:
    edge_index = torch.tensor([[0, 0, 1], [1, 1, 0]])
    graph = gf.TokenGraph.from_edge_index(edge_index, 2, bond=torch.arange(3.0)).to("cpu")
    assert torch.equal(graph.edge_index, edge_index)
    x = torch.randn(2, 1, 2)
    out = gf.attend(x, x, x, graph, gf.Mean(), normalize="none")
    assert out.eq(0).all()
    weights = gf.attend(x, x, x, graph, gf.Mean(), return_weights=True).weights
    assert weights.flatten().tolist() == [0.5, 0.5, 1.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a GPU")
def test_a_pinned_graph_is_pinned_throughout() -> None:
    graph = make_graph()
    graph.csr  # noqa: B018 - made here, pinned below
    pinned = graph.pin_memory()
    assert pinned.edge_index.is_pinned()
    assert pinned.csr.index.is_pinned()
    assert pinned.queries.at.is_pinned()


def test_to_networkx_has_an_edge_from_key_to_query() -> None:
    drawn = make_graph(gf.edges("bond")).to_networkx()
    assert isinstance(drawn, networkx.DiGraph)
    assert set(drawn.edges) == set(map(tuple, GIVEN.T.tolist()))
    assert drawn.edges[3, 1]["bond"] == [0.0, 1.0]
    assert drawn.nodes[5] == {"example": 1, "position": 1}
    assert gf.from_networkx(drawn).bind(make_tokens((7,))).num_edges == 5


def test_to_networkx_tells_keys_from_queries_and_repeats_apart() -> None:
    edge_index = torch.tensor([[0, 0], [1, 1]])
    drawn = gf.TokenGraph.from_edge_index(edge_index, 2, 1, bond=torch.tensor([1.0, 2.0]))
    drawn = drawn.to_networkx()
    assert drawn.number_of_edges(("key", 0), ("query", 1)) == 2
    assert sorted(data["bond"] for *_, data in drawn.edges(data=True)) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("topology", "lengths", "key_lengths"),
    [
        (gf.edges(GIVEN), LENGTHS, None),
        (gf.window(2) | gf.global_tokens(1), (60, 30), None),
        (gf.causal(), (700,), None),
        (gf.complete(), (3, 2), (4, 1)),
        (gf.complete(), (50,), (70,)),
        (gf.causal(), (1,), None),
    ],
    ids=str,
)
def test_draw_shows_small_graphs_as_links_and_large_ones_as_a_matrix(
    topology: gf.Topology, lengths: tuple[int, ...], key_lengths: tuple[int, ...] | None
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    keys = None if key_lengths is None else make_tokens(key_lengths)
    axes = topology.bind(make_tokens(lengths), keys).draw()
    large = max(sum(lengths), sum(key_lengths or (0,))) > 40
    assert len(axes.images) == large
    assert repr(topology) in axes.get_title()
    if large:
        shades: Tensor = torch.as_tensor(axes.images[0].get_array())
        assert shades.max() == 1, "a bin without a gap is as dark as can be"
    axes.figure.canvas.draw()
    pyplot.close(axes.figure)
