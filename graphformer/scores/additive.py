"""Scores that are sums of what query and key say alone, and pairwise functions of the sum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.graph import Side
from graphformer.layout import Pair
from graphformer.scores.pointwise import LeakyReLU
from graphformer.scores.score import BilinearScore, PairwiseScore, precise


class Additive(BilinearScore):
    """leaky_relu(u . q + w . k): GAT's score (Velickovic et al. 2018, 1710.10903, equation 3).

    Args:
        heads: number of heads.
        dim: dimension of a head; `Attention` fills it in where left out.
        slope: slope of the leaky ReLU below zero.
    """

    heads: int

    def __init__(self, heads: int, dim: int | None = None, slope: float = 0.2) -> None:
        super().__init__()
        self.heads, self.dim, self.slope = heads, dim, slope
        self.pointwise = LeakyReLU(slope)
        if dim is not None:
            self._make(dim)

    def set_head_dim(self, dim: int) -> None:
        if self.dim is None:
            self.dim = dim
            self._make(dim)
        check_dim(self, dim)

    def _make(self, dim: int) -> None:
        self.query_weight = nn.Parameter(_glorot(self.heads, dim))
        self.key_weight = nn.Parameter(_glorot(self.heads, dim))

    def prepare_query(self, query: Float[Tensor, "query head dim"], side: Side) -> None:
        check_made(self)

    def prepare_key(self, key: Float[Tensor, "key kv_head dim"], side: Side) -> None:
        check_made(self)

    def query_term(
        self, query: Float[Tensor, "query head dim"], side: Side
    ) -> Float[Tensor, "query head"]:
        return (query * precise(self.query_weight)).sum(-1)

    def key_term(
        self, key: Float[Tensor, "key kv_head dim"], side: Side
    ) -> Float[Tensor, "key head"]:
        if key.shape[1] != self.heads:
            key = key.repeat_interleave(self.heads // key.shape[1], 1)
        return (key * precise(self.key_weight)).sum(-1)


class GATv2(PairwiseScore):
    """a . leaky_relu(q + k): the order of a query's keys may depend on the query.

    Args:
        heads: number of heads.
        dim: dimension of a head; `Attention` fills it in where left out.
        slope: slope of the leaky ReLU below zero.
        edge_data: name of edge data [edge, heads * dim], projected already, that joins the sum.

    Source: Brody et al. 2022 (2105.14491), equation 7.
    """

    heads: int

    def __init__(
        self,
        heads: int,
        dim: int | None = None,
        slope: float = 0.2,
        edge_data: str | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.dim, self.slope, self.edge_data = heads, dim, slope, edge_data
        if dim is not None:
            self.weight = nn.Parameter(_glorot(heads, dim))

    def set_head_dim(self, dim: int) -> None:
        if self.dim is None:
            self.dim = dim
            self.weight = nn.Parameter(_glorot(self.heads, dim))
        check_dim(self, dim)

    def forward(
        self,
        query: Float[Tensor, "*pair head dim"],
        key: Float[Tensor, "*pair head dim"],
        pair: Pair,
    ) -> Float[Tensor, "*pair head"]:
        return (F.leaky_relu(_joined(self, query, key, pair), self.slope) * self.weight).sum(-1)


class Bahdanau(PairwiseScore):
    """v . tanh(q + k): the attention of the first neural translators.

    Args:
        heads: number of heads.
        dim: dimension of a head; `Attention` fills it in where left out.
        edge_data: name of edge data [edge, heads * dim], projected already, that joins the sum.

    Source: Bahdanau et al. 2015 (1409.0473), appendix A.1.2.
    """

    heads: int

    def __init__(self, heads: int, dim: int | None = None, edge_data: str | None = None) -> None:
        super().__init__()
        self.heads, self.dim, self.edge_data = heads, dim, edge_data
        if dim is not None:
            self.weight = nn.Parameter(_glorot(heads, dim))

    def set_head_dim(self, dim: int) -> None:
        if self.dim is None:
            self.dim = dim
            self.weight = nn.Parameter(_glorot(self.heads, dim))
        check_dim(self, dim)

    def forward(
        self,
        query: Float[Tensor, "*pair head dim"],
        key: Float[Tensor, "*pair head dim"],
        pair: Pair,
    ) -> Float[Tensor, "*pair head"]:
        return (torch.tanh(_joined(self, query, key, pair)) * self.weight).sum(-1)


def _joined(score: GATv2 | Bahdanau, query: Tensor, key: Tensor, pair: Pair) -> Tensor:
    check_made(score)
    joined = query + key
    if score.edge_data is None:
        return joined
    edge = pair.edge_data[score.edge_data]
    return joined + edge.unflatten(-1, (score.heads, -1))


def check_dim(score: Additive | GATv2 | Bahdanau, dim: int) -> None:
    """Raises an error where the weights are there, but for heads of another dimension."""
    if score.dim != dim:
        raise ValueError(
            f"{score!r} was made for heads of {score.dim} numbers, here they have {dim}; make a "
            "score for each of the layers"
        )


def check_made(score: Additive | GATv2 | Bahdanau) -> None:
    """Raises what to write where the score does not know the dimension of its heads."""
    if score.dim is None:
        name = type(score).__name__
        raise ValueError(
            f"{name}({score.heads}) does not know the dimension of its heads; outside `Attention` "
            f"write {name}({score.heads}, dim)"
        )


def _glorot(heads: int, dim: int) -> Tensor:
    bound = (6 / (heads + dim)) ** 0.5
    return torch.empty(heads, dim).uniform_(-bound, bound)
