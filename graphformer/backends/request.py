"""What a backend is asked, what it is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from graphformer.backends.turning import turn
from graphformer.graph import Side, TokenGraph
from graphformer.scores import (
    Bias,
    BilinearScore,
    DotProduct,
    EdgeDot,
    PairwiseScore,
    Pointwise,
    Rotary,
    Score,
)
from graphformer.scores.pointwise import Identity
from graphformer.scores.score import precise


@dataclass(frozen=True, eq=False)
class Request:
    """One attention without its numbers: all that a plan depends on.

    Attributes:
        graph: who attends to whom.
        score: how strongly, biases included.
        normalize: "softmax", "sum" or "none".
        heads: number of query heads.
        kv_heads: number of value heads, which divides `heads`.
        dim: dimension of a query and key head.
        value_dim: dimension of a value head.
        dtype: of the prepared query, key and value.
        grad: whether a backward may follow.
        dropout: probability with which a weight is set to zero.
        edge_sum: name of the edge data to sum with the weights, or None.
        return_weights: whether the weights are asked for.
    """

    graph: TokenGraph
    score: Score
    normalize: str
    heads: int
    kv_heads: int
    dim: int
    value_dim: int
    dtype: torch.dtype
    grad: bool = False
    dropout: float = 0.0
    edge_sum: str | None = None
    return_weights: bool = False

    @cached_property
    def pairwise(self) -> bool:
        """Whether the score is any function of query and key."""
        return isinstance(self.score.core, PairwiseScore)

    @cached_property
    def pointwise(self) -> Pointwise:
        """The function of the finished score that kernels fuse."""
        core = self.score.core
        return core.pointwise if isinstance(core, BilinearScore) else Identity()

    @cached_property
    def has_function(self) -> bool:
        """Whether the score overrides `forward(score, pair)`, which runs unfused."""
        core = innermost(self.score.core)
        return isinstance(core, BilinearScore) and overrides(core, "forward")

    @cached_property
    def has_own_functions(self) -> bool:
        """Whether functions of a user's own look at pairs: they may hold of edges only."""
        biases = (type(bias).__module__ for bias in self.score.biases)
        return self.has_function or any(not name.startswith("graphformer.") for name in biases)

    @cached_property
    def may_hide_all(self) -> bool:
        """Whether all scores of a query may be minus infinity, which is then as without keys."""
        return self.has_own_functions or bool(self.edge_names)

    @cached_property
    def has_terms(self) -> bool:
        """Whether query or key terms are added to the products."""
        core = innermost(self.score.core)
        return overrides(core, "query_term") or overrides(core, "key_term")

    @cached_property
    def edge_names(self) -> tuple[str, ...]:
        """The edge data that score, biases and edge sum read."""
        readers: list[Score | Bias] = [self.score.core, *self.score.biases]
        names = [reader.edge_data for reader in readers if reader.edge_data is not None]
        names += [self.edge_sum] if self.edge_sum is not None else []
        return tuple(dict.fromkeys(names))

    @cached_property
    def plain(self) -> bool:
        """Whether the score is a product of prepared query and key and nothing else."""
        return (
            not self.pairwise
            and set(self.score.reads) == {"query", "key"}
            and not self.score.biases
            and not self.has_function
            and not self.has_terms
            and self.score.core.edge_data is None
            and self.pointwise.identity
        )

    @cached_property
    def numbers(self) -> str:
        """What is computed with, as part of the names of what a graph keeps for it."""
        dims = f"{self.heads}:{self.kv_heads}:{self.dim}:{self.value_dim}"
        return f"{dims}:{self.dtype}:{self.grad}:{self.dropout}"

    def settle(self) -> None:
        """Derives all of the above: compiled code cannot enter the lock of `cached_property`."""
        for name, member in vars(Request).items():
            if isinstance(member, cached_property):
                getattr(self, name)

    def on(self, graph: TokenGraph, score: Score | None = None) -> Request:
        """The same request of the same graph with other edge data, and of a score alike."""
        # `copy` takes some microseconds.
        request = object.__new__(Request)
        score = self.score if score is None else score
        vars(request).update({**vars(self), "graph": graph, "score": score})
        return request


