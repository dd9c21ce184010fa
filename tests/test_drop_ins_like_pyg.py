"""Drop-ins do what PyG tests its own layers for: forms of edges, sizes, weights, text, copies."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from drop_in_cases import NAMES, attending, draw_numbers, make_pair, with_numbers
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csc_tensor, to_torch_csr_tensor

import graphformer.nn as ours

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse CS[RC] tensor support:UserWarning",
    "ignore:Sparse invariant checks:UserWarning",
    "ignore:Converting sparse tensor to CSR:UserWarning",
)
ATTENTION = NAMES[:3]
EDGE_INDEX = torch.tensor([[0, 1, 2, 3, 3, 1], [0, 0, 1, 1, 0, 3]])
LAYOUTS = [to_torch_coo_tensor, to_torch_csc_tensor]


def adjacency(
    make: Callable[..., Tensor], value: Tensor | None = None, size: tuple[int, int] = (4, 4)
) -> Tensor:
    """The transposed adjacency in float64, which PyG's layers take in place of edges."""
    value = torch.ones(EDGE_INDEX.shape[1]) if value is None else value
    return make(EDGE_INDEX, value.double(), size=size).t()


def same(found: Any, expected: Any) -> None:
    """Tensors agree in values and shape, containers in their parts."""
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for part, other in zip(found, expected, strict=True):
            same(part, other)
    elif expected.layout is not torch.strided:
        assert found.layout is expected.layout
        assert found.shape == expected.shape
        torch.testing.assert_close(found.to_dense(), expected.to_dense(), rtol=1e-10, atol=1e-10)
    else:
        assert type(found) is type(expected)
        if isinstance(found, EdgeIndex):
            found, expected = found.as_tensor(), expected.as_tensor()
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_text_and_kind_are_those_of_pyg(name: str) -> None:
    for dims in (8, (8, 16)) if name != "GCNConv" else (8,):
        drop, theirs = getattr(ours, name)(dims, 32), getattr(pyg, name)(dims, 32)
        assert str(drop) == str(theirs)
        assert isinstance(drop, getattr(pyg, name))
        assert drop.state_dict().keys() == theirs.state_dict().keys()
        torch.manual_seed(1)
        drop.reset_parameters()
        torch.manual_seed(1)
        theirs.reset_parameters()
        for weight, other in zip(drop.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(weight, other)


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ATTENTION)
def test_a_sparse_adjacency_is_its_edges(name: str, make: Callable[..., Tensor]) -> None:
    drop, theirs = make_pair(name, 8, 4, heads=2)
    x, adj = draw_numbers(4, 8), adjacency(make)
    with attending():
        same(drop(x, adj), theirs(x, adj))
        same(drop(x, EDGE_INDEX), theirs(x, adj))
        found = drop(x, adj, return_attention_weights=True)
    same(found, theirs(x, adj, return_attention_weights=True))


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ATTENTION)
def test_a_sparse_adjacency_may_be_bipartite(name: str, make: Callable[..., Tensor]) -> None:
    drop, theirs = make_pair(name, (8, 6), 4, heads=2)
    x, adj = (draw_numbers(4, 8), draw_numbers(4, 6)), adjacency(make)
    with attending():
        same(drop(x, adj), theirs(x, adj))


@pytest.mark.parametrize("make", [*LAYOUTS, to_torch_csr_tensor], ids=lambda make: make.__name__)
@pytest.mark.parametrize("normalize", [True, False])
def test_gcn_takes_a_sparse_adjacency_with_weights(
    make: Callable[..., Tensor], normalize: bool
) -> None:
    drop, theirs = make_pair("GCNConv", 8, 4, normalize=normalize)
    x, weight = draw_numbers(4, 8), draw_numbers(6).abs()
    adj = adjacency(make, weight)
    if adj.layout is torch.sparse_csc and normalize:
        with pytest.raises(NotImplementedError, match="CSC"):
            drop(x, adj)
        return
    same(drop(x, adj), theirs(x, adj))
    same(drop(x, EDGE_INDEX, weight), theirs(x, EDGE_INDEX, weight))


