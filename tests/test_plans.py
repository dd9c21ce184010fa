"""Scores that differ in their weights alone share the plans of a graph, and a graph keeps few."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphformer as gf
from graphformer.attend import MOST_PLANS
from graphformer.layers import Attention

HOPS = gf.EdgeValues(torch.tensor([[0, 1], [1, 0]]), torch.ones(2))
BIAS = gf.HopBias("hops", 2)


class Stretched(gf.BilinearScore):
    """A score of a user's own."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit
        self.weight = nn.Parameter(torch.randn(2, 4))

    def prepare_query(self, query: Tensor, side: gf.Side) -> Tensor:
        return query * self.weight


class Own(gf.DotProduct):
    """A score with a function, of which nobody knows what is alike to it."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__()
        self.function = function


SCORES: dict[str, Callable[[], gf.Score]] = {
    "dot": gf.DotProduct,
    "kept bias": lambda: gf.DotProduct() + BIAS,
    "bias": lambda: gf.DotProduct() + gf.HopBias("hops", 2),
    "gatv2": lambda: gf.GATv2(2, dim=4),
    "rotary": lambda: gf.Rotary(gf.Cosine(2)) + gf.ALiBi(2),
    "tensor": lambda: gf.EdgeDot("hops", torch.randn(2, 4, 1)),
    "own": lambda: Stretched("m"),
}


def make_graph() -> gf.TokenGraph:
    return gf.complete().bind(gf.sequences([torch.zeros(5, 1)]), hops=HOPS)


def attend(graph: gf.TokenGraph, score: gf.Score) -> Tensor:
    x = torch.linspace(-1, 1, 40).view(5, 2, 4)
    out = gf.attend(x, x, x, graph, score)
    assert isinstance(out, Tensor)
    return out


@pytest.mark.parametrize("name", SCORES)
def test_scores_written_in_the_call_share_a_plan(name: str) -> None:
    graph = make_graph()
    for _ in range(5):
        score = SCORES[name]()
        found = attend(graph, score)
        assert len(graph.plans) == 1
        alone = make_graph()
        alone.plans = {}
        score.planned_as = None
        torch.testing.assert_close(found, attend(alone, score))


@pytest.mark.parametrize("name", SCORES)
def test_scores_written_in_the_call_die_with_it(name: str) -> None:
    graph, first = make_graph(), SCORES[name]()
    attend(graph, first)
    gc.collect()
    gc.disable()
    try:
        score = SCORES[name]()
        alive = weakref.ref(score)
        attend(graph, score)
        del score
        assert alive() is None
    finally:
        gc.enable()


def capped() -> gf.Score:
    score = gf.DotProduct()
    score.pointwise = gf.SoftCap(0.1)
    return score


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (gf.DotProduct, capped),
        (lambda: gf.GATv2(2, 4, slope=0.1), lambda: gf.GATv2(2, 4, slope=0.2)),
        (gf.DotProduct, lambda: gf.DotProduct() + BIAS),
        (lambda: gf.DotProduct() + BIAS, lambda: gf.DotProduct() + gf.ALiBi(2)),
        (lambda: Stretched("m"), lambda: Stretched("s")),
    ],
)
def test_scores_that_differ_in_more_have_plans_of_their_own(
    one: Callable[[], gf.Score], other: Callable[[], gf.Score]
) -> None:
    graph = make_graph()
    torch.manual_seed(0)
    attend(graph, one())
    score = other()
    torch.testing.assert_close(attend(graph, score), attend(make_graph(), score))
    assert len(graph.plans) == 2


def test_a_graph_forgets_the_oldest_plans_of_scores_like_no_other() -> None:
    graph = make_graph()
    scores = [Own(lambda: None) for _ in range(MOST_PLANS + 2)]
    for score in scores:
        attend(graph, score)
    assert [key.score for key in graph.plans] == scores[2:]


def test_layers_of_a_model_are_planned_once() -> None:
    tokens = gf.sequences([torch.randn(5, 8)])
    model = nn.ModuleList(Attention(8, 2, gf.Rotary(gf.Cosine(2))) for _ in range(3))
    graph = gf.causal().bind(tokens)
    plans = gf.plan(graph, model, training=True)
    assert len(plans) == 3
    assert len(graph.plans) == 1
    for layer in model:
        layer(tokens.x, graph)
    assert len(graph.plans) == 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_takes_no_other_score_along(again: Callable[[gf.Score], gf.Score]) -> None:
    graph, first, second = make_graph(), gf.GATv2(2, 4), gf.GATv2(2, 4)
    attend(graph, first)
    attend(graph, second)
    assert second.planned_as is not None
    found = again(second)
    assert found.planned_as is None
    assert torch.equal(attend(graph, found), attend(graph, second))
