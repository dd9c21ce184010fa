"""Attention as graph networks have it: nothing behind the heads but a bias."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graphformer.layers.attention import MultiHead
from graphformer.scores import Score


class GraphConvolution(MultiHead):
    """Attention whose heads are put side by side, or averaged, and a bias is added.

    With one head, `SymmetricDegree()` and `normalize="none"` it is GCN's layer; with
    `Additive(heads)` and `shared=True` GAT's.

    Args:
        dim: width of the tokens.
        heads: number of heads.
        score: how strongly a query attends to a key.
        head_dim: width of a head, and of what leaves the layer where heads are averaged.
        normalize: "softmax", "sum" or "none".
        shared: whether query, key and value are one projection.
        dropout: probability with which a weight is zero while training.
        average: whether heads are averaged instead of joined.

    Source: Kipf and Welling 2017 (1609.02907), equation 2; Velickovic et al. 2018 (1710.10903),
        equations 5 and 6.
    """

    projection_has_bias = False

    def __init__(
        self,
        dim: int,
        heads: int,
        score: Score,
        *,
        head_dim: int,
        normalize: str = "softmax",
        shared: bool = False,
        dropout: float = 0.0,
        average: bool = False,
    ) -> None:
        super().__init__(dim, heads, score, heads, head_dim, normalize, shared, dropout)
        self.average = average
        self.bias = nn.Parameter(torch.zeros(head_dim if average else heads * head_dim))

    def join(self, heads: Float[Tensor, "query head dim"]) -> Float[Tensor, "query width"]:
        return (heads.mean(1) if self.average else heads.flatten(1)) + self.bias
