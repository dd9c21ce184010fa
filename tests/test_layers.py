"""Layers are the formulas they are documented as, and make nothing that they do not read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphformer as gf
from graphformer.layers import (
    Attention,
    Block,
    ConvFeedForward,
    FeedForward,
    GraphConvolution,
)
from graphformer.tokens import Tokens, sequences

DIM, HEADS = 12, 4


@pytest.fixture
def tokens() -> Tokens:
    return sequences([torch.randn(length, DIM) for length in (5, 1, 3)])


# ---- attention ----


def test_one_matrix_product_gives_query_key_and_value(tokens: Tokens) -> None:
    layer, graph = Attention(DIM, HEADS, kv_heads=2), gf.causal().bind(tokens)
    nn.init.normal_(layer.projection.bias)
    weights = zip(*(part.split([12, 6, 6]) for part in layer.projection.parameters()), strict=True)
    query, key, value = (
        F.linear(tokens.x, weight, bias).unflatten(-1, (-1, 3)) for weight, bias in weights
    )
    expected = layer.output(gf.attend(query, key, value, graph).flatten(1))
    torch.testing.assert_close(layer(tokens.x, graph), expected)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("score", ["DotProduct()", "Additive(4)", "Mean()"])
def test_memory_is_projected_as_the_tokens_themselves(
    score: str, shared: bool, tokens: Tokens
) -> None:
    layer, graph = Attention(DIM, HEADS, gf.Score.parse(score), shared=shared), None
    nn.init.normal_(layer.projection.bias)
    graph = gf.complete().bind(tokens)
    torch.testing.assert_close(layer(tokens.x, graph, tokens.x), layer(tokens.x, graph))


@pytest.mark.parametrize(
    ("score", "settings", "rows"),
    [
        ("DotProduct()", {}, 3 * DIM),
        ("DotProduct()", {"kv_heads": 1}, DIM + 2 * 3),
        ("DotProduct()", {"head_dim": 5}, 3 * HEADS * 5),
        ("Mean()", {}, DIM),
        ("SymmetricDegree()", {"normalize": "none"}, DIM),
        ("Additive(4)", {"shared": True}, DIM),
    ],
)
def test_only_what_a_score_reads_is_projected(
    score: str, settings: dict[str, object], rows: int
) -> None:
    layer = Attention(DIM, HEADS, gf.Score.parse(score), **settings)
    assert layer.projection.weight.shape == (rows, DIM)


def test_averaged_heads_are_the_mean_of_joined_ones(tokens: Tokens) -> None:
    graph = gf.window(1).bind(tokens)
    score = gf.Additive(HEADS)
    joined = GraphConvolution(DIM, HEADS, score, head_dim=5, shared=True)
    averaged = GraphConvolution(DIM, HEADS, score, head_dim=5, shared=True, average=True)
    averaged.projection = joined.projection
    nn.init.normal_(averaged.bias)
    expected = joined(tokens.x, graph).unflatten(-1, (HEADS, 5)).mean(1) + averaged.bias
    torch.testing.assert_close(averaged(tokens.x, graph), expected)


def test_weights_are_dropped_in_training_alone(tokens: Tokens) -> None:
    layer, graph = Attention(DIM, HEADS, dropout=0.5), gf.complete().bind(tokens)
    assert not torch.equal(layer(tokens.x, graph), layer(tokens.x, graph))
    layer.eval()
    assert torch.equal(layer(tokens.x, graph), layer(tokens.x, graph))


@pytest.mark.parametrize(
    "score", ["DotProduct()", "SymmetricDegree()", "Additive(4)", "GATv2(4)", "Kernel()", "Mean()"]
)
@pytest.mark.parametrize("training", [False, True])
def test_plan_of_a_module_is_what_its_forward_asks_for(
    score: str, training: bool, tokens: Tokens
) -> None:
    normalize = {"SymmetricDegree()": "none", "Kernel()": "sum"}.get(score, "softmax")
    made = gf.Score.parse(score)
    block = Block(DIM, Attention(DIM, HEADS, made, normalize=normalize, dropout=0.2))
    graph = (gf.window(1) | gf.self_loops()).bind(tokens)
    gf.plan(graph, block, training=training)
    planned = set(graph.plans)
    assert len(planned) == 1
    with torch.set_grad_enabled(training):
        block.train(training)(tokens.x, graph)
    assert set(graph.plans) == planned


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(DIM, 5), "5 heads do not divide a width of 12 evenly; .*head_dim"),
        (lambda: Attention(DIM, 4, kv_heads=3), "4 heads of queries cannot share 3 of keys"),
        (lambda: Attention(DIM, 4, kv_heads=2, shared=True), "leave out kv_heads, or shared=True"),
        (lambda: Attention(DIM, 4, gf.Mean(), kv_heads=2), r"Mean\(\) reads no query"),
        (lambda: ConvFeedForward(DIM, 8, kernel=4), "kernel=4: .*write an odd number, or causal"),
    ],
)
def test_layers_refuse_sizes_that_do_not_fit(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---- feed-forward ----


@pytest.mark.parametrize(("kernel", "causal"), [(1, False), (3, False), (5, False), (4, True)])
def test_convolutions_stay_in_their_example(kernel: int, causal: bool) -> None:
    layer = ConvFeedForward(DIM, 8, kernel, causal=causal)
    tokens = sequences([torch.randn(length, DIM) for length in (5, 0, 1, 3)])
    out = layer(tokens.x, gf.complete().bind(tokens))
    sides = (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)
    for x, own in zip(tokens.unbatch(), tokens.with_x(out).unbatch(), strict=True):
        if x.shape[0]:
            hidden = layer.expand(F.pad(x.T, sides)).relu()
            expected = layer.contract(F.pad(hidden, sides)).T
            torch.testing.assert_close(own, expected)


def test_convolutions_refuse_keys_that_are_other_tokens(tokens: Tokens) -> None:
    graph = gf.complete().bind(tokens, sequences([torch.randn(2, DIM)] * 3))
    with pytest.raises(ValueError, match="queries of a bipartite graph"):
        ConvFeedForward(DIM, 8)(tokens.x, graph)


def test_feed_forward_may_have_any_activation(tokens: Tokens) -> None:
    layer = FeedForward(DIM, 20, activation=F.gelu)
    expected = layer.contract(F.gelu(layer.expand(tokens.x)))
    torch.testing.assert_close(layer(tokens.x), expected)


# ---- blocks ----


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d, None])
def test_block_is_its_parts_with_norms_and_ways_past(
    norm: Callable[[int], nn.Module] | None, norm_first: bool, tokens: Tokens
) -> None:
    parts = Attention(DIM, HEADS), FeedForward(DIM, 8)
    block = Block(DIM, *parts, norm=norm, norm_first=norm_first).eval()
    graph = gf.complete().bind(tokens)
    x = tokens.x
    for wrapped, part in zip((block.attention, block.feed_forward), parts, strict=True):
        normalize = (lambda x: x) if norm is None else wrapped.norm
        x = x + part(normalize(x), graph) if norm_first else normalize(x + part(x, graph))
    torch.testing.assert_close(block(tokens.x, graph), x)


def test_bare_block_is_its_attention(tokens: Tokens) -> None:
    layer = GraphConvolution(DIM, 1, gf.Mean(), head_dim=7)
    graph = gf.window(1).bind(tokens)
    block = Block(7, layer, norm=None, skip=None)
    torch.testing.assert_close(block(tokens.x, graph), layer(tokens.x, graph))


def test_linear_map_leads_past_a_layer_that_changes_the_width(tokens: Tokens) -> None:
    layer = GraphConvolution(DIM, 1, gf.Mean(), head_dim=7)
    graph = gf.window(1).bind(tokens)
    block = Block(7, layer, norm=None, skip=partial(nn.Linear, DIM, 7))
    expected = layer(tokens.x, graph) + block.attention.skip(tokens.x)
    torch.testing.assert_close(block(tokens.x, graph), expected)


def test_block_refuses_a_memory_it_cannot_read_and_the_lack_of_one(tokens: Tokens) -> None:
    graph = gf.complete().bind(tokens)
    alone = Block(DIM, Attention(DIM, 2))
    with pytest.raises(ValueError, match="nothing that attends to a memory; give it cross="):
        alone(tokens.x, graph, tokens.x, graph)
    crossed = Block(DIM, Attention(DIM, 2), cross=Attention(DIM, 2))
    with pytest.raises(ValueError, match=r"call it as block\(x, graph, memory, memory_graph\)"):
        crossed(tokens.x, graph)


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:.*Function.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("score", ["DotProduct()", "Rotary(Cosine(4)) + ALiBi(4)"])
def test_block_compiles_whole_and_gives_the_same(score: str, tokens: Tokens) -> None:
    block = Block(DIM, Attention(DIM, 4, gf.Score.parse(score), head_dim=4), FeedForward(DIM, 8))
    graph = gf.causal().bind(tokens)
    eager = block(tokens.x, graph)
    compiled = torch.compile(block, fullgraph=True)
    torch.testing.assert_close(compiled(tokens.x, graph), eager, rtol=1e-4, atol=1e-5)


def test_the_first_step_may_be_computed_again_in_the_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is measured to plan it is no part of what the backward expects to see again."""
    from graphformer.backends import executors

    monkeypatch.setattr(executors, "_chosen", {})
    block = gf.layers.Block(16, gf.layers.Attention(16, 2), gf.layers.FeedForward(16, 32))
    block.checkpoint = True
    x = torch.randn(8, 16, requires_grad=True)
    graph = gf.complete().bind(sequences([torch.zeros(3, 1), torch.zeros(5, 1)]))
    block(x, graph).sum().backward()
    assert executors._chosen
    assert x.grad is not None


def test_what_is_planned_under_inference_mode_trains() -> None:
    graph = gf.complete().bind(sequences([torch.zeros(3, 1), torch.zeros(5, 1)]))
    with torch.inference_mode():
        gf.plan(graph, heads=2, dim=8, training=True)
    x = torch.randn(8, 2, 8, requires_grad=True)
    gf.attend(x, x, x, graph).sum().backward()
    assert x.grad is not None


def test_attention_takes_a_score_in_the_notation() -> None:
    layer = Attention(8, 2, score="Rotary(Cosine(2)) + ALiBi(2)")
    assert repr(layer.score) == repr(gf.Score.parse("Rotary(Cosine(2)) + ALiBi(2)"))