@pytest.mark.parametrize("name", ATTENTION[1:])
def test_a_csc_adjacency_is_refused_as_in_pyg(name: str) -> None:
    drop, _ = make_pair(name, 8, 4)
    with pytest.raises(ValueError, match="Unexpected sparse tensor layout"):
        drop(draw_numbers(4, 8), adjacency(to_torch_csr_tensor))


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("weighs", [True, False, None])
def test_weights_come_as_in_pyg(name: str, weighs: bool | None) -> None:
    drop, theirs = make_pair(name, 8, 4, heads=2)
    x = draw_numbers(4, 8)
    with attending():
        found = drop(x, EDGE_INDEX, return_attention_weights=weighs)
    same(found, theirs(x, EDGE_INDEX, return_attention_weights=weighs))


def test_weights_in_front_of_dropout_are_those_of_transformer_conv() -> None:
    drop, _ = make_pair("TransformerConv", 8, 4, dropout=0.5)
    _, (_, weights) = drop(draw_numbers(4, 8), EDGE_INDEX, return_attention_weights=True)
    sums = torch.zeros(4, 1, dtype=torch.float64).index_add(0, EDGE_INDEX[1], weights)
    assert set(sums.round(decimals=9).flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", ATTENTION[1:])
def test_weights_behind_dropout_are_those_of_gat(name: str) -> None:
    drop, _ = make_pair(name, 8, 4, dropout=0.5)
    with attending():
        _, (_, weights) = drop(draw_numbers(4, 8), EDGE_INDEX, return_attention_weights=True)
    assert (weights == 0).any()
    drop.eval()
    _, (_, weights) = drop(draw_numbers(4, 8), EDGE_INDEX, return_attention_weights=True)
    assert (weights > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_edge_index_of_pyg_is_its_edges(name: str) -> None:
    drop, theirs = make_pair(name, 8, 4)
    x = draw_numbers(4, 8)
    for size in ((4, 4), (None, None)):
        edge_index = EdgeIndex(EDGE_INDEX, sparse_size=size)
        with attending():
            same(drop(x, edge_index), theirs(x, EDGE_INDEX))
        if name != "GCNConv":
            found = drop(x, edge_index, return_attention_weights=True)
            same(found, theirs(x, edge_index, return_attention_weights=True))


def test_gat_takes_sizes_and_keys_alone() -> None:
    drop, theirs = make_pair("GATConv", (8, 16), 32, heads=2)
    memory, x = draw_numbers(4, 8), draw_numbers(2, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    with attending():
        same(drop((memory, x), edge_index, size=(4, 2)), theirs((memory, x), edge_index))
        alone = drop((memory, None), edge_index, size=(4, 2))
        same(alone, theirs((memory, None), edge_index, size=(4, 2)))
        adj = to_torch_csc_tensor(edge_index, torch.ones(4).double(), size=(4, 2)).t()
        same(drop((memory, None), adj), alone)
        same(drop((memory, None), edge_index), theirs((memory, None), edge_index))
    with pytest.raises(ValueError, match="expected size"):
        drop((memory, x), edge_index, size=(4, 3))
    drop, theirs = make_pair("GATConv", 8, 32, heads=2, add_self_loops=False)
    unsaid = drop((memory, None), edge_index, size=(4, None))
    same(unsaid, theirs((memory, None), edge_index, size=(4, None)))


@pytest.mark.parametrize("name", ATTENTION[1:])
@pytest.mark.parametrize("fill_value", ["mean", "mul", 0.5])
def test_edge_features_may_be_one_number(name: str, fill_value: str | float) -> None:
    drop, theirs = make_pair(name, 8, 4, heads=2, edge_dim=1, fill_value=fill_value)
    x, weight = draw_numbers(4, 8), draw_numbers(6)
    with attending():
        same(drop(x, EDGE_INDEX, weight), theirs(x, EDGE_INDEX, weight))


def test_gat_without_edge_features_does_without_their_map() -> None:
    for edge_dim, bond in ((3, None), (None, draw_numbers(6, 3))):
        drop, theirs = make_pair("GATConv", 8, 4, edge_dim=edge_dim)
        x = draw_numbers(4, 8)
        with attending():
            same(drop(x, EDGE_INDEX, bond), theirs(x, EDGE_INDEX, bond))


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_graph_gives_nothing(name: str) -> None:
    drop, _ = make_pair(name, 8, 4)
    nothing = torch.empty(2, 0, dtype=torch.int64)
    assert drop(draw_numbers(0, 8), nothing).shape == (0, 4)
    found = drop(draw_numbers(3, 8), nothing)
    assert found.shape == (3, 4)
    assert found.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_sizes_of_a_lazy_layer_are_found_in_the_first_call(name: str) -> None:
    edge = {} if name == "GCNConv" else {"edge_dim": -1}
    drop = getattr(ours, name)(-1, 4, **edge)
    bond = () if name == "GCNConv" else (torch.randn(6, 3),)
    first = drop(torch.randn(4, 8), EDGE_INDEX, *bond)
    assert first.shape == (4, 4)
    theirs = getattr(pyg, name)(8, 4, **({} if name == "GCNConv" else {"edge_dim": 3}))
    theirs.load_state_dict(drop.state_dict())
    x = torch.randn(4, 8)
    with attending():
        found = drop(x, EDGE_INDEX, *bond)
    torch.testing.assert_close(found, theirs(x, EDGE_INDEX, *bond))


def test_gcn_remembers_its_norm_where_it_is_cached() -> None:
    drop, theirs = make_pair("GCNConv", 8, 4, cached=True)
    x, other = draw_numbers(4, 8), EDGE_INDEX.flip(0).contiguous()
    for _ in range(2):
        with attending():
            found = drop(x, EDGE_INDEX)
        same(found, theirs(x, EDGE_INDEX))
    assert drop._cached_edge_index is not None
    same(drop(x, other), theirs(x, EDGE_INDEX))
    same(drop(x, adjacency(to_torch_csc_tensor)), theirs(x, EDGE_INDEX))
    drop.reset_parameters()
    assert drop._cached_edge_index is None
    same(drop(x, adjacency(to_torch_csc_tensor)), drop(x, EDGE_INDEX))


def test_gcn_takes_static_graphs_and_sparse_features() -> None:
    drop, theirs = make_pair("GCNConv", 8, 4)
    x = draw_numbers(3, 4, 8)
    same(drop(x, EDGE_INDEX), theirs(x, EDGE_INDEX))
    features = draw_numbers(4, 8).relu().to_sparse()
    with attending():
        same(drop(features, EDGE_INDEX), theirs(features, EDGE_INDEX))
    with pytest.raises(ValueError, match="tuple"):
        drop((x[0], x[0]), EDGE_INDEX)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "settings", [{"flow": "target_to_source"}, {"aggr": "max"}, {"aggr": "mean"}], ids=str
)
def test_settings_without_a_drop_in_run_as_in_pyg(name: str, settings: dict[str, Any]) -> None:
    drop, theirs = make_pair(name, 8, 4, **settings)
    x = draw_numbers(4, 8)
    same(drop(x, EDGE_INDEX), theirs(x, EDGE_INDEX))


def test_gcn_in_parts_is_gcn() -> None:
    drop, theirs = make_pair("GCNConv", 8, 4)
    drop.decomposed_layers = 2
    x = draw_numbers(4, 8)
    same(drop(x, EDGE_INDEX), theirs(x, EDGE_INDEX))


@pytest.mark.parametrize("name", NAMES)
def test_a_drop_in_is_copied_and_pickled(name: str) -> None:
    drop, _ = make_pair(name, 8, 4)
    x = draw_numbers(4, 8)
    expected = drop(x, EDGE_INDEX)
    for other in (copy.deepcopy(drop), pickle.loads(pickle.dumps(drop))):
        assert type(other) is type(drop)
        with attending():
            same(other(x, EDGE_INDEX), expected)


@pytest.mark.parametrize("name", NAMES)
def test_weights_travel_both_ways(name: str) -> None:
    drop, theirs = make_pair(name, 8, 4)
    back = getattr(pyg, name)(8, 4).double()
    back.load_state_dict(drop.state_dict())
    x = draw_numbers(4, 8)
    same(drop(x, EDGE_INDEX), back(x, EDGE_INDEX))
    same(theirs(x, EDGE_INDEX), back(x, EDGE_INDEX))


@pytest.mark.parametrize("name", NAMES)
def test_weights_given_for_one_call_are_used(name: str) -> None:
    drop, theirs = make_pair(name, 8, 4)
    weights = {key: draw_numbers(*weight.shape) for key, weight in drop.state_dict().items()}
    given = (draw_numbers(4, 8), EDGE_INDEX)
    with attending():
        found = torch.func.functional_call(drop, weights, given)
    same(found, torch.func.functional_call(theirs, weights, given))


def test_a_subclass_with_messages_of_its_own_keeps_them() -> None:
    class Doubled(ours.GATConv):
        def message(self, x_j: Tensor, alpha: Tensor, index: Tensor) -> Tensor:
            return 2 * super().message(x_j, alpha) + 0 * index.view(-1, 1, 1)

    torch.manual_seed(1)
    doubled = Doubled(8, 4)
    torch.manual_seed(1)
    drop, x = ours.GATConv(8, 4), torch.randn(4, 8)
    torch.testing.assert_close(doubled(x, EDGE_INDEX), 2 * drop(x, EDGE_INDEX))
    drop.message = lambda x_j, alpha: 3 * x_j * alpha.unsqueeze(-1)
    torch.testing.assert_close(doubled(x, EDGE_INDEX), 2 / 3 * drop(x, EDGE_INDEX))


def test_an_explainer_sees_the_messages_of_pyg() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = ours.GATConv(8, 3)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.conv(x, edge_index)

    model, x = Model(), torch.randn(4, 8)
    explainer = Explainer(
        model,
        GNNExplainer(epochs=2),
        explanation_type="model",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification",
            "task_level": "node",
            "return_type": "raw",
        },
    )
    explanation = explainer(x, EDGE_INDEX)
    assert explanation.edge_mask.shape == (6,)
    assert (explanation.edge_mask > 0).any()
    with attending():
        model(x, EDGE_INDEX)


def test_hooks_on_messages_are_called() -> None:
    drop = ours.TransformerConv(8, 4)
    seen: list[str] = []
    handle = drop.register_propagate_forward_hook(lambda *_: seen.append("called"))
    drop(torch.randn(4, 8), EDGE_INDEX)
    assert seen == ["called"]
    handle.remove()
    with attending():
        drop(torch.randn(4, 8), EDGE_INDEX)


def test_ids_out_of_range_are_refused() -> None:
    drop = with_numbers(ours.TransformerConv(8, 4))
    with pytest.raises(ValueError, match="query 4, but there are 4 query tokens"):
        drop(draw_numbers(4, 8), torch.tensor([[0], [4]]))


@pytest.mark.parametrize("name", NAMES)
def test_edges_that_are_no_integers_are_refused_as_by_pyg(name: str) -> None:
    drop, theirs = make_pair(name, 8, 4)
    x, edge_index = draw_numbers(4, 8), EDGE_INDEX.double()
    with pytest.raises((ValueError, RuntimeError), match=r"int64|integer") as expected:
        theirs(x, edge_index)
    with pytest.raises(type(expected.value), match=re.escape(str(expected.value))):
        drop(x, edge_index)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_gives_its_dtype_and_much_the_same(name: str) -> None:
    drop, theirs = make_pair(name, 8, 4, **({} if name == "GCNConv" else {"heads": 2}))
    x = draw_numbers(4, 8)
    expected = theirs(x, EDGE_INDEX)
    with torch.autocast("cpu", torch.bfloat16), attending():
        found = drop.float()(x.float(), EDGE_INDEX)
    assert (found.double() - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.parametrize("name", ["TransformerConv", "GATConv", "GATv2Conv"])
def test_edge_features_of_another_dtype_are_refused_as_by_pyg(name: str) -> None:
    layer = getattr(ours, name)(4, 4, edge_dim=3)
    x, bond = torch.randn(4, 4), torch.randn(EDGE_INDEX.shape[1], 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="same dtype"):
        layer(x, EDGE_INDEX, bond)


@pytest.mark.parametrize("bias", [True, False])
def test_the_dtype_of_a_gcn_under_autocast_is_that_of_pyg(bias: bool) -> None:
    x, layers = torch.randn(4, 4), [kind.GCNConv(4, 4, bias=bias) for kind in (pyg, ours)]
    with torch.autocast("cpu", torch.bfloat16):
        theirs, mine = (layer(x, EDGE_INDEX).dtype for layer in layers)
    assert mine == theirs
