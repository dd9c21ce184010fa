"""A graph is bound once for all layers and calls, and forgotten with its edges."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
import torch
from drop_in_cases import NAMES, attending
from torch import Tensor, nn
from torch_geometric.utils import to_torch_coo_tensor

import graphformer as gf
import graphformer.nn as ours
from graphformer.nn import drop_in, memory


@pytest.fixture
def binding() -> Iterator[MagicMock]:
    """Counts the graphs that are bound."""
    bind = gf.TokenGraph.from_edge_index
    with patch.object(gf.TokenGraph, "from_edge_index", wraps=bind) as spy:
        yield spy


def make(name: str, **settings: Any) -> nn.Module:
    return getattr(ours, name)(4, 4, **settings)


def make_edges() -> Tensor:
    return torch.tensor([[0, 1, 2, 2, 3], [1, 2, 0, 2, 3]])


@pytest.mark.parametrize("name", NAMES)
def test_two_layers_and_two_epochs_bind_once(name: str, binding: MagicMock) -> None:
    first, second, edge_index = make(name), make(name), make_edges()
    for _ in range(2):
        second(first(torch.randn(4, 4), edge_index).relu(), edge_index).sum().backward()
    with torch.no_grad():
        first.eval()(torch.randn(4, 4), edge_index)
    assert binding.call_count == 1


def test_layers_that_add_loops_share_their_graph(binding: MagicMock) -> None:
    edge_index, x = make_edges(), torch.randn(4, 4)
    make("GATConv")(x, edge_index)
    make("GATv2Conv")(x, edge_index)
    assert binding.call_count == 1
    make("TransformerConv")(x, edge_index)
    make("GATConv", add_self_loops=False)(x, edge_index)
    assert binding.call_count == 2


@pytest.mark.parametrize("name", NAMES)
def test_edges_changed_in_place_are_bound_anew(name: str, binding: MagicMock) -> None:
    layer, edge_index, x = make(name), make_edges(), torch.randn(4, 4)
    before = layer(x, edge_index)
    edge_index[1] = edge_index[1].flip(0)
    found = layer(x, edge_index)
    assert binding.call_count == 2
    assert not torch.equal(found, before)
    torch.testing.assert_close(found, layer(x, edge_index.clone()))


def test_edges_are_bound_anew_when_other_data_are_put_into_them(binding: MagicMock) -> None:
    layer, edge_index, x = make("GATConv"), make_edges(), torch.randn(4, 4)
    layer(x, edge_index)
    other = make_edges().flip(0)
    edge_index.data = other
    torch.testing.assert_close(layer(x, edge_index), layer(x, other))
    assert binding.call_count == 3


def test_threads_that_meet_new_edges_together_bind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = make("GATConv").eval(), torch.randn(4, 4)
    together = Barrier(4)
    bind = drop_in._bind

    def slowly(*arguments: Any) -> Any:
        together.wait(10)  # all of them are binding
        return bind(*arguments)

    monkeypatch.setattr(drop_in, "_bind", slowly)

    def run(edge_index: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(x, edge_index)

    for _ in range(20):
        edge_index = make_edges()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(run, [edge_index] * 4))
        for each in found[1:]:
            torch.testing.assert_close(each, found[0])


def test_equal_edges_of_another_tensor_are_bound_anew(binding: MagicMock) -> None:
    layer, edge_index, x = make("GATConv"), make_edges(), torch.randn(4, 4)
    layer(x, edge_index)
    layer(x, edge_index.clone())
    assert binding.call_count == 2


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_an_adjacency_is_bound_once(binding: MagicMock) -> None:
    adj = to_torch_coo_tensor(make_edges(), size=(4, 4)).t()
    for _ in range(3):
        make("TransformerConv")(torch.randn(4, 4), adj)
    assert binding.call_count == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loops", [True, False])
def test_a_graph_dies_with_its_edges(name: str, loops: bool) -> None:
    """At once: a loop over batches must not wait for the garbage collector."""
    layer = make(name, **({} if name == "TransformerConv" else {"add_self_loops": loops}))
    edge_index, x = make_edges(), torch.randn(4, 4, requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        layer(x, edge_index).sum().backward()
        layer(x.detach(), edge_index)
        (graph,) = memory._memory[edge_index].made.values()
        alive = weakref.ref(graph)
        del graph, edge_index
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", NAMES[:3])
def test_edge_features_die_with_their_call(name: str) -> None:
    layer, edge_index = make(name, edge_dim=3), make_edges()
    made = torch.randn(5, 3, requires_grad=True) * 2
    alive = weakref.ref(made)
    gc.collect()
    gc.disable()
    try:
        out = layer(torch.randn(4, 4), edge_index, made)
        del made, out
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["TransformerConv", "GATv2Conv"])
def test_plans_do_not_grow_with_calls_and_layers(name: str) -> None:
    edge_index, x = make_edges(), torch.randn(4, 4)
    bond = torch.randn(5, 3)
    for _ in range(3):
        layer = make(name, edge_dim=3)
        layer(x, edge_index, bond)
        layer(x, edge_index, bond)
    (graph,) = memory._memory[edge_index].made.values()
    assert len(graph.plans) == 1
    (plan,) = graph.plans.values()
    assert plan.request.graph is graph


@pytest.mark.parametrize("name", ["TransformerConv", "GATv2Conv"])
def test_layers_that_share_plans_keep_their_weights(name: str) -> None:
    edge_index, x, bond = make_edges(), torch.randn(4, 4), torch.randn(5, 3)
    first, second = make(name, edge_dim=3), make(name, edge_dim=3)
    before = [layer(x, edge_index, bond) for layer in (first, second)]
    assert not torch.allclose(*before)
    for layer, expected in zip((first, second), before, strict=True):
        assert torch.equal(layer(x, edge_index, bond), expected)
        theirs = super(type(layer), layer).forward(x, edge_index, bond)
        torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-5)


def test_what_inference_mode_bound_serves_training(binding: MagicMock) -> None:
    layer, edge_index = make("GATConv"), make_edges()
    with torch.inference_mode():
        layer(torch.randn(4, 4), edge_index)
    layer(torch.randn(4, 4), edge_index).sum().backward()
    assert binding.call_count == 1


def test_edges_of_inference_mode_are_not_remembered() -> None:
    layer = make("TransformerConv")
    with torch.inference_mode():
        edge_index = make_edges()
        first = layer(torch.ones(4, 4), edge_index)
        edge_index[0] = edge_index[0].flip(0)
        assert not torch.equal(layer(torch.ones(4, 4).cumsum(0), edge_index), first)
    with attending():
        layer(torch.randn(4, 4), edge_index).sum().backward()
