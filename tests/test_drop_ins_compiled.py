"""Models with drop-ins run under `torch.compile`, and give what they give without it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

import graphformer as gf

pytestmark = [
    pytest.mark.compiled,
    # torch's compiler makes an autograd.Function of its own, and looks for gradients everywhere.
    pytest.mark.filterwarnings(
        "ignore:.*Function.* should not be instantiated:DeprecationWarning",
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
    ),
]
EDGE_INDEX = torch.tensor([[0, 1, 2, 3, 3, 1], [1, 2, 0, 3, 0, 0]])


def compare(model: nn.Module, call: Callable[[nn.Module], Tensor], fullgraph: bool = False) -> None:
    """Twice, so that what the first call made is used; gradients of all parameters too."""
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=fullgraph)
    for _ in range(2):
        expected, found = call(model), call(compiled)
        torch.testing.assert_close(found, expected)
        wanted = list(model.parameters())
        gradients = [torch.autograd.grad(out.square().sum(), wanted) for out in (found, expected)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["TransformerConv", "GATConv", "GATv2Conv", "GCNConv"])
def test_a_compiled_network_is_the_network(name: str) -> None:
    layers = [getattr(gf.nn, name)(4, 4) for _ in range(2)]
    model = pyg.Sequential(
        "x, edge_index",
        [
            (layers[0], "x, edge_index -> x"),
            nn.ReLU(),
            (layers[1], "x, edge_index -> x"),
            nn.Linear(4, 2),
        ],
    )
    x = torch.randn(4, 4)
    compare(model, lambda model: model(x, EDGE_INDEX))


@pytest.mark.parametrize("masked", [False, True])
def test_compiled_attention_is_whole(masked: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
    theirs = copy.deepcopy(layer)
    gf.accelerate(layer)
    x = torch.randn(2, 5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if masked else None
    compare(layer, lambda model: model(x, src_mask=mask), fullgraph=True)
    torch.testing.assert_close(layer(x, src_mask=mask), theirs(x, src_mask=mask))


def test_compiling_a_convolution_whole_says_why_not() -> None:
    torch.compiler.reset()
    layer = torch.compile(gf.nn.GATConv(4, 4), backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="knows the graph of edge_index by its identity"):
        layer(torch.randn(4, 4), EDGE_INDEX)
