"""Networks of graphs are settings of the layers, and those that have a name are as published."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

import graphformer as gf
from graphformer.models.graph import GAT, GCN, MLP, GraphNetwork, GraphSAGE, GraphTransformer
from graphformer.tokens import Tokens, sequences

NODES, FEATURES, CLASSES = 15, 9, 4


def random_graph() -> tuple[Tokens, Tensor]:
    there = (torch.rand(NODES, NODES) < 0.2).triu(1)
    edge_index = there.nonzero().T
    return sequences([torch.rand(NODES, FEATURES)]), torch.cat([edge_index, edge_index.flip(0)], 1)


def test_gcn_is_that_of_kipf_and_welling() -> None:
    tokens, edge_index = random_graph()
    model = GCN(FEATURES, 16, CLASSES).eval()
    graph = (gf.edges(edge_index) | gf.self_loops()).bind(tokens)
    first, second = GCNConv(FEATURES, 16), GCNConv(16, CLASSES)
    for conv, block in zip((first, second), model.blocks, strict=True):
        conv.lin.weight, conv.bias = (
            block.attention.layer.projection.weight,
            nn.Parameter(torch.randn_like(conv.bias)),
        )
        block.attention.layer.bias = conv.bias
    expected = second(first(tokens.x, edge_index).relu(), edge_index)
    torch.testing.assert_close(model(tokens, graph), expected)


def test_gat_is_that_of_velickovic_and_others() -> None:
    tokens, edge_index = random_graph()
    model = GAT(FEATURES, 8, CLASSES).eval()
    graph = (gf.edges(edge_index) | gf.self_loops()).bind(tokens)
    first, second = GATConv(FEATURES, 8, heads=8), GATConv(64, CLASSES)
    for conv, block in zip((first, second), model.blocks, strict=True):
        layer = block.attention.layer
        nn.init.normal_(layer.bias)
        conv.lin.weight, conv.bias = layer.projection.weight, layer.bias
        conv.att_dst.data = layer.score.query_weight.data.unsqueeze(0)
        conv.att_src.data = layer.score.key_weight.data.unsqueeze(0)
    expected = second(F.elu(first(tokens.x, edge_index)), edge_index)
    torch.testing.assert_close(model(tokens, graph), expected)


def test_graph_sage_is_a_mean_and_a_map_of_the_node_itself() -> None:
    tokens, edge_index = random_graph()
    model = GraphSAGE(FEATURES, 16, CLASSES).eval()
    graph = gf.edges(edge_index).bind(tokens)
    first, second = SAGEConv(FEATURES, 16), SAGEConv(16, CLASSES)
    for conv, block in zip((first, second), model.blocks, strict=True):
        layer = block.attention.layer
        nn.init.normal_(layer.bias)
        conv.lin_l.weight, conv.lin_l.bias = layer.projection.weight, layer.bias
        conv.lin_r.weight = block.attention.skip.weight
    expected = second(first(tokens.x, edge_index).relu(), edge_index)
    torch.testing.assert_close(model(tokens, graph), expected)


def test_mlp_hears_nobody() -> None:
    tokens, edge_index = random_graph()
    model = MLP(FEATURES, 16, CLASSES).eval()
    first, second = (block.attention.layer for block in model.blocks)
    graph = gf.edges(edge_index).bind(tokens)
    torch.testing.assert_close(model(tokens, graph), second(first(tokens.x).relu()))


@pytest.mark.parametrize("kind", [GCN, GAT, MLP])
def test_tuned_networks_have_norms_linear_maps_past_and_a_head(kind: type[GraphNetwork]) -> None:
    tokens, edge_index = random_graph()
    model = kind(FEATURES, 8, CLASSES, layers=3, norm=nn.BatchNorm1d, residual=True).eval()
    graph = (gf.edges(edge_index) | gf.self_loops()).bind(tokens)
    x = tokens.x
    for block in model.blocks:
        part = block.attention
        x = model.activation(part.norm(part.layer(x, graph) + part.skip(x)))
    torch.testing.assert_close(model(tokens, graph), model.head(x))


def test_features_are_dropped_before_the_first_convolution_but_not_of_tuned_networks() -> None:
    tokens, edge_index = random_graph()
    graph = (gf.edges(edge_index) | gf.self_loops()).bind(tokens)
    for residual in (False, True):
        model = GCN(FEATURES, 8, CLASSES, layers=1, dropout=0.9, residual=residual)
        seen: list[Tensor] = []
        model.blocks[0].register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0])
        )
        model(tokens, graph)
        assert torch.equal(seen[0], tokens.x) == residual


def test_graph_transformer_takes_any_score_and_tokens_or_values() -> None:
    tokens, edge_index = random_graph()
    graph = (gf.edges(edge_index) | gf.self_loops()).bind(tokens)
    model = GraphTransformer(FEATURES, 8, CLASSES, score=gf.Cosine(4)).eval()
    assert model(tokens, graph).shape == (NODES, CLASSES)
    assert torch.equal(model(tokens, graph), model(tokens.x, graph))
    assert len([one for one in model.modules() if isinstance(one, gf.Cosine)]) == 2
