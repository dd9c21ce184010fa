"""What plans, `explain` and layers refuse, before any work."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
from test_refusals import DIM, GRAPH, HEADS, TOKENS, X, raises
from torch_geometric.data import Data

import graphformer as gf
from graphformer.layers import Attention


def test_plans_refuse_what_attend_refuses() -> None:
    for ask in (gf.plan, gf.explain):
        with raises(ValueError, "unknown backend 'flash'"):
            ask(GRAPH, backend="flash")
        with raises(ValueError, "normalize='max'"):
            ask(GRAPH, normalize="max")
        with raises(ValueError, "no edge data 'bond'"):
            ask(GRAPH, edge_sum="bond")
        with raises(ValueError, "cannot run this"):
            ask(GRAPH, gf.GATv2(HEADS, DIM), HEADS, DIM, backend="dense")


class OwnPairwise(gf.PairwiseScore):
    """A function that no kernel knows."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, pair: gf.Pair) -> torch.Tensor:
        return (query - key).abs().sum(-1)


def test_a_setting_that_plans_do_not_have_is_refused() -> None:
    for make in (gf.plan, gf.explain):
        with raises(TypeError, "no setting 'droput'", "known are normalize, dropout"):
            make(GRAPH, droput=0.1)


def test_plans_are_for_the_heads_of_the_score() -> None:
    for score in (gf.Cosine(HEADS), gf.DotProduct() + gf.ALiBi(HEADS)):
        assert f"{HEADS} heads of" in str(gf.explain(GRAPH, score))
        with raises(ValueError, "was made for 4 heads", "make it with heads=2"):
            gf.explain(GRAPH, score, heads=2)


def test_explain_says_why_not() -> None:
    text = str(gf.explain(GRAPH, OwnPairwise(), HEADS, DIM))
    assert "runs on reference" in text
    assert re.search(r"dense +no: a pairwise score", text)
    assert "a predicate cannot be listed" in str(
        gf.explain(gf.where(lambda pair: pair.distance == 0).bind(TOKENS))
    )


def test_a_large_request_on_reference_warns_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("graphformer.planner.LARGE", 10)
    with pytest.warns(UserWarning, match=r"25 edges run on the reference backend.*pairwise"):
        gf.attend(X, X, X, gf.complete().bind(TOKENS), OwnPairwise())


def test_drawing_says_how_to_get_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with raises(ModuleNotFoundError, "matplotlib", "graphformer[plots]"):
        GRAPH.draw()


@pytest.mark.usefixtures("unchecked")
def test_attention_refuses_what_is_no_score_and_no_bound_graph() -> None:
    for wrong in (gf.DotProduct, "DotProduct()"):
        with raises(TypeError, "attention needs a score, it got", "write DotProduct()"):
            gf.attend(X, X, X, GRAPH, wrong)
        with raises(TypeError, "attention needs a score, it got"):
            gf.explain(GRAPH, wrong, HEADS, DIM)
    with raises(TypeError, "it got complete(); bind a topology to tokens"):
        gf.explain(gf.complete(), gf.DotProduct(), HEADS, DIM)
    layer, edge_index = Attention(HEADS * DIM, HEADS), torch.zeros(2, 1000, dtype=torch.int64)
    with raises(
        TypeError, "it got the module Attention; the graph comes first, score or model follow"
    ):
        gf.explain(layer)
    for call in (lambda: gf.explain(edge_index, layer), lambda: gf.attend(X, X, X, edge_index)):
        with raises(TypeError, "a tensor of shape [2, 1000]; bind edges to tokens: edges(edge_"):
            call()
    with raises(TypeError, "needs a TokenGraph, it got a list; bind a topology"):
        gf.attend(X, X, X, [edge_index])
    with raises(TypeError, "attention needs a score, it got a tensor of shape [2, 1000]; write"):
        gf.attend(X, X, X, GRAPH, edge_index)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", [X, Data(x=X, num_nodes=5), [X]], ids=["tensor", "data", "list"])
def test_a_topology_is_bound_to_tokens_alone(what: Any) -> None:
    with raises(TypeError, f"bound to Tokens, it got a {type(what).__name__}: make them with seq"):
        gf.complete().bind(what)
    with raises(TypeError, f"bound to Tokens, it got a {type(what).__name__}: make them with seq"):
        gf.complete().bind(TOKENS, what)


@pytest.mark.usefixtures("unchecked")
def test_attention_refuses_numbers_without_fractions_and_no_heads() -> None:
    with raises(ValueError, "value is torch.int64; attention needs floating point"):
        gf.attend(X.long(), X.long(), X.long(), GRAPH)
    with raises(ValueError, "value has 0 heads of 6 numbers"):
        gf.attend(X[:, :0], X[:, :0], X[:, :0], GRAPH)
