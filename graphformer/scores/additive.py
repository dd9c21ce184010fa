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
        edge_data: name of edge data [edge, heads * dim] that join the sum.
        edge_weight: W, [head, dim, edge_dim], a parameter that is trained or a tensor: the data are
            [edge, edge_dim], and W e joins the sum, never edges x heads x dim.

    Raises:
        ValueError: if there is a weight and no name, or a weight of other heads or another dim.

    Source: Brody et al. 2022 (2105.14491), equation 7.
    """

    heads: int
    edge_weight: Tensor | None

    def __init__(
        self,
        heads: int,
        dim: int | None = None,
        slope: float = 0.2,
        edge_data: str | None = None,
        edge_weight: Float[Tensor, "head dim edge_dim"] | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.dim, self.slope = heads, dim, slope
        self.edge_data, self.edge_weight = edge_data, edge_weight
        self.edge_dim = None if edge_weight is None else edge_weight.shape[-1]
        _check_edges(self)
        if dim is not None:
            self.weight = nn.Parameter(_glorot(heads, dim))

    def set_head_dim(self, dim: int) -> None:
        if self.dim is None:
            self.dim = dim
            self.weight = nn.Parameter(_glorot(self.heads, dim))
        check_dim(self, dim)
        _check_edges(self)

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
        edge_data: name of edge data [edge, heads * dim] that join the sum.
        edge_weight: W, [head, dim, edge_dim], a parameter that is trained or a tensor: the data are
            [edge, edge_dim], and W e joins the sum, never edges x heads x dim.

    Raises:
        ValueError: if there is a weight and no name, or a weight of other heads or another dim.

    Source: Bahdanau et al. 2015 (1409.0473), appendix A.1.2.
    """

    heads: int
    edge_weight: Tensor | None

    def __init__(
        self,
        heads: int,
        dim: int | None = None,
        edge_data: str | None = None,
        edge_weight: Float[Tensor, "head dim edge_dim"] | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim
        self.edge_data, self.edge_weight = edge_data, edge_weight
        self.edge_dim = None if edge_weight is None else edge_weight.shape[-1]
        _check_edges(self)
        if dim is not None:
            self.weight = nn.Parameter(_glorot(heads, dim))

    def set_head_dim(self, dim: int) -> None:
        if self.dim is None:
            self.dim = dim
            self.weight = nn.Parameter(_glorot(self.heads, dim))
        check_dim(self, dim)
        _check_edges(self)

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
    if score.edge_weight is None:
        return joined + edge.unflatten(-1, (score.heads, -1))
    weight = precise(score.edge_weight)
    with torch.autocast(joined.device.type, enabled=False):
        return joined + torch.einsum("...e,hde->...hd", edge.to(weight.dtype), weight)


def _check_edges(score: GATv2 | Bahdanau) -> None:
    """Raises an error where what edge data are multiplied with does not fit the score."""
    weight, name = score.edge_weight, type(score).__name__
    if weight is None:
        return
    if score.edge_data is None:
        raise ValueError(
            f"{name} got edge_weight and no edge_data: write the name that the edges' data have in "
            "bind, as in edge_data='bond'"
        )
    heads, dim = score.heads, "dim" if score.dim is None else score.dim
    fits = weight.dim() == 3 and weight.shape[0] == heads
    if not fits or score.dim not in (None, weight.shape[1]):
        raise ValueError(
            f"the edge_weight of {name} has shape {list(weight.shape)}: make it [head, dim, "
            f"edge_dim], here [{heads}, {dim}, edge_dim]"
        )


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
