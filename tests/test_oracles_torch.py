"""Attention over all pairs, or over a mask of them, is torch's, with the same weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cases import make_tokens
from same_weights import compare, compare_layers, copied, leaf, parameters
from torch import Tensor, nn
from torch.nn import functional as F

import graphformer as gf
from graphformer.layers import Attention, Block, FeedForward

DIM, HEADS, HEAD_DIM = 12, 3, 5
LENGTHS = (5, 2, 7)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Layers and numbers are float64, so that only a wrong formula makes a difference."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def flat_mask(lengths: tuple[int, ...]) -> Tensor:
    """Where tokens stand in the rectangle."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def in_rectangle(x: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Flat tokens, padded."""
    return nn.utils.rnn.pad_sequence(x.split(lengths), batch_first=True)


@pytest.mark.parametrize("backend", [None, "dense", "reference"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attend_is_scaled_dot_product_attention(
    backend: str | None, is_causal: bool, kv_heads: int
) -> None:
    tokens = make_tokens((6, 6))
    graph = (gf.causal() if is_causal else gf.complete()).bind(tokens)
    query, key, value = leaf(12, 4, 5), leaf(12, kv_heads, 5), leaf(12, kv_heads, 3)

    def theirs() -> Tensor:
        boxes = (x.unflatten(0, (2, 6)).transpose(1, 2) for x in (query, key, value))
        out = F.scaled_dot_product_attention(*boxes, is_causal=is_causal, enable_gqa=True)
        return out.transpose(1, 2).flatten(0, 1)

    compare(
        lambda: gf.attend(query, key, value, graph, backend=backend),
        theirs,
        query=query,
        key=key,
        value=value,
    )


def test_attend_over_ragged_pairs_is_masked_scaled_dot_product_attention() -> None:
    key_lengths = (3, 6, 4)
    graph = gf.window(2).bind(make_tokens(LENGTHS), make_tokens(key_lengths))
    query, key = leaf(sum(LENGTHS), HEADS, HEAD_DIM), leaf(sum(key_lengths), HEADS, HEAD_DIM)
    near = (torch.arange(max(LENGTHS))[:, None] - torch.arange(max(key_lengths))).abs() <= 2
    mask = near & flat_mask(key_lengths)[:, None]

    def theirs() -> Tensor:
        query_box = in_rectangle(query, LENGTHS).transpose(1, 2)
        key_box = in_rectangle(key, key_lengths).transpose(1, 2)
        # Queries without keys are ours to define: torch gets a key for them, and they are zeroed.
        unheard = ~mask.any(-1, keepdim=True)
        out = F.scaled_dot_product_attention(
            query_box, key_box, key_box, attn_mask=(mask | unheard)[:, None]
        )
        out = out.masked_fill(unheard[:, None], 0.0)
        return out.transpose(1, 2)[flat_mask(LENGTHS)]

    compare(lambda: gf.attend(query, key, key, graph), theirs, query=query, key=key)


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_is_multihead_attention(is_causal: bool) -> None:
    """Ragged: torch hears of padding by a mask, ours has none."""
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    parameters(theirs)
    ours = copied(
        Attention(DIM, HEADS),
        {
            "projection.weight": theirs.in_proj_weight,
            "projection.bias": theirs.in_proj_bias,
            "output.weight": theirs.out_proj.weight,
            "output.bias": theirs.out_proj.bias,
        },
    )
    graph = (gf.causal() if is_causal else gf.complete()).bind(make_tokens(LENGTHS))
    x, there = leaf(sum(LENGTHS), DIM), flat_mask(LENGTHS)
    future = torch.ones(max(LENGTHS), max(LENGTHS), dtype=torch.bool).triu(1)

    def padded() -> Tensor:
        box = in_rectangle(x, LENGTHS)
        mask = future if is_causal else None
        return theirs(box, box, box, key_padding_mask=~there, attn_mask=mask)[0][there]

    pairs = {
        ours.projection.weight: theirs.in_proj_weight,
        ours.projection.bias: theirs.in_proj_bias,
        ours.output.weight: theirs.out_proj.weight,
        ours.output.bias: theirs.out_proj.bias,
    }
    compare_layers(lambda: ours(x, graph), padded, x, pairs)


def test_weights_are_those_of_multihead_attention() -> None:
    layer = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    ours = copied(
        Attention(DIM, HEADS),
        {
            "projection.weight": layer.in_proj_weight,
            "projection.bias": layer.in_proj_bias,
            "output.weight": layer.out_proj.weight,
            "output.bias": layer.out_proj.bias,
        },
    )
    x = leaf(6, DIM)
    graph = gf.complete().bind(make_tokens((6,)))
    weights = gf.attend(*ours.project(x), graph, return_weights=True).weights
    box = weights.new_zeros(HEADS, 6, 6)
    box[:, graph.edge_index[1], graph.edge_index[0]] = weights.T
    expected = layer(x[None], x[None], x[None], average_attn_weights=False)[1][0]
    torch.testing.assert_close(box, expected)


def our_block(theirs: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> Block:
    """A block with the weights of torch's layer."""
    decodes = isinstance(theirs, nn.TransformerDecoderLayer)
    cross = Attention(DIM, HEADS) if decodes else None
    norm_first = theirs.norm_first
    ours = Block(DIM, Attention(DIM, HEADS), FeedForward(DIM, 20), cross, norm_first=norm_first)
    weights = {}
    attentions = {"attention": theirs.self_attn}
    if decodes:
        attentions["cross"] = theirs.multihead_attn
    for part, attention in attentions.items():
        weights |= {
            f"{part}.layer.projection.weight": attention.in_proj_weight,
            f"{part}.layer.projection.bias": attention.in_proj_bias,
            f"{part}.layer.output.weight": attention.out_proj.weight,
            f"{part}.layer.output.bias": attention.out_proj.bias,
        }
    linears = {"expand": theirs.linear1, "contract": theirs.linear2}
    norms = [theirs.norm1, theirs.norm2] + ([theirs.norm3] if decodes else [])
    parts = [*attentions, "feed_forward"]
    weights |= {
        f"feed_forward.layer.{name}.{kind}": getattr(linear, kind)
        for name, linear in linears.items()
        for kind in ("weight", "bias")
    }
    weights |= {
        f"{part}.norm.{kind}": getattr(norm, kind)
        for part, norm in zip(parts, norms, strict=True)
        for kind in ("weight", "bias")
    }
    return copied(ours, weights)


@pytest.mark.parametrize("norm_first", [False, True])
def test_block_is_transformer_encoder_layer(norm_first: bool) -> None:
    theirs = nn.TransformerEncoderLayer(
        DIM, HEADS, 20, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    parameters(theirs)
    ours, x, there = our_block(theirs), leaf(sum(LENGTHS), DIM), flat_mask(LENGTHS)
    graph = gf.complete().bind(make_tokens(LENGTHS))

    def padded() -> Tensor:
        return theirs(in_rectangle(x, LENGTHS), src_key_padding_mask=~there)[there]

    compare_layers(lambda: ours(x, graph), padded, x, {})


@pytest.mark.parametrize("norm_first", [False, True])
def test_block_with_memory_is_transformer_decoder_layer(norm_first: bool) -> None:
    theirs = nn.TransformerDecoderLayer(
        DIM, HEADS, 20, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    parameters(theirs)
    key_lengths = (3, 6, 4)
    ours, memory = our_block(theirs), leaf(sum(key_lengths), DIM)
    x, there = leaf(sum(LENGTHS), DIM), flat_mask(LENGTHS)
    tokens = make_tokens(LENGTHS)
    graph, cross = gf.causal().bind(tokens), gf.complete().bind(tokens, make_tokens(key_lengths))
    future = torch.ones(max(LENGTHS), max(LENGTHS), dtype=torch.bool).triu(1)

    def padded() -> Tensor:
        out = theirs(
            in_rectangle(x, LENGTHS),
            in_rectangle(memory, key_lengths),
            tgt_mask=future,
            tgt_key_padding_mask=~there,
            memory_key_padding_mask=~flat_mask(key_lengths),
        )
        return out[there]

    compare_layers(lambda: ours(x, graph, memory, cross), padded, x, {})
    compare_layers(lambda: ours(x, graph, memory, cross), padded, memory, {})
