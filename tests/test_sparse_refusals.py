"""What the kernels and the backend on them refuse, in their own words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_sparse import MISSING, arguments, make_graph, needs_kernels, normal
from torch import Tensor
from torch.autograd import forward_ad

import graphformer as gf
from graphformer.backends import kernels


@needs_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": normal(6, 2, 4).double()}, "key is torch.float64, not torch.float32"),
        ({"query_term": torch.zeros(5, 2).double()}, "query term is torch.float64, not"),
        ({"key_of": torch.zeros(20, dtype=torch.int64)}, "key_of is torch.int64: make it"),
    ],
    ids=["key", "term", "index"],
)
def test_operators_refuse_numbers_of_another_kind(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.graphformer.sparse_forward(*arguments(**change))


def explained(graph: gf.TokenGraph, **settings: Any) -> str:
    candidate = gf.explain(graph, **settings).candidates["sparse"]
    assert isinstance(candidate, str)
    return candidate


def test_without_kernels_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHFORMER_KERNELS", "/nowhere/kernels.so")
    kernels._load.cache_clear()
    try:
        graph = make_graph(5, 5, 9)
        assert "pip install" in explained(graph)
        assert "/nowhere/kernels.so" in explained(graph)
        assert gf.explain(graph).name == "reference"
        assert kernels.instruction_set() is None
        with pytest.raises(ValueError, match=r"the sparse backend cannot run this.*install GCC"):
            gf.attend(*[normal(5, 2, 4)] * 3, graph, backend="sparse")
    finally:
        kernels._load.cache_clear()


def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if MISSING is not None:
        pytest.skip(MISSING)
    monkeypatch.setattr(kernels.ctypes, "sizeof", lambda _: 8)
    kernels._load.cache_clear()
    try:
        assert "of another version" in explained(make_graph(5, 5, 9))
    finally:
        kernels._load.cache_clear()


def test_what_the_kernels_do_not_know_is_refused() -> None:
    graph = make_graph(5, 5, 9)

    class Distance(gf.PairwiseScore):
        def forward(self, query: Tensor, key: Tensor, pair: gf.layout.Pair) -> Tensor:
            return -(query - key).norm(dim=-1)

    assert "edges x heads x dim" in explained(graph, score=Distance())
    assert "not in torch.float16" in explained(graph, dtype=torch.float16)


@needs_kernels
def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no instruction set 'sse9'"):
        kernels.use_instruction_set("sse9")


@needs_kernels
def test_an_unknown_instruction_set_of_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRAPHFORMER_ISA", "sse9")
    kernels._load.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"'sse9'.*portable; write one of them"):
            kernels.why_missing()
    finally:
        kernels._load.cache_clear()


@needs_kernels
def test_forward_mode_is_refused_by_name() -> None:
    graph, x = make_graph(5, 5, 9), normal(5, 2, 4)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match="has no forward mode; write"):
            gf.attend(dual, x, x, graph, backend="sparse")


@needs_kernels
def test_a_score_elsewhere_is_refused() -> None:
    graph = gf.edges(torch.tensor([[0, 1], [1, 0]])).bind(gf.sequences([torch.zeros(2, 1)]))
    x = torch.randn(2, 1, 4)
    with pytest.raises(ValueError, match="is on meta, and the graph on cpu: move both to one"):
        gf.attend(x, x, x, graph, gf.GATv2(1, 4).to("meta"), backend="sparse")


@needs_kernels
def test_a_key_that_is_no_number_leaves_none_to_the_queries_that_hear_it() -> None:
    graph = gf.edges(torch.tensor([[0, 1, 2], [0, 0, 1]])).bind(gf.sequences([torch.zeros(3, 1)]))
    query, key = torch.ones(3, 2, 4), torch.ones(3, 2, 4)
    key[1] = torch.nan
    value = torch.randn(3, 2, 4, requires_grad=True)
    asked = {"return_weights": True, "backend": "sparse"}
    found = gf.attend(query, key, value, graph, **asked)
    assert found.weights.isnan().tolist() == [[True, True], [True, True], [False, False]]
    found.out.sum().backward()
    assert value.grad.isnan().all(2).tolist() == [[True, True], [True, True], [False, False]]
