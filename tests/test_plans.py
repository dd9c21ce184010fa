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
