"""Scores without parameters: of terms that a layer has computed, or with weights that it holds."""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from graphformer.graph import Side
from graphformer.layout import Pair
from graphformer.scores import Bias, BilinearScore, EdgeDot, GATv2, LeakyReLU, Mean, Score

# The name under which a layer's graph has the values of its edges.
EDGE = "edge"


class Terms(BilinearScore):
    """leaky_relu(s_i + t_j), where query and key are the terms themselves, [token, head, 1].

    Args:
        slope: slope of the leaky ReLU below zero.
        of_query: whether queries have terms.
    """

    def __init__(self, slope: float, of_query: bool = True) -> None:
        super().__init__()
        self.slope, self.of_query = slope, of_query
        self.pointwise = LeakyReLU(slope)
        self.reads = ("query", "key") if of_query else ("key",)

    def prepare_query(self, query: Float[Tensor, "query head 1"] | None, side: Side) -> None:
        return None

    def prepare_key(self, key: Float[Tensor, "key head 1"] | None, side: Side) -> None:
        return None

    def query_term(
        self, query: Float[Tensor, "query head 1"] | None, side: Side
    ) -> Float[Tensor, "query head"] | None:
        return None if query is None else query.squeeze(-1)

    def key_term(
        self, key: Float[Tensor, "key head 1"] | None, side: Side
    ) -> Float[Tensor, "key head"] | None:
        return None if key is None else key.squeeze(-1)


class EdgeTerm(Bias):
    """The edge data themselves, a number for each head or one for all."""

    edge_data = EDGE

    def forward(self, pair: Pair) -> Float[Tensor, "*pair _"]:
        return pair.edge_data[EDGE]


@cache
def terms(slope: float, of_query: bool, of_edge: bool) -> Score:
    """The score of terms; one object for each kind, so that all layers share its plans."""
    score = Terms(slope, of_query)
    return score + EdgeTerm() if of_edge else score


@cache
def given_weight() -> Score:
    """The edge data as the weight itself, with `normalize="none"`."""
    return Mean() + EdgeTerm()


def gatv2(
    weight: Float[Tensor, "head dim"],
    slope: float,
    of_edge: bool,
    edge_weight: Float[Tensor, "head dim edge_dim"] | None = None,
) -> GATv2:
    """GATv2's score with this weight, and that of the edges where these are not mapped yet."""
    name = EDGE if of_edge else None
    edge_dim = None if edge_weight is None else edge_weight.shape[2]
    kind = _gatv2_kind(*weight.shape, slope, name, edge_dim)
    score = GATv2(kind.heads, slope=slope, edge_data=name, edge_weight=edge_weight)
    score.dim = kind.dim
    score.weight = weight  # type: ignore[assignment]  # the layer's, no parameter of the score
    score.share_plans(kind)
    return score


@cache
def _gatv2_kind(
    heads: int, dim: int, slope: float, edge_data: str | None, edge_dim: int | None
) -> GATv2:
    edge_weight = None if edge_dim is None else torch.empty(heads, dim, edge_dim)
    kind = GATv2(heads, slope=slope, edge_data=edge_data, edge_weight=edge_weight)
    kind.dim = dim
    return kind


def edge_dot(weight: Float[Tensor, "head dim edge_dim"]) -> EdgeDot:
    """The dot product with keys to which the edge data are added, projected by this weight."""
    score = EdgeDot(EDGE, weight)
    score.share_plans(_edge_dot_kind(*weight.shape))
    return score


@cache
def _edge_dot_kind(*shape: int) -> EdgeDot:
    return EdgeDot(EDGE, torch.empty(shape))
