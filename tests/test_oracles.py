"""Attention over edges is PyG's layers, with the same weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cases import make_tokens
from same_weights import compare, compare_layers, copied, leaf, parameters, with_weights
from torch import Tensor
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, SAGEConv, TransformerConv
from torch_geometric.nn.conv import MessagePassing

import graphformer as gf
from graphformer.layers import GraphConvolution

DIM, WIDTH, HEADS, HEAD_DIM, BOND_DIM = 12, 10, 3, 5, 4
NUM_NODES, NUM_SOURCES = 14, 9


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Layers and numbers are float64, so that only a wrong formula makes a difference."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_edges(num_keys: int, num_queries: int, density: float = 0.3) -> Tensor:
    """Directed edges in no order, without self loops; the last query hears nobody."""
    there = torch.rand(num_keys, num_queries) < density
    there.fill_diagonal_(False)
    there[:, -1] = False
    edge_index = there.nonzero().T
    return edge_index[:, torch.randperm(edge_index.shape[1])]


def by_transformer_conv(
    layer: TransformerConv, graph: gf.TokenGraph, x: Tensor, memory: Tensor
) -> Tensor:
    query = layer.lin_query(x).view(-1, HEADS, HEAD_DIM)
    key = layer.lin_key(memory).view(-1, HEADS, HEAD_DIM)
    value = layer.lin_value(memory).view(-1, HEADS, HEAD_DIM)
    if layer.edge_dim is None:
        out = gf.attend(query, key, value, graph)
    else:
        weight = layer.lin_edge.weight.view(HEADS, HEAD_DIM, BOND_DIM)
        score = gf.EdgeDot("bond", weight)
        out, bonds, _ = gf.attend(query, key, value, graph, score, edge_sum="bond")
        out = out + torch.einsum("qhe,hde->qhd", bonds, weight)
    out = out.flatten(1) if layer.concat else out.mean(1)
    skipped = layer.lin_skip(x) if layer.root_weight else 0.0
    if not layer.beta:
        return out + skipped
    beta = layer.lin_beta(torch.cat([out, skipped, out - skipped], -1)).sigmoid()
    return beta * skipped + (1 - beta) * out


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"edge_dim": BOND_DIM},
        {"edge_dim": BOND_DIM, "concat": False, "beta": True},
        {"root_weight": False, "bias": False},
    ],
    ids=str,
)
def test_edge_dot_is_transformer_conv(settings: dict[str, object]) -> None:
    layer = TransformerConv(DIM, HEAD_DIM, HEADS, **settings)
    edge_index, x = random_edges(NUM_NODES, NUM_NODES), leaf(NUM_NODES, DIM)
    bond = leaf(edge_index.shape[1], BOND_DIM)
    attributes = bond if layer.edge_dim else None

    def ours() -> Tensor:
        graph = gf.edges("bond").bind(
            make_tokens((NUM_NODES,)), bond=gf.EdgeValues(edge_index, bond)
        )
        return by_transformer_conv(layer, graph, x, x)

    compare(ours, lambda: layer(x, edge_index, attributes), x=x, bond=bond, **parameters(layer))


def test_repeated_edges_are_terms_of_their_own_as_in_pyg() -> None:
    layer = TransformerConv((DIM, DIM), HEAD_DIM, HEADS, edge_dim=BOND_DIM)
    edge_index = random_edges(NUM_SOURCES, NUM_NODES)
    edge_index = torch.cat([edge_index, edge_index[:, ::2], edge_index[:, ::3]], 1)
    memory, x = leaf(NUM_SOURCES, DIM), leaf(NUM_NODES, DIM)
    bond = leaf(edge_index.shape[1], BOND_DIM)

    def ours() -> Tensor:
        graph = gf.TokenGraph.from_edge_index(edge_index, NUM_NODES, NUM_SOURCES, bond=bond)
        return by_transformer_conv(layer, graph, x, memory)

    compare(
        ours,
        lambda: layer((memory, x), edge_index, bond),
        x=x,
        memory=memory,
        bond=bond,
        **parameters(layer),
    )


@pytest.mark.parametrize("edge_dim", [None, BOND_DIM])
def test_additive_is_gat_conv(edge_dim: int | None) -> None:
    layer = GATConv(DIM, HEAD_DIM, HEADS, edge_dim=edge_dim)
    edge_index, x = random_edges(NUM_NODES, NUM_NODES), leaf(NUM_NODES, DIM)
    bond = leaf(edge_index.shape[1], BOND_DIM)

    def ours() -> Tensor:
        graph = (gf.edges("bond") | gf.self_loops()).bind(
            make_tokens((NUM_NODES,)), bond=gf.EdgeValues(edge_index, bond, missing="mean")
        )
        score = with_weights(
            gf.Additive(HEADS, HEAD_DIM), query_weight=layer.att_dst[0], key_weight=layer.att_src[0]
        )
        if edge_dim is not None:
            projection = layer.lin_edge.weight.view(HEADS, HEAD_DIM, BOND_DIM)
            weight = torch.einsum("hde,hd->eh", projection, layer.att_edge[0])
            score = score + with_weights(gf.EdgeBias("bond", HEADS, BOND_DIM), weight=weight)
        projected = layer.lin(x).view(-1, HEADS, HEAD_DIM)
        out = gf.attend(projected, projected, projected, graph, score)
        return out.flatten(1) + layer.bias

    attributes = None if edge_dim is None else bond
    compare(ours, lambda: layer(x, edge_index, attributes), x=x, bond=bond, **parameters(layer))


@pytest.mark.parametrize("bipartite", [False, True])
def test_gatv2_is_gatv2_conv(bipartite: bool) -> None:
    layer = GATv2Conv(DIM, HEAD_DIM, HEADS, edge_dim=BOND_DIM, add_self_loops=not bipartite)
    num_keys = NUM_SOURCES if bipartite else NUM_NODES
    edge_index, x = random_edges(num_keys, NUM_NODES), leaf(NUM_NODES, DIM)
    memory = leaf(num_keys, DIM) if bipartite else x
    bond = leaf(edge_index.shape[1], BOND_DIM)

    def ours() -> Tensor:
        topology = gf.edges("bond") if bipartite else gf.edges("bond") | gf.self_loops()
        graph = topology.bind(
            make_tokens((NUM_NODES,)),
            make_tokens((num_keys,)) if bipartite else None,
            bond=gf.EdgeValues(edge_index, bond, missing="mean"),
        )
        edge_weight = layer.lin_edge.weight.view(HEADS, HEAD_DIM, BOND_DIM)
        score = gf.GATv2(HEADS, HEAD_DIM, edge_data="bond", edge_weight=edge_weight)
        with_weights(score, weight=layer.att[0])
        query = layer.lin_r(x).view(-1, HEADS, HEAD_DIM)
        key = layer.lin_l(memory).view(-1, HEADS, HEAD_DIM)
        return gf.attend(query, key, key, graph, score).flatten(1) + layer.bias

    tokens = (memory, x) if bipartite else x
    compare(
        ours,
        lambda: layer(tokens, edge_index, bond),
        x=x,
        memory=memory,
        bond=bond,
        **parameters(layer),
    )


@pytest.mark.parametrize("add_self_loops", [True, False])
def test_symmetric_degree_is_gcn_conv(add_self_loops: bool) -> None:
    layer = GCNConv(DIM, WIDTH, add_self_loops=add_self_loops)
    edge_index, x = random_edges(NUM_NODES, NUM_NODES), leaf(NUM_NODES, DIM)

    def ours() -> Tensor:
        topology = gf.edges(edge_index)
        graph = (topology | gf.self_loops() if add_self_loops else topology).bind(
            make_tokens((NUM_NODES,))
        )
        value = layer.lin(x)[:, None]
        out = gf.attend(None, None, value, graph, gf.SymmetricDegree(), normalize="none")
        return out[:, 0] + layer.bias

    compare(ours, lambda: layer(x, edge_index), x=x, **parameters(layer))


@pytest.mark.parametrize("bipartite", [False, True])
def test_mean_is_sage_conv(bipartite: bool) -> None:
    layer = SAGEConv((DIM, DIM) if bipartite else DIM, WIDTH)
    num_keys = NUM_SOURCES if bipartite else NUM_NODES
    edge_index, x = random_edges(num_keys, NUM_NODES), leaf(NUM_NODES, DIM)
    memory = leaf(num_keys, DIM) if bipartite else x

    def ours() -> Tensor:
        keys = make_tokens((num_keys,)) if bipartite else None
        graph = gf.edges(edge_index).bind(make_tokens((NUM_NODES,)), keys)
        mean = gf.attend(None, None, memory[:, None], graph, gf.Mean())[:, 0]
        return layer.lin_l(mean) + layer.lin_r(x)

    tokens = (memory, x) if bipartite else x
    compare(ours, lambda: layer(tokens, edge_index), x=x, memory=memory, **parameters(layer))


def test_virtual_tokens_are_tokens_that_pyg_would_be_given() -> None:
    layer = TransformerConv(DIM, HEAD_DIM, HEADS, root_weight=False)
    edge_index = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 0, 4, 3]])
    graph = (gf.edges(edge_index) | gf.global_tokens(1)).bind(make_tokens((3, 2), num_virtual=1))
    # In PyG's ids the virtual tokens are 0 and 4.
    given = [(1, 2), (2, 3), (3, 1), (5, 6), (6, 5)]
    hubs = [(0, other) for other in range(4)] + [(4, other) for other in range(4, 7)]
    both_ways = {pair for hub, other in hubs for pair in ((hub, other), (other, hub))}
    everything, x = torch.tensor([*given, *both_ways]).T, leaf(7, DIM)
    compare(
        lambda: by_transformer_conv(layer, graph, x, x),
        lambda: layer(x, everything),
        x=x,
        **parameters(layer),
    )


@pytest.mark.parametrize("conv", [GCNConv, GATConv])
def test_graph_convolution_is_gcn_conv_and_gat_conv(conv: type[MessagePassing]) -> None:
    edge_index, x = random_edges(NUM_NODES, NUM_NODES), leaf(NUM_NODES, DIM)
    graph = (gf.edges(edge_index) | gf.self_loops()).bind(make_tokens((NUM_NODES,)))
    if conv is GCNConv:
        theirs = GCNConv(DIM, WIDTH)
        parameters(theirs)
        ours = GraphConvolution(DIM, 1, gf.SymmetricDegree(), head_dim=WIDTH, normalize="none")
        weights = {"projection.weight": theirs.lin.weight, "bias": theirs.bias}
    else:
        theirs = GATConv(DIM, HEAD_DIM, HEADS)
        parameters(theirs)
        ours = GraphConvolution(DIM, HEADS, gf.Additive(HEADS), head_dim=HEAD_DIM, shared=True)
        weights = {
            "projection.weight": theirs.lin.weight,
            "score.query_weight": theirs.att_dst[0],
            "score.key_weight": theirs.att_src[0],
            "bias": theirs.bias,
        }
    copied(ours, weights)
    if conv is GATConv:
        weights |= {
            "score.query_weight": theirs.att_dst,
            "score.key_weight": theirs.att_src,
        }
    pairs = {weight: weights[name] for name, weight in ours.named_parameters()}
    compare_layers(lambda: ours(x, graph), lambda: theirs(x, edge_index), x, pairs)
