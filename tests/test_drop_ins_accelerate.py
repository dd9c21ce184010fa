"""`accelerate` swaps what it can, in place, and says what it left and why."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from drop_in_cases import attending
from torch import Tensor, nn
from torch_geometric.data import Data

import graphformer as gf
import graphformer.nn as ours
from graphformer.backends import kernels
from graphformer.layers import Attention

EDGE_INDEX = torch.tensor([[0, 1, 2, 3, 3], [1, 2, 0, 3, 0]])


class Net(nn.Module):
    """One of each layer that has a drop-in, and some that have none."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([pyg.GATConv(4, 4), pyg.GATv2Conv(4, 4)])
        self.gcn = pyg.GCNConv(4, 4)
        self.transformer = pyg.TransformerConv(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.sage = pyg.SAGEConv(4, 4)
        self.norm = pyg.BatchNorm(4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for layer in (*self.convs, self.gcn, self.transformer, self.sage):
            x = self.norm(layer(x, edge_index))
        return x + self.attention(x[None], x[None], x[None], need_weights=False)[0][0]


def test_a_model_gives_what_it_gave_and_keeps_what_it_is() -> None:
    model, x = Net().double().eval(), torch.randn(4, 4, dtype=torch.float64)
    before, layers = copy.deepcopy(model), dict(model.named_modules())
    weights = dict(model.named_parameters())
    swaps = gf.accelerate(model)
    assert list(swaps.swapped) == ["convs.0", "convs.1", "gcn", "transformer", "attention"]
    assert swaps.left == {"sage": "SAGEConv has no drop-in"}
    for name, layer in swaps.swapped.items():
        assert layer is layers[name]
        assert type(layer) is getattr(ours, type(before.get_submodule(name)).__name__)
        assert not layer.training
    assert str(model) == str(before)
    assert model.state_dict().keys() == before.state_dict().keys()
    for name, weight in model.named_parameters():
        assert weight is weights[name]
    with attending():
        found = model(x, EDGE_INDEX)
    torch.testing.assert_close(found, before(x, EDGE_INDEX), rtol=1e-10, atol=1e-10)


def test_a_swapped_model_trains_with_the_optimizer_it_had() -> None:
    model = Net()
    theirs, optimizer = copy.deepcopy(model), torch.optim.SGD(model.parameters(), 0.1)
    gf.accelerate(model)
    x = torch.randn(4, 4)
    for net, stepper in ((model, optimizer), (theirs, torch.optim.SGD(theirs.parameters(), 0.1))):
        net(x, EDGE_INDEX).square().sum().backward()
        stepper.step()
    for weight, other in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-4)


def test_a_layer_itself_is_swapped_and_shown() -> None:
    layer = pyg.GATConv(4, 4, heads=2)
    lines = str(gf.accelerate(layer)).splitlines()
    assert lines[:2] == ["swapped 1, left 0", "  the model  GATConv(4, 4, heads=2)"]
    assert len(lines) == 2 if kernels.why_missing() is None else "kernels" in lines[2]
    assert type(layer) is ours.GATConv
    assert str(gf.accelerate(layer)) == "swapped 0, left 0"
    assert "MultiheadAttention\n" in str(gf.accelerate(nn.MultiheadAttention(4, 2))) + "\n"


class Subclass(pyg.GATConv):
    """A layer that may do anything."""


def hooked(kind: str) -> nn.Module:
    layer = pyg.GCNConv(4, 4)
    getattr(layer, f"register_{kind}")(lambda *_: None)
    return layer


def explained() -> nn.Module:
    layer = pyg.GATConv(4, 4)
    layer.explain = True
    return layer


def with_forward() -> nn.Module:
    layer = pyg.GATConv(4, 4)
    layer.forward = lambda x, edge_index: x
    return layer


def in_parts() -> nn.Module:
    layer = pyg.GCNConv(4, 4)
    layer.decomposed_layers = 2
    return layer


def with_own(caller: str) -> nn.Module:
    layer = pyg.GATConv(4, 4)
    setattr(layer, caller, lambda *_, **__: 1 / 0)
    return layer


def wrapped() -> nn.Module:
    layer = pyg.GCNConv(4, 4)
    layer.propagate = functools.wraps(layer.propagate)(lambda *_, **__: 1 / 0)
    return layer


def with_watched_sums() -> nn.Module:
    layer = pyg.GATConv(4, 4)
    layer.aggr_module.register_forward_hook(lambda *_: None)
    return layer


def with_sums_of_its_own() -> nn.Module:
    layer = pyg.GATConv(4, 4)
    layer.aggr_module.forward = lambda *_, **__: 1 / 0
    return layer


ON_META = "its weights are on meta, and edges have kernels on the CPU alone"
IN_FLOAT16 = "its weights are torch.float16, for which edges have no kernels"


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Subclass(4, 4), "Subclass is a subclass, which may compute something else"),
        (hooked("forward_hook"), "it has hooks"),
        (hooked("forward_pre_hook"), "it has hooks"),
        (hooked("full_backward_hook"), "it has hooks"),
        (hooked("message_forward_hook"), "it has hooks on its messages"),
        (explained(), "an explainer is active"),
        (with_forward(), "it has a forward of its own"),
        (pyg.GATConv(4, 4, flow="target_to_source"), "its flow is target_to_source"),
        (pyg.GCNConv(4, 4, aggr="max"), "its messages are aggregated by MaxAggregation()"),
        (pyg.GATConv(4, 4, dropout=1.0), "it drops everything"),
        (in_parts(), "its features are taken in 2 parts"),
        (with_own("propagate"), "its messages are not PyG's own"),
        (with_own("edge_updater"), "its messages are not PyG's own"),
        (wrapped(), "its messages are not PyG's own"),
        (with_watched_sums(), "its aggregation has hooks, or a forward of its own"),
        (with_sums_of_its_own(), "its aggregation has hooks, or a forward of its own"),
        (pyg.GCNConv(4, 4).to("meta"), ON_META),
        (pyg.TransformerConv(4, 4).half(), IN_FLOAT16),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), "it has add_bias_kv"),
        (nn.MultiheadAttention(4, 2, add_zero_attn=True), "it has add_zero_attn"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_might_differ_is_left_and_says_why(layer: nn.Module, reason: str) -> None:
    kind, model = type(layer), nn.ModuleDict({"layer": layer})
    swaps = gf.accelerate(model)
    assert swaps.left == {"layer": reason}
    assert type(layer) is kind
    assert str(swaps) == f"swapped 0, left 1\n  layer  left: {reason}"


def test_what_a_swapped_model_ran_on_is_told_by_its_edges() -> None:
    model, edge_index = Net().eval(), EDGE_INDEX.clone()
    gf.accelerate(model)
    assert str(ours.plans_of(edge_index)) == "no plan is remembered for this tensor as it is now"
    with torch.no_grad():
        model(torch.randn(4, 4), edge_index)
    plans = ours.plans_of(edge_index)
    scores = {type(plan.request.score.core).__name__ for plan in plans}
    assert scores == {"Terms", "GATv2", "Mean", "DotProduct"}
    assert all(f"runs on {plan.name}" in str(plans) for plan in plans)
    edge_index[0, 0] = 1
    assert not ours.plans_of(edge_index)


@pytest.mark.usefixtures("unchecked")
def test_a_mask_tells_its_plans_and_what_is_no_tensor_is_refused() -> None:
    layer, x = ours.MultiheadAttention(4, 2, batch_first=True), torch.randn(2, 3, 4)
    mask = torch.tensor([[False, False, True], [False, False, False]])
    layer(x, x, x, key_padding_mask=mask, need_weights=False)
    (plan,) = ours.plans_of(mask)
    assert repr(plan.request.graph.topology) == "complete()"
    with pytest.raises(TypeError, match=r"it got a Data: of a PyG Data write plans_of\(data.edge_"):
        ours.plans_of(Data(edge_index=EDGE_INDEX))


def test_explaining_a_swapped_model_says_where_its_plans_are() -> None:
    layer, graph = pyg.GATConv(4, 4), gf.edges(EDGE_INDEX).bind(gf.sequences([torch.ones(4, 1)]))
    assert str(gf.explain(graph, layer)) == "no Attention in this module"
    gf.accelerate(layer)
    when = "plan when they are called: see graphformer.nn.plans_of"
    expected = f"no Attention in this module; drop-ins (the module) {when}(edge_index) then"
    assert str(gf.explain(graph, layer)) == expected
    torchs = ours.MultiheadAttention(4, 2)
    plans = gf.explain(
        graph, nn.ModuleDict({"ours": Attention(8, 2), "theirs": layer, "torchs": torchs})
    )
    assert len(plans) == 1
    expected = f"drop-ins (theirs) {when}(edge_index) then; drop-ins (torchs) {when}(mask) then"
    assert str(plans) == f"{plans[0]}\n\n{expected}"


def test_torchs_attention_is_swapped_wherever_it_is() -> None:
    for layer in (nn.MultiheadAttention(4, 2).to("meta"), nn.MultiheadAttention(4, 2).half()):
        assert gf.accelerate(layer).left == {}
        assert type(layer) is ours.MultiheadAttention


def test_a_layer_that_was_explained_is_swapped() -> None:
    layer = explained()
    layer.explain = None
    assert "propagate" in vars(layer)
    assert gf.accelerate(layer).left == {}
    with attending():
        layer(torch.randn(4, 4), EDGE_INDEX)


@pytest.mark.parametrize("caller", ["propagate", "edge_updater"])
def test_what_is_set_on_a_swapped_layer_is_called(caller: str) -> None:
    layer = pyg.GATConv(4, 4)
    gf.accelerate(layer)
    setattr(layer, caller, lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        layer(torch.randn(4, 4), EDGE_INDEX)


def test_hooks_on_the_aggregation_of_a_swapped_layer_are_called() -> None:
    layer, seen = pyg.GATConv(4, 4), []
    gf.accelerate(layer)
    layer.aggr_module.register_forward_hook(lambda *_: seen.append(1))
    layer(torch.randn(4, 4), EDGE_INDEX)
    assert seen == [1]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [Net, "model"])
def test_what_is_no_model_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"accelerate\(model\) with a torch.nn.Module"):
        gf.accelerate(given)


def test_the_drop_ins_are_loaded_when_they_are_asked_for() -> None:
    assert gf.nn is ours
    assert gf.accelerate is ours.accelerate
    with pytest.raises(AttributeError, match="has no attribute 'accelerated'"):
        _ = gf.accelerated  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["lin", "lin_edge"])
def test_what_was_set_on_a_map_is_called(name: str) -> None:
    kind = pyg.GATConv if name == "lin" else pyg.TransformerConv
    layer = kind(8, 64, edge_dim=3, **({"add_self_loops": False} if name == "lin" else {}))
    linear = getattr(layer, name)
    width = linear.weight.shape[0]
    linear.forward = lambda x: torch.full((len(x), width), 0.5)
    index = torch.randint(0, 1500, (2, 4000), generator=torch.Generator().manual_seed(0))
    given = torch.randn(1500, 8), index, torch.randn(4000, 3)
    expected = layer(*given)
    model = nn.ModuleList([layer])
    assert len(gf.accelerate(model).swapped) == 1
    torch.testing.assert_close(model[0](*given), expected, rtol=1e-4, atol=1e-5)
