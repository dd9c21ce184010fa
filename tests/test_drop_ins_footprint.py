"""What a training step makes and keeps: tokens x dim and edges x heads, never all three."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from cases import Capped
from drop_in_cases import EDGE_DIM, LAYERS, attending, layer_settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import graphformer as gf
import graphformer.nn as ours
from graphformer.backends import kernels

MISSING = kernels.why_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
# A number for each edge, head and dimension would be ten times the largest of what is needed.
TOKENS, EDGES, HEADS, DIM = 40, 3000, 2, 64
WIDE = EDGES * HEADS * DIM * 4


class Made(TorchDispatchMode):
    """The bytes of each tensor that an operator made, and of all that is kept for the backward."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.kept: dict[int, Tensor] = {}

    @property
    def kept_bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.kept.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        there = {_storage(x) for x in _tensors((args, kwargs))}
        found = func(*args, **(kwargs or {}))
        self.sizes += [
            x.untyped_storage().nbytes() for x in _tensors(found) if _storage(x) not in there
        ]
        return found

    def keep(self, tensor: Tensor) -> Tensor:
        self.kept[_storage(tensor)] = tensor
        return tensor


def _tensors(tree: Any) -> Iterable[Tensor]:
    return (x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.layout is torch.strided)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def made_by(step: Any) -> Made:
    """What a step makes once graphs are bound."""
    step()
    made = Made()
    with torch.autograd.graph.saved_tensors_hooks(made.keep, lambda tensor: tensor), made:
        step()
    return made


def make_edges() -> Tensor:
    return torch.randint(TOKENS, (2, EDGES))


@pytest.mark.parametrize(("name", "with_edges"), LAYERS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_step_makes_nothing_of_edges_heads_and_dim(
    name: str, with_edges: bool, dropout: float
) -> None:
    settings = layer_settings(name, with_edges, HEADS)
    settings |= {} if name == "GCNConv" else {"dropout": dropout}
    layer = getattr(ours, name)(8, DIM, **settings)
    edge_index, x = make_edges(), torch.randn(TOKENS, 8, requires_grad=True)
    bond = (torch.randn(EDGES, EDGE_DIM, requires_grad=True),) if with_edges else ()

    def step() -> None:
        with attending():
            layer(x, edge_index, *bond).sum().backward()

    made = made_by(step)
    assert max(made.sizes) < WIDE / 10
    assert made.kept_bytes < WIDE / 4


@pytest.mark.parametrize(
    "score", ["dot", "edge dot", "gatv2", "gatv2 of edges", "bahdanau", "additive", "capped"]
)
def test_attention_makes_nothing_of_edges_heads_and_dim(score: str) -> None:
    edge_weight = torch.nn.Parameter(torch.randn(HEADS, DIM, EDGE_DIM))
    modules: dict[str, Any] = {
        "dot": gf.DotProduct() + gf.EdgeBias("bond", HEADS, EDGE_DIM),
        "edge dot": gf.EdgeDot("bond", edge_weight),
        "gatv2": gf.GATv2(HEADS, DIM),
        "gatv2 of edges": gf.GATv2(HEADS, DIM, edge_data="bond", edge_weight=edge_weight),
        "bahdanau": gf.Bahdanau(HEADS, DIM),
        "additive": gf.Additive(HEADS, DIM),
        "capped": Capped(),
    }
    bond = torch.randn(EDGES, EDGE_DIM, requires_grad=True)
    graph = gf.TokenGraph.from_edge_index(make_edges(), TOKENS, bond=bond)
    leaves = [torch.randn(TOKENS, HEADS, DIM, requires_grad=True) for _ in range(3)]

    def step() -> None:
        found = gf.attend(
            *leaves, graph, modules[score], dropout=0.1, edge_sum="bond", backend="sparse",
            return_weights=True,
        )  # fmt: skip
        (found.out.sum() + found.edge_sum.sum() + found.weights.sum()).backward()

    made = made_by(step)
    assert max(made.sizes) < WIDE / 10
    assert made.kept_bytes < WIDE / 4
