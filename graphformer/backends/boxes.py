"""Attention in boxes: many small rectangles of queries and keys side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from graphformer.backends.request import Request
from graphformer.backends.safe import only_edges, only_values
from graphformer.layout import Pair
from graphformer.padding import all_heads
from graphformer.scores import Bias
from graphformer.scores.score import evaluate, precise


class Box(NamedTuple):
    """What meets in the boxes; a head axis of size 1 stands for all heads.

    Attributes:
        query: prepared queries, or None.
        key: prepared keys, or None.
        value: values.
        query_term: added to every score of a query, or None.
        key_term: added to every score of a key, or None.
        bias: added to the scores, or None.
        mask: which pairs are edges; rows without keys are True throughout.
        empty: rows without keys, or None where there are none.
        pair: gives the pairs, [box, row, column, 1].
    """

    query: Float[Tensor, "box _ row width"] | None
    key: Float[Tensor, "box _ column width"] | None
    value: Float[Tensor, "box kv_head column value_dim"]
    query_term: Float[Tensor, "box _ row 1"] | None
    key_term: Float[Tensor, "box _ 1 column"] | None
    bias: Float[Tensor, "_ _ row column"] | None
    mask: Bool[Tensor, "_ 1 row column"]
    empty: Bool[Tensor, "box 1 row 1"] | None
    pair: Callable[[], Pair]


def attend_box(request: Request, box: Box, fits: bool) -> Float[Tensor, "box head row value_dim"]:
    """The attention of all boxes, by SDPA where it `fits` and no bias needs a gradient."""
    if fits and (box.bias is None or not box.bias.requires_grad):
        return attend_fused(box, additive_mask(box.mask, box.bias, box.value))
    return attend_products(request, box)


def edges_of(
    mask: Bool[Tensor, "_ 1 row column"], empty: Bool[Tensor, "box 1 row 1"] | None
) -> Bool[Tensor, "_ row column"]:
    """Which pairs are edges, where rows without keys have none."""
    return (mask if empty is None else mask & ~empty).squeeze(1)


def sum_biases(
    request: Request,
    biases: tuple[Bias, ...],
    pair: Pair,
    edges: Bool[Tensor, "_ row column"],
) -> Float[Tensor, "_ head row column"]:
    """The sum of one bias or more, in the memory order of scores."""
    if request.has_own_functions:
        pair = only_edges(pair, edges)
    total = evaluate(biases[0], request.heads, pair)
    for bias in biases[1:]:
        total = total + evaluate(bias, request.heads, pair)
    total = total.view(*[1] * (4 - total.dim()), *total.shape)
    total = total.expand(-1, *edges.shape[1:], -1)
    return total.permute(0, 3, 1, 2).contiguous()


def additive_mask(
    mask: Bool[Tensor, "_ 1 row column"],
    bias: Float[Tensor, "_ _ row column"] | None,
    value: Tensor,
) -> Float[Tensor, "_ _ row column"]:
    """What SDPA adds to scores: the bias where `mask` says so, minus infinity elsewhere."""
    # On the CPU a mask may be more precise than the values; elsewhere it must not.
    precise = torch.promote_types(value.dtype, torch.float32)
    dtype = precise if value.device.type == "cpu" else value.dtype
    zero = value.new_zeros((), dtype=dtype)
    return torch.where(mask, zero if bias is None else bias.to(dtype), -torch.inf)


def attend_fused(
    box: Box, mask: Float[Tensor, "_ _ row column"]
) -> Float[Tensor, "box head row value_dim"]:
    """Softmax attention through torch's SDPA, whose weights are never in memory.

    Args:
        box: queries, keys and values with as many dimensions each.
        mask: what is added to the scores, minus infinity where there is no edge.
    """
    query, key = box.query, box.key
    assert query is not None
    assert key is not None
    out = F.scaled_dot_product_attention(
        query,
        key,
        box.value,
        attn_mask=mask,
        scale=1.0,
        enable_gqa=box.value.shape[1] != query.shape[1],
    )
    return out if box.empty is None else out.masked_fill(box.empty, 0.0)


def attend_products(request: Request, box: Box) -> Float[Tensor, "box head row value_dim"]:
    """Attention with any score and normalization, in plain differentiable steps."""
    weights = _scores(request, box)
    # Sums and products with a mask are several times faster than filling under it.
    if request.normalize == "softmax":
        weights = weights + additive_mask(box.mask, None, weights)
        weights = (
            torch.ops.aten._safe_softmax(weights, -1)
            if request.may_hide_all
            else weights.softmax(-1)
        )
    else:
        weights = weights * box.mask
    if request.normalize == "sum":
        norm = weights.sum(-1, keepdim=True)
        weights = weights / torch.where(norm == 0, 1.0, norm)
    value = all_heads(box.value, request.heads)
    weights = weights.to(value.dtype).expand(value.shape[0], request.heads, -1, -1)
    if request.dropout:
        weights = F.dropout(weights, request.dropout)
    out = weights @ value
    return out if box.empty is None else out.masked_fill(box.empty, 0.0)


def _scores(request: Request, box: Box) -> Float[Tensor, "_ _ _ _"]:
    """The scores in float32 or float64, in front of the mask; axes may be 1."""
    precision = torch.promote_types(box.value.dtype, torch.float32)
    total = box.value.new_zeros(1, 1, 1, 1, dtype=precision)
    if box.query is not None and box.key is not None:
        heads = max(box.query.shape[1], box.key.shape[1])
        # Scores of 16 bits would put errors of a percent into the weights.
        query, key = precise(all_heads(box.query, heads)), precise(all_heads(box.key, heads))
        total = query @ key.transpose(-1, -2)
    for term in (box.query_term, box.key_term):
        if term is not None:
            total = total + all_heads(term, request.heads)
    if box.bias is not None:
        total = total + box.bias
    total = request.pointwise(total)
    if not request.has_function:
        return total
    # A function may look at each pair.
    rows, columns = box.mask.shape[-2:]
    total = total.expand(box.value.shape[0], request.heads, rows, columns).permute(0, 2, 3, 1)
    edges = edges_of(box.mask, box.empty)
    total = only_values(total, edges)
    pair = only_edges(box.pair(), edges)
    return evaluate(request.score.core, request.heads, total, pair).permute(0, 3, 1, 2)
