"""A query without keys gets exactly zero and gives no gradients, and nothing is ever NaN."""

from __future__ import annotations

import pytest
import torch
from cases import EXECUTORS, SCORES, make_case
from torch import Tensor

import graphformer as gf
from graphformer.backends import executors, kernels, reference
from graphformer.tokens import sequences

# Where some queries have no keys, all have none, or some examples have no keys at all.
SILENT = [("bonds", "ragged"), ("nobody", "uniform"), ("complete", "keyless examples"),
          ("window", "keyless examples"), ("difference", "single tokens")]  # fmt: skip


@pytest.fixture(params=["reference", "reference by chunks", *EXECUTORS, "band", "sparse", None])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Every way to compute, by the name of its backend."""
    if request.param == "reference by chunks":
        monkeypatch.setattr(reference, "CHUNK_BYTES", 300)
        return "reference"
    if request.param in EXECUTORS:
        monkeypatch.setattr(executors, "choose", lambda *_: request.param)
        return "dense"
    if request.param == "sparse" and kernels.why_missing():
        pytest.skip("the kernels are not built")
    return request.param


@pytest.mark.parametrize(
    ("score", "topology", "shape"),
    [
        (score, *SILENT[(number + turn) % 5])
        for number, score in enumerate(SCORES)
        for turn in (0, 2)
    ],
)
def test_queries_without_keys_get_zero_and_give_no_gradient(
    score: str, topology: str, shape: str, backend: str | None
) -> None:
    case = make_case(score, topology, shape).to(torch.bfloat16)
    graph = case.bind()
    asked = {} if backend is None else {"edge_sum": "bond", "return_weights": True}
    try:
        results = case.results(backend=backend, **asked)
    except ValueError as error:
        assert "cannot run this" in str(error)  # noqa: PT017 - a refusal, by its own words
        return
    assert not any(part.isnan().any() for part in results.values())
    unheard, unasked = graph.in_degree == 0, graph.out_degree == 0
    assert unheard.any()
    assert results["out"][unheard].eq(0).all()
    if asked:
        assert results["edge_sum"][unheard].eq(0).all()
    for name in case.score.reads:
        rows = unheard if name == "query" else unasked
        assert results[f"gradient of {name}"][rows].eq(0).all()
    assert results["gradient of value"][unasked].eq(0).all()


def test_nothing_to_attend_to_is_zero_and_differentiable(backend: str | None) -> None:
    """No queries at all, no keys at all, no tokens at all."""
    for lengths, key_lengths in (((0, 0), (2, 1)), ((2, 3), (0, 0)), ((0,), (0,))):
        queries, keys = (
            sequences([torch.zeros(n, 1) for n in sizes]) for sizes in (lengths, key_lengths)
        )
        if backend == "band" and lengths != key_lengths:
            continue
        topology = gf.window(2) if backend == "band" else gf.complete()
        graph = topology.bind(queries, queries if lengths == key_lengths else keys)
        query = torch.randn(sum(lengths), 2, 4, requires_grad=True)
        key, value = (torch.randn(sum(key_lengths), 2, 4, requires_grad=True) for _ in range(2))
        out = gf.attend(query, key, value, graph, backend=backend)
        assert out.shape == query.shape
        assert out.eq(0).all()
        for gradient in torch.autograd.grad(out.sum(), (query, key, value)):
            assert gradient.eq(0).all()
        extras = gf.attend(query, key, value, graph, backend="reference", return_weights=True)
        assert extras.weights.shape == (0, 2)


def test_shares_of_nothing_are_nothing() -> None:
    """Scores that sum to zero are not divided by it."""
    graph = gf.complete().bind(sequences([torch.zeros(3, 1)]))
    query = torch.zeros(3, 1, 2, requires_grad=True)
    key = torch.randn(3, 1, 2)
    for backend in ("reference", "dense"):
        out = gf.attend(query, key, key, graph, normalize="sum", backend=backend)
        (gradient,) = torch.autograd.grad(out.sum(), query)
        assert out.eq(0).all()
        assert not gradient.isnan().any()


def test_weights_that_are_all_dropped_leave_zero(backend: str | None) -> None:
    graph = gf.self_loops().bind(sequences([torch.zeros(50, 1)]))
    x: Tensor = torch.randn(50, 1, 2, requires_grad=True)
    out = gf.attend(x, x, x, graph, dropout=0.9, backend=backend)
    assert out.eq(0).all(-1).any()
    assert not torch.autograd.grad(out.sum(), x)[0].isnan().any()


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
def test_what_is_infinite_reaches_no_query_without_keys(biased: bool, backend: str | None) -> None:
    score = gf.DotProduct() + gf.ALiBi(2) if biased else gf.DotProduct()
    rule = gf.causal() & gf.window(9) if backend == "band" else gf.causal()
    graph = (rule - gf.self_loops()).bind(sequences([torch.zeros(n, 1) for n in (3, 4)]))
    query, key, value = (torch.randn(7, 2, 4) for _ in range(3))
    value[1] = torch.inf
    out = gf.attend(query, key, value, graph, score, backend=backend)
    assert out[[0, 3]].eq(0).all()
    assert out[3:].isfinite().all(), "the other example is as it was"


def test_an_example_without_keys_sees_nothing_of_another(backend: str | None) -> None:
    if backend == "band":
        pytest.skip("its queries are the keys")
    queries, keys = (sequences([torch.zeros(n, 1) for n in sizes]) for sizes in ((3, 2), (3, 0)))
    value = torch.randn(3, 2, 4)
    value[2] = torch.nan
    graph = gf.complete().bind(queries, keys)
    out = gf.attend(torch.randn(5, 2, 4), torch.randn(3, 2, 4), value, graph, backend=backend)
    assert out[3:].eq(0).all()
