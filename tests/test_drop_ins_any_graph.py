"""The contracts of the drop-ins over whole graphs as drawn: batches, silence and weights."""

from __future__ import annotations

import pytest
import torch
from any_graph import Edges, beside, edges
from cases import error
from drop_in_cases import (
    EDGE_DIM,
    IN_DIM,
    LAYERS,
    agree,
    attending,
    draw_numbers,
    layer_settings,
    make_pair,
    with_numbers,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graphformer.nn as ours

SEEDS = st.integers(0, 2**16)


def bonds_of(graph: Edges, with_edges: bool) -> dict[str, Tensor]:
    return {"bond": draw_numbers(graph.num_edges, EDGE_DIM)} if with_edges else {}


@pytest.mark.parametrize(("name", "with_edges"), LAYERS)
@settings(max_examples=15)
@given(graph=edges(), heads=st.integers(1, 4), dim=st.integers(1, 130), seed=SEEDS)
def test_heads_of_any_dimension_agree(
    name: str, with_edges: bool, graph: Edges, heads: int, dim: int, seed: int
) -> None:
    torch.manual_seed(seed)
    pair = make_pair(name, IN_DIM, dim, **layer_settings(name, with_edges, heads))
    inputs = {"x": draw_numbers(graph.num_queries, IN_DIM), **bonds_of(graph, with_edges)}
    agree(
        pair,
        lambda layer, given: layer(given["x"], graph.edge_index, *list(given.values())[1:]),
        inputs,
    )


@settings(max_examples=15)
@given(
    heads=st.integers(1, 4),
    dim=st.integers(1, 130),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    seed=SEEDS,
)
def test_heads_of_any_dimension_agree_with_torch(
    heads: int, dim: int, sizes: tuple[int, int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    theirs = with_numbers(nn.MultiheadAttention(heads * dim, heads, batch_first=True))
    drop = ours.MultiheadAttention(heads * dim, heads, batch_first=True).double()
    drop.load_state_dict(theirs.state_dict())
    examples, queries, keys = sizes
    query, key = (draw_numbers(examples, size, heads * dim) for size in (queries, keys))
    mask = torch.rand(queries, keys) < 0.4
    mask[:, 0] = False
    results = []
    for layer in (drop, theirs):
        leaves = [query.clone().requires_grad_(), key.clone().requires_grad_()]
        out, _ = layer(*leaves, leaves[1], attn_mask=mask, need_weights=False)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    least = 0.1 * max(float(part.detach().norm()) for part in results[1])
    for found, expected in zip(*results, strict=True):
        assert error(found.detach(), expected.detach(), least) < 1e-10


# ---- an example alone, and in a batch ----


def differentiated(
    layer: nn.Module, graph: Edges, inputs: dict[str, Tensor], outside: Tensor
) -> dict[str, Tensor]:
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    out = layer(leaves["x"], graph.edge_index, *list(leaves.values())[1:])
    named = {**leaves, **dict(layer.named_parameters())}
    loss = (out * outside).sum()
    found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    return {"out": out.detach(), **dict(zip(named, found, strict=True))}


@pytest.mark.parametrize(("name", "with_edges"), LAYERS)
@settings(max_examples=15)
@given(graphs=st.lists(edges(), min_size=2, max_size=4), seed=SEEDS)
def test_a_graph_alone_gives_what_it_gives_in_a_batch(
    name: str, with_edges: bool, graphs: list[Edges], seed: int
) -> None:
    torch.manual_seed(seed)
    layer = make_pair(name, IN_DIM, 6, **layer_settings(name, with_edges))[0].float()
    joined, rows = beside(graphs)
    inputs = {"x": torch.randn(joined.num_queries, IN_DIM)}
    inputs |= {bond: x.float() for bond, x in bonds_of(joined, with_edges).items()}
    outside = torch.randn(layer(inputs["x"], joined.edge_index, *list(inputs.values())[1:]).shape)
    with attending():
        found = differentiated(layer, joined, inputs, outside)
    summed = {weight: torch.zeros_like(found[weight]) for weight, _ in layer.named_parameters()}
    sides = {"out": "query", "x": "query", "bond": "edge"}
    for graph, own in zip(graphs, rows, strict=True):
        part = {side: x[own[sides[side]]] for side, x in inputs.items()}
        alone = differentiated(layer, graph, part, outside[own["query"]])
        for side in ("out", *inputs):
            assert error(found[side][own[sides[side]]], alone[side], floor=1.0) < 1e-5, side
        for weight in summed:
            summed[weight] += alone[weight]
    for weight, total in summed.items():
        assert error(found[weight], total, floor=1.0) < 1e-5, weight


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    longer=st.integers(0, 3),
    need_weights=st.booleans(),
    seed=SEEDS,
)
def test_a_sentence_alone_gives_what_it_gives_in_a_batch(
    lengths: list[int], longer: int, need_weights: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = ours.MultiheadAttention(8, 2, batch_first=True)
    size = max(lengths) + longer
    x = torch.randn(len(lengths), size, 8, requires_grad=True)
    padding = torch.arange(size) >= torch.tensor(lengths)[:, None]
    asked = {"key_padding_mask": padding, "need_weights": need_weights}
    out, weights = layer(x, x, x, **asked)
    outside = torch.randn(out.shape).masked_fill(padding[..., None], 0)
    (gradient,) = torch.autograd.grad(out, x, outside)
    assert gradient[padding].eq(0).all()
    for number, length in enumerate(lengths):
        own = x.detach()[number, :length].requires_grad_()
        alone, alone_weights = layer(own, own, own, need_weights=need_weights)
        assert error(out[number, :length].detach(), alone.detach(), floor=1.0) < 1e-5
        (expected,) = torch.autograd.grad(alone, own, outside[number, :length])
        assert error(gradient[number, :length], expected, floor=1.0) < 1e-5
        if weights is not None:
            torch.testing.assert_close(weights[number, :length, :length], alone_weights)
            assert weights[number, :length, length:].eq(0).all()


# ---- nodes that hear nobody ----


@pytest.mark.parametrize(("name", "with_edges"), LAYERS)
@settings(max_examples=15)
@given(graph=edges(), seed=SEEDS)
def test_a_node_that_hears_nobody_is_as_in_pyg_and_gives_no_gradient(
    name: str, with_edges: bool, graph: Edges, seed: int
) -> None:
    torch.manual_seed(seed)
    chosen = layer_settings(name, with_edges)
    chosen |= {"root_weight": False} if name == "TransformerConv" else {"add_self_loops": False}
    drop, theirs = make_pair(name, IN_DIM, 4, **chosen)
    inputs = {"x": draw_numbers(graph.num_queries, IN_DIM), **bonds_of(graph, with_edges)}
    alone = graph.alone()
    outside = alone.double()[:, None]
    with attending():
        found = differentiated(drop, graph, inputs, outside)
    given = (inputs["x"], graph.edge_index, *list(inputs.values())[1:])
    assert torch.equal(found["out"][alone], theirs(*given)[alone])
    biases = ("bias",) if name != "TransformerConv" else ()
    for part, gradient in found.items():
        if part not in ("out", *biases):
            assert not gradient.count_nonzero(), part
    everywhere = differentiated(drop, graph, inputs, torch.ones_like(outside))
    assert all(part.isfinite().all() for part in everywhere.values())


# ---- weights, beside their edges ----


@pytest.mark.parametrize(("name", "with_edges"), LAYERS[1:])
@settings(max_examples=15)
@given(graph=edges(bipartite=True), seed=SEEDS)
def test_weights_stand_beside_their_edges(
    name: str, with_edges: bool, graph: Edges, seed: int
) -> None:
    torch.manual_seed(seed)
    chosen = layer_settings(name, with_edges)
    chosen |= {} if name == "TransformerConv" else {"fill_value": 0.5}
    drop, theirs = make_pair(name, (IN_DIM, 6), 4, **chosen)
    x = draw_numbers(graph.num_keys, IN_DIM), draw_numbers(graph.num_queries, 6)
    given = (x, graph.edge_index, *bonds_of(graph, with_edges).values())
    with attending():
        _, (found_edges, found) = drop(*given, return_attention_weights=True)
    _, (expected_edges, expected) = theirs(*given, return_attention_weights=True)
    assert torch.equal(found_edges, expected_edges)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
