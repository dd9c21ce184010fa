"""Dense attention on the CPU: examples on shelves by length, on the executor that was faster."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import EXECUTORS, assert_close, make_case

import graphformer as gf
from graphformer.backends import Request, dense, executors, kernels, matmul, shelves
from graphformer.tokens import sequences

TOPOLOGIES = ["complete", "causal", "longformer", "difference", "nobody"]
ABLE = {name: dense._EXECUTORS[name] for name in EXECUTORS}
SHAPES = [
    "uniform", "ragged", "empty examples", "bipartite", "keyless examples", "virtual",
    "grouped heads", "one key head", "narrow values", "one head", "single tokens",
]  # fmt: skip


def bind(*lengths: int) -> gf.TokenGraph:
    return gf.complete().bind(sequences([torch.zeros(length, 1) for length in lengths]))


def request_on(graph: gf.TokenGraph) -> Request:
    return gf.explain(graph, heads=2, dim=8, backend="reference").request


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is measured from here on."""
    chosen: dict[str, str] = {}
    monkeypatch.setattr(executors, "_chosen", chosen)
    return chosen


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("most", [1, 100], ids=["a head each", "a few examples each"])
def test_many_shelves_agree_with_reference(
    topology: str, shape: str, executor: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelves, "LEAST_SCORES", most // 2)
    monkeypatch.setattr(shelves, "MOST_SCORES", most)
    monkeypatch.setattr(executors, "choose", lambda *_: executor)
    case = make_case("dot", topology, shape)
    assert_close(case.results(backend="dense"), case.results(backend="reference"), 1e-10)


# Torch's own gives zeros for it now and then.
@pytest.mark.parametrize("executor", [each for each in EXECUTORS if each != "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(3, 2), (60, 40)], ids=["few queries", "many"])
@pytest.mark.parametrize("topology", [gf.complete(), gf.causal(), gf.window(2)])
def test_a_query_that_is_no_number_stays_so(
    topology: gf.Topology, lengths: tuple[int, ...], dtype: torch.dtype, executor: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(executors, "choose", lambda *_: executor)
    graph = topology.bind(sequences([torch.zeros(length, 1) for length in lengths]))
    query, key, value = torch.randn(3, sum(lengths), 2, 8, dtype=dtype)
    query[1] = torch.nan
    for grad in (False, True):
        out = gf.attend(query.requires_grad_(grad), key, value, graph, backend="dense")
        assert out[1].isnan().all()
        assert out[torch.arange(len(out)) != 1].isfinite().all()
        query = query.detach()


def test_shelves_hold_examples_of_about_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "LEAST_SCORES", 150)
    monkeypatch.setattr(shelves, "MOST_SCORES", 2000)
    graph = bind(20, 5, 21, 5, 22, 6)
    found = shelves.make_shelves(graph, 1, torch.float32, fused=False)
    assert [(shelf.num_examples, shelf.rows) for shelf in found] == [(3, 22), (3, 6)]
    # Padded to one length it would be 6 x 22 x 22.
    assert sum(shelf.num_examples * shelf.rows * shelf.columns for shelf in found) == 1560


def test_examples_of_one_length_stay_in_their_order() -> None:
    assert shelves.make_order(bind(7, 7, 7), "query", 2, 2) is None


@pytest.mark.parametrize("executor", [each for each in EXECUTORS if each != "sdpa"])
def test_dropout_is_replayed(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "LEAST_SCORES", 1)
    monkeypatch.setattr(shelves, "MOST_SCORES", 64)
    monkeypatch.setattr(dense, "_able", lambda request: {executor: ABLE[executor]})
    graph = bind(9, 3, 12, 5)
    query, key, outside = torch.randn(3, 29, 2, 4, dtype=torch.float64).unbind()
    value = torch.randn(29, 2, 4, dtype=torch.float64, requires_grad=True)
    out = gf.attend(query, key, value, graph, dropout=0.5, backend="dense")
    (gradient,) = torch.autograd.grad(out, value, outside)
    # Linear in the values: <outside, out> is <gradient, value> if both used the same weights.
    torch.testing.assert_close((outside * out).sum(), (gradient * value).sum())


def test_the_first_plan_measures_all_lengths(
    measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a checkpoint, however early, keeps what all later batches are planned with."""
    settings = {"heads": 2, "dim": 8, "training": True, "backend": "dense"}
    gf.plan(bind(9, 4, 17), **settings)
    # Even, ragged and single examples, each with products and without.
    assert len(measured) == 6 * len(executors.LENGTHS)
    known = dict(measured)
    for lengths in ((2, 3), (30, 30, 30), (500, 100), (700, 700), (40,)):
        gf.plan(bind(*lengths), **settings)
    monkeypatch.setattr(executors, "MOST_BYTES", 100)
    gf.plan(bind(9, 8, 3), **settings)
    assert measured == known


def test_the_executor_is_the_one_measured_at_the_nearest_length(
    measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "LENGTHS", (8, 20, 64))
    for lengths in ((9, 4, 17), (9, 9)):
        gf.plan(bind(*lengths), heads=2, dim=8, backend="dense")
    for name in measured:
        measured[name] = "matmul" if " 20x8" in name else "sdpa"
    assert executors.choose(request_on(bind(20, 21, 19)), ABLE) == "matmul"
    assert executors.choose(request_on(bind(30, 30)), ABLE) == "matmul"
    assert executors.choose(request_on(bind(60, 58)), ABLE) == "sdpa"


def test_products_must_be_clearly_faster(
    measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = itertools.cycle([1.0, 0.95, 1.1][: len(EXECUTORS)])
    monkeypatch.setattr(executors, "_seconds", lambda *_: next(taken))
    gf.plan(bind(9, 4, 17), heads=2, dim=8, training=True, backend="dense")
    assert set(measured.values()) == {"sdpa"}


def test_weights_that_would_fill_memory_are_never_kept(
    measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = bind(100, 90)
    monkeypatch.setattr(executors, "MOST_BYTES", 4 * 2 * graph.num_edges - 1)
    monkeypatch.setattr(executors, "_seconds", lambda _, inputs, each: float(each is not matmul))
    assert executors.choose(request_on(bind(100, 80)), ABLE) == "matmul"
    assert executors.choose(request_on(graph), ABLE) != "matmul"


def test_each_dtype_on_a_graph_has_its_own_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {torch.float32: "sdpa", torch.bfloat16: "matmul"}
    monkeypatch.setattr(executors, "choose", lambda request, _: names[request.dtype])
    graph = bind(6, 4)
    plans = [gf.plan(graph, heads=2, dim=8, dtype=dtype, backend="dense") for dtype in names]
    assert [dense.chosen_executor(made.request) for made in plans] == ["sdpa", "matmul"]


def test_to_explain_measures_nothing(measured: dict[str, str]) -> None:
    graph = bind(9, 4)
    plan = gf.explain(graph, heads=2, dim=8, training=True)
    assert not measured
    assert "which is faster the first call measures" in str(plan)
    assert gf.plan(graph, heads=2, dim=8, training=True).name == plan.name
    assert measured


def test_explain_names_the_executor_and_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    words_of = {
        "sdpa": "on scaled_dot",
        "matmul": "weights hold 0.005 MB",
        "tiles": "on a kernel of this library",
    }
    for executor in EXECUTORS:
        words = words_of[executor]
        monkeypatch.setattr(executors, "choose", lambda *_, name=executor: name)
        graph = bind(20, 15)
        gf.plan(graph, heads=2, dim=8, training=True)
        assert words in str(gf.explain(graph, heads=2, dim=8, training=True))


@pytest.mark.parametrize("executor", ["sdpa", "matmul", "tiles"])
def test_offsets_may_be_any_integers(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if executor == "tiles" and kernels.why_missing():
        pytest.skip("the kernels are not built")
    monkeypatch.setattr(executors, "choose", lambda *_: executor)
    x = torch.randn(9, 2, 4)
    found = []
    for dtype in (torch.int64, torch.int32):
        ptr = torch.tensor([0, 4, 9], dtype=dtype)
        at = torch.cat([torch.arange(4), torch.arange(5)]).unsqueeze(1).to(dtype)
        tokens = gf.Tokens(x, ptr, at, torch.tensor([4, 5]))
        graph = gf.complete().bind(tokens)
        found.append(gf.attend(x, x, x, graph, backend="dense"))
    assert torch.equal(*found)