class Operands(NamedTuple):
    """The numbers of one attention; terms and edge queries are float32 or float64.

    A head axis of size 1 stands for all heads. The query is still to be multiplied with `scale`,
    which a kernel does on the way.
    """

    query: Float[Tensor, "query _ width"] | None
    key: Float[Tensor, "key _ width"] | None
    value: Float[Tensor, "key kv_head value_dim"]
    query_term: Float[Tensor, "query _"] | None = None
    key_term: Float[Tensor, "key _"] | None = None
    edge_query: Float[Tensor, "query _ edge_dim"] | None = None
    scale: float = 1.0

    def scaled(self) -> Operands:
        """The same with nothing left to be multiplied."""
        if self.scale == 1.0 or self.query is None:
            return self
        return self._replace(query=self.query * self.scale, scale=1.0)


class Attended(NamedTuple):
    """The result of an attention with its extras.

    Attributes:
        out: sum of weight times value for each query and head.
        edge_sum: sum of weight times edge data, or None.
        weights: weight of each edge and head in the order of `graph.edge_index`, or None.
    """

    out: Float[Tensor, "query head dim"]
    edge_sum: Float[Tensor, "query head edge_dim"] | None = None
    weights: Float[Tensor, "edge head"] | None = None


class Cost(NamedTuple):
    """What a backend is predicted to take.

    Attributes:
        flops: floating point operations of the forward, and of the backward where one follows.
        bytes: memory held beside inputs and output at the peak.
        seconds: time.
    """

    flops: float
    bytes: float
    seconds: float


def prepare(
    score: Score, query: Tensor | None, key: Tensor | None, value: Tensor, graph: TokenGraph
) -> Operands:
    """What a backend computes with, as the score makes it of query and key."""
    core = score.core
    inner = innermost(core)
    if type(inner) is DotProduct and query is not None:
        turned = _turned(core, query, graph.query_side), _turned(core, key, graph.key_side)
        return Operands(*turned, value, scale=inner.factor(query.shape[-1]))
    if type(core) is EdgeDot and query is not None:
        of_edges = precise(core.edge_query(query, graph.query_side))
        scale = core.factor(query.shape[-1])
        return Operands(query, key, value, edge_query=of_edges, scale=scale)
    query = query if "query" in score.reads else None
    key = key if "key" in score.reads else None
    received, query_term, edge_query = prepare_query(score, query, graph.query_side)
    sent, key_term = prepare_key(score, key, graph.key_side)
    return Operands(received, sent, value, query_term, key_term, edge_query)


def prepare_query(score: Score, query: Tensor | None, side: Side) -> tuple[Tensor | None, ...]:
    """The query as it is multiplied, its term and its edge query."""
    core = score.core
    if not isinstance(core, BilinearScore):
        return query, None, None
    inner = innermost(core)
    assert isinstance(inner, BilinearScore)
    prepared = inner.prepare_query(query, side)
    return (
        _turned(core, prepared, side),
        precise(core.query_term(query, side)),
        precise(core.edge_query(query, side)),
    )


def prepare_key(score: Score, key: Tensor | None, side: Side) -> tuple[Tensor | None, ...]:
    """The key as it is multiplied, and its term."""
    core = score.core
    if not isinstance(core, BilinearScore):
        return key, None
    inner = innermost(core)
    assert isinstance(inner, BilinearScore)
    prepared = inner.prepare_key(key, side)
    return _turned(core, prepared, side), precise(core.key_term(key, side))


def innermost(score: Score) -> Score:
    """The score inside `Rotary`; a wrapper of a user's own may do anything, and stays."""
    while type(score) is Rotary:
        score = score.score
    return score


def _turned(score: Score, prepared: Tensor | None, side: Side) -> Tensor | None:
    """What the innermost score prepared, turned by each `Rotary` around it."""
    if prepared is None or type(score) is not Rotary:
        return prepared
    inside = _turned(score.score, prepared, side)
    assert inside is not None
    return turn(inside, score.turns(inside.shape[-1], inside.dtype, side))


def overrides(score: Score, method: str) -> bool:
    """Whether the class of `score` defines `method` itself."""
    return getattr(type(score), method, None) is not getattr(BilinearScore, method)
