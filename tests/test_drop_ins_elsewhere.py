"""Drop-ins in what surrounds a layer: heterogeneous models, and dtypes of 16 bits."""

from __future__ import annotations

import copy

import pytest
import torch
import torch_geometric.nn as pyg
from drop_in_cases import NAMES, attending, draw_numbers, make_pair
from torch import Tensor, nn

import graphformer as gf
import graphformer.nn as ours

EDGE_INDEX = torch.tensor([[0, 1, 2, 3, 3, 1], [1, 2, 0, 3, 0, 0]])


@pytest.mark.parametrize("name", NAMES)
def test_16_bits_give_much_the_same(name: str) -> None:
    drop, theirs = make_pair(name, 8, 4)
    x = draw_numbers(4, 8)
    expected = theirs(x, EDGE_INDEX)
    for dtype in (torch.bfloat16, torch.float16):
        with attending():
            found = copy.deepcopy(drop).to(dtype)(x.to(dtype), EDGE_INDEX)
        assert found.dtype == dtype
        assert (found.double() - expected).norm() < 2e-2 * expected.norm()


class Net(nn.Module):
    """Two layers that find out the sizes of each kind of node."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = pyg.GATConv((-1, -1), 4, add_self_loops=False)
        self.conv2 = pyg.TransformerConv((-1, -1), 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


KINDS = (["a", "b"], [("a", "to", "b"), ("b", "of", "a")])
FEATURES = {"a": torch.randn(3, 5), "b": torch.randn(4, 6)}
EDGES = {
    ("a", "to", "b"): torch.tensor([[0, 1, 2], [3, 1, 0]]),
    ("b", "of", "a"): torch.tensor([[0, 3], [1, 1]]),
}


def test_a_heterogeneous_model_is_accelerated() -> None:
    model = pyg.to_hetero(Net(), KINDS)
    expected = model(FEATURES, EDGES)
    assert len(gf.accelerate(model).swapped) == 4
    with attending():
        found = model(FEATURES, EDGES)
    for name, out in expected.items():
        torch.testing.assert_close(found[name], out)


def test_an_accelerated_model_becomes_heterogeneous() -> None:
    net = Net()
    gf.accelerate(net)
    model = pyg.to_hetero(net, KINDS)
    assert type(model.conv1["a__to__b"]) is ours.GATConv
    model(FEATURES, EDGES)
    with attending():
        assert model(FEATURES, EDGES)["a"].shape == (3, 4)
