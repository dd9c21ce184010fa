"""A graph keeps its plans, but not for ever those of scores that are gone."""

from __future__ import annotations

import gc
import pickle
import weakref

import pytest
import torch
from torch import Tensor

import graphformer as gf
from graphformer.attend import MOST_UNASKED
from graphformer.backends import kernels


@pytest.fixture
def graph() -> gf.TokenGraph:
    return gf.complete().bind(gf.sequences([torch.zeros(5, 1)]))


def attend(graph: gf.TokenGraph, score: gf.Score) -> Tensor:
    x = torch.linspace(-1, 1, 40).view(5, 2, 4)
    out = gf.attend(x, x, x, graph, score)
    assert isinstance(out, Tensor)
    return out


def test_scores_made_in_each_call_are_let_go(graph: gf.TokenGraph) -> None:
    first = gf.DotProduct()
    gone = weakref.ref(first)
    expected = attend(graph, first)
    del first
    for _ in range(MOST_UNASKED + 3):
        assert torch.equal(attend(graph, gf.DotProduct()), expected)
    assert len(graph.plans) == len(graph.unasked) == MOST_UNASKED
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("called", [False, True], ids=["planned", "called before"])
def test_what_was_planned_is_kept(called: bool, graph: gf.TokenGraph) -> None:
    kept = gf.DotProduct()
    if called:
        attend(graph, kept)
    gf.plan(graph, kept, heads=2, dim=4, training=True)
    (key,) = graph.plans
    for _ in range(MOST_UNASKED + 3):
        attend(graph, gf.DotProduct())
    assert key in graph.plans
    assert len(graph.plans) == MOST_UNASKED + 1


def test_a_copy_has_plans_of_its_own(graph: gf.TokenGraph) -> None:
    attend(graph, gf.DotProduct())
    copied = pickle.loads(pickle.dumps(graph))
    assert not copied.plans
    assert not copied.unasked


def test_a_score_whose_function_is_changed_is_planned_anew() -> None:
    index = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
    tokens, score = gf.sequences([torch.zeros(5, 1)]), gf.DotProduct()
    graph = (gf.edges(index) | gf.self_loops()).bind(tokens)
    before = attend(graph, score)
    score.pointwise = gf.SoftCap(0.01)
    expected = attend((gf.edges(index) | gf.self_loops()).bind(tokens), score)
    torch.testing.assert_close(attend(graph, score), expected)
    assert not torch.allclose(before, expected)


def test_a_plan_refuses_heads_that_cannot_be_shared(graph: gf.TokenGraph) -> None:
    with pytest.raises(ValueError, match="4 heads of queries cannot share 3 of keys and values"):
        gf.plan(graph, heads=4, kv_heads=3)


@pytest.mark.parametrize("backend", ["sparse", "reference"])
@pytest.mark.parametrize("query", [[0, 1, 2, 3], [3, 1, 0, 2]], ids=["in order", "out of it"])
def test_edge_data_may_be_changed_in_place(backend: str, query: list[int]) -> None:
    if backend == "sparse" and kernels.why_missing() is not None:
        pytest.skip("no kernels here")
    index = torch.tensor([[3, 0, 2, 1] * 2, query * 2])
    index[0, 4:] = (index[0, 4:] + 1) % 4
    x, values = torch.randn(4, 2, 4), torch.randn(8, 1)
    score = gf.DotProduct() + gf.EdgeBias("bond", heads=2, edge_dim=1)
    tokens = gf.sequences([torch.zeros(4, 1)])
    for topology in (None, gf.edges(index)):
        if topology is None:
            graph = gf.TokenGraph.from_edge_index(index, 4, bond=values)
        else:
            graph = topology.bind(tokens, bond=gf.EdgeValues(index, values))
        for _ in range(2):
            found = gf.attend(x, x, x, graph, score, backend=backend)
            fresh = gf.edges(index).bind(tokens, bond=gf.EdgeValues(index, values.clone()))
            same = gf.attend(x, x, x, fresh, score, backend="reference")
            torch.testing.assert_close(found, same, rtol=1e-4, atol=1e-5)
            values.copy_(torch.randn(8, 1))


def test_a_copy_with_other_edge_data_is_let_go() -> None:
    index = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
    values = torch.randn(5, 1)
    graph = gf.edges(index).bind(
        gf.sequences([torch.zeros(5, 1)]), bond=gf.EdgeValues(index, values)
    )
    copy = graph.with_edge_data(bond=values * 2)
    held = weakref.ref(copy)
    attend(copy, gf.DotProduct() + gf.EdgeBias("bond", heads=2, edge_dim=1))
    assert copy.bound is graph
    del copy
    gc.collect()
    assert held() is None
