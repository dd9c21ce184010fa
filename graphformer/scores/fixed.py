"""Scores that read neither query nor key: the graph alone says who is heard."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphformer.graph import Side
from graphformer.scores.score import BilinearScore


class Mean(BilinearScore):
    """Zero: under softmax every key counts the same (GraphSAGE-mean, 1706.02216)."""

    reads = ()

    def prepare_query(self, query: None, side: Side) -> None:
        return None

    def prepare_key(self, key: None, side: Side) -> None:
        return None


class SymmetricDegree(BilinearScore):
    """1 / sqrt(degree_i degree_j), with `normalize="none"`: GCN as attention of rank one.

    Degrees are numbers of keys, as in D^-1/2 A D^-1/2 (Kipf and Welling 2017, 1609.02907,
    equation 2); for the keys of a bipartite graph, which have none, numbers of queries.
    """

    reads = ()

    def prepare_query(self, query: None, side: Side) -> Float[Tensor, "query 1 1"]:
        return _inverse_root(side.in_degree)

    def prepare_key(self, key: None, side: Side) -> Float[Tensor, "key 1 1"]:
        return _inverse_root(side.out_degree if side.in_degree is None else side.in_degree)


def _inverse_root(degree: Int[Tensor, "token"] | None) -> Float[Tensor, "token 1 1"]:
    assert degree is not None, "queries know their keys, and keys their queries"
    # A token without edges gives and receives nothing: zero, where PyG also writes zero.
    root = degree.to(torch.float64).rsqrt()
    return torch.where(degree > 0, root, 0.0).view(-1, 1, 1)
