"""torch's `MultiheadAttention` on our backends."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.attend import attend
from graphformer.graph import TokenGraph
from graphformer.nn.drop_in import is_transformed
from graphformer.nn.masks import Masks, Sizes
from graphformer.scores import DotProduct

_DOT_PRODUCT = DotProduct()


class MultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention`, except that a query without keys hears exactly nothing.

    Where masks leave a query no key, its heads receive zero, and zero gradients: the layer gives
    the bias of `out_proj` there. torch's own gives NaN, or in some of its ways what this one does.

    Masks that only say who hears whom are graphs: what they leave out is not computed. Masks that
    add numbers or differ from head to head, weights that are asked for, and compiled code are
    products with a mask. `add_bias_kv`, `add_zero_attn` and nested tensors run as in torch.
    """

    plans_by = "mask"

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What torch's layer gives for the same arguments; see there."""
        masks = Masks(attn_mask, key_padding_mask, is_causal)
        if why_not(self) is not None or not self._is_ours(query, key, value, masks):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask,
                average_attn_weights, is_causal,
            )  # fmt: skip
        across = query.dim() == 3 and not self.batch_first
        parts = self._project(query, key, value)
        if query.dim() == 2:
            parts = [x.unsqueeze(0) for x in parts]
        elif across:
            parts = [x.transpose(0, 1) for x in parts]
        sizes = Sizes(parts[0].shape[0], parts[0].shape[1], parts[1].shape[1], query.device)
        dropout = self.dropout if self.training else 0.0
        graph = weights = None
        if not need_weights and dropout < 1 and not is_transformed():
            graph = masks.graph(sizes)
        if graph is not None:
            out = _attend(parts, graph, dropout)
        else:
            numbers = masks.numbers(sizes, query.dtype)
            out, weights = _attend_densely(parts, numbers, dropout, need_weights)
        out = self.out_proj(out)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if query.dim() == 2:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out.transpose(0, 1) if across else out, weights

    def _is_ours(self, query: Tensor, key: Tensor, value: Tensor, masks: Masks) -> bool:
        """Whether the call is right and there is something to attend to; else torch says what."""
        given = (query, key, value)
        if any(x.is_nested or x.dim() != query.dim() or not x.numel() for x in given):
            return False
        if query.dim() not in (2, 3) or (masks.causal and masks.pairs is None):
            return False
        if query.dim() == 2:
            examples, queries, keys = 1, query.shape[0], key.shape[0]
        else:
            batch = 0 if self.batch_first else 1
            examples, queries, keys = (
                query.shape[batch],
                query.shape[1 - batch],
                key.shape[1 - batch],
            )
            if key.shape[batch] != examples:
                return False
        return (
            key.shape[:-1] == value.shape[:-1]
            and [x.shape[-1] for x in given] == [self.embed_dim, self.kdim, self.vdim]
            and masks.fit((examples, self.num_heads, queries, keys), query.dim() == 2)
        )

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Query, key and value, [..., head, dim]; of one tensor by one product."""
        if query is key and key is value and self.in_proj_weight is not None:
            parts = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            if self.in_proj_weight is not None:
                weights = self.in_proj_weight.chunk(3)
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            given = zip((query, key, value), weights, biases, strict=True)
            parts = tuple(F.linear(*each) for each in given)
        return [x.unflatten(-1, (self.num_heads, self.head_dim)) for x in parts]


def why_not(layer: nn.MultiheadAttention) -> str | None:
    """Why an attention is torch's to compute, or None where it is ours."""
    if layer.bias_k is not None:
        return "it has add_bias_kv"
    return "it has add_zero_attn" if layer.add_zero_attn else None


def _attend(
    parts: list[Tensor], graph: TokenGraph, dropout: float
) -> Float[Tensor, "example query width"]:
    query, key, value = (x.flatten(0, 1) for x in parts)
    if key.shape[0] != graph.keys.num_tokens:
        rows = graph.keys.example * parts[1].shape[1] + graph.keys.at[:, 0]
        key, value = key.index_select(0, rows), value.index_select(0, rows)
    out = attend(query, key, value, graph, _DOT_PRODUCT, dropout=dropout)
    assert isinstance(out, Tensor)
    return out.reshape(*parts[0].shape[:2], -1)


def _attend_densely(
    parts: list[Tensor], mask: Tensor | None, dropout: float, weighs: bool
) -> tuple[Float[Tensor, "example query width"], Float[Tensor, "example head query key"] | None]:
    """The sums, and the weights where they are asked for; the mask is added to the scores."""
    query, key, value = (x.transpose(1, 2) for x in parts)
    empty = None
    if mask is not None:
        empty = (mask == -torch.inf).all(-1, keepdim=True)
        # A softmax over nothing but minus infinity is NaN, and its gradients are.
        mask = mask.masked_fill(empty, 0.0)
    weights = None
    if weighs:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        if empty is not None:
            weights = weights.masked_fill(empty, 0.0)
        weights = F.dropout(weights, dropout)
        out = weights @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value, mask, dropout)
    if empty is not None:
        out = out.masked_fill(empty, 0.0)
    return out.transpose(1, 2).flatten(2), weights
