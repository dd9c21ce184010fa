"""Attention as a layer: projections, the operator, and the step that joins its heads."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.attend import attend, attend_prepared
from graphformer.backends.request import Attended, Operands, prepare_key, prepare_query
from graphformer.graph import TokenGraph
from graphformer.layers.cache import ArrivingSide, Cache
from graphformer.layout import Layout
from graphformer.refusals import check_settings
from graphformer.scores import DotProduct, Score
from graphformer.topology import complete


class MultiHead(nn.Module):
    """Projections of the tokens into heads, and the operator; a subclass joins the heads again.

    Only what the score reads is projected, beside the values; where all of it comes from the same
    tokens, by a single matrix product.

    Args:
        dim: width of the tokens.
        heads: number of heads of the queries.
        score: how strongly a query attends to a key.
        kv_heads: number of heads of the keys and values, each of which serves several of the
            queries'.
        head_dim: width of a head.
        normalize: "softmax", "sum" or "none".
        shared: whether query, key and value are one projection.
        dropout: probability with which a weight is zero while training.

    Raises:
        ValueError: if the numbers of heads do not fit each other or the score.
    """

    projection_has_bias = True

    def __init__(
        self,
        dim: int,
        heads: int,
        score: Score,
        kv_heads: int,
        head_dim: int,
        normalize: str,
        shared: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        _check_heads(heads, kv_heads, score, shared)
        check_settings(normalize, dropout)
        self.dim, self.heads, self.kv_heads, self.head_dim = dim, heads, kv_heads, head_dim
        self.normalize, self.shared, self.dropout = normalize, shared, dropout
        self.score = score
        score.set_head_dim(head_dim)
        reads_query, reads_key = "query" in score.reads, "key" in score.reads
        widths = (heads * reads_query, kv_heads * reads_key, kv_heads)
        self.widths = [width * head_dim for width in widths]
        size = heads * head_dim if shared else sum(self.widths)
        self.projection = nn.Linear(dim, size, bias=self.projection_has_bias)
        nn.init.xavier_uniform_(self.projection.weight)
        if self.projection_has_bias:
            nn.init.zeros_(self.projection.bias)

    @abstractmethod
    def join(self, heads: Float[Tensor, "query head dim"]) -> Float[Tensor, "query width"]:
        """What leaves the layer, made of what the heads received."""

    def forward(
        self,
        x: Float[Tensor, "query dim"],
        graph: TokenGraph,
        memory: Float[Tensor, "key dim"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "query width"]:
        """What each token of `x` receives along the edges of the graph.

        Args:
            x: the queries, and where no memory is given the keys.
            graph: who attends to whom.
            memory: the tokens that are attended to, where they are others.
            cache: what a decoder remembers. Without memory, keys and values of `x` join those of
                earlier calls, and the graph is that of `cache.bind`; those of a memory are
                projected in the first call only.

        Raises:
            ValueError: if tokens do not fit the graph, or a score with a cache reads degrees.
        """
        if cache is not None:
            return self.join(self._attend_cached(x, graph, memory, cache))
        query, key, value = self.project(x, memory)
        dropout = self.dropout if self.training else 0.0
        out = attend(query, key, value, graph, self.score, self.normalize, dropout)
        assert isinstance(out, Tensor)
        return self.join(out)

    def weigh(
        self,
        x: Float[Tensor, "query dim"],
        graph: TokenGraph,
        memory: Float[Tensor, "key dim"] | None = None,
    ) -> Float[Tensor, "edge head"]:
        """The weight of each edge and head, in the order of `graph.edge_index`, without dropout."""
        query, key, value = self.project(x, memory)
        asked = attend(query, key, value, graph, self.score, self.normalize, return_weights=True)
        assert isinstance(asked, Attended)
        assert asked.weights is not None
        return asked.weights

    def project(
        self, x: Float[Tensor, "query dim"], memory: Float[Tensor, "key dim"] | None = None
    ) -> tuple[
        Float[Tensor, "query head head_dim"] | None,
        Float[Tensor, "key kv_head head_dim"] | None,
        Float[Tensor, "key kv_head head_dim"],
    ]:
        """Query, key and value in heads; None for what the score does not read."""
        if memory is not None:
            return self._project_queries(x), *self._project_keys(memory)
        projected = self.projection(x)
        parts = [projected] * 3 if self.shared else projected.split(self.widths, -1)
        query, key, value = map(self._in_heads, parts, self.widths)
        assert value is not None
        return query, key, value

    def attention_settings(self, training: bool) -> dict[str, Any]:
        """What `plan` is told of this layer."""
        return {
            "score": self.score,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "dim": self._prepared_width(),
            "value_dim": self.head_dim,
            "normalize": self.normalize,
            "dropout": self.dropout if training else 0.0,
        }

    def extra_repr(self) -> str:
        heads = f"{self.heads} heads of {self.head_dim}"
        return f"{self.score!r}, {heads}, normalize={self.normalize!r}"

    def _attend_cached(
        self, x: Tensor, graph: TokenGraph, memory: Tensor | None, cache: Cache
    ) -> Tensor:
        side = ArrivingSide(graph.queries, graph)
        _check_tokens(x, graph.queries.num_tokens)
        if memory is None:
            query, key, value = self.project(x)
            kept = cache.append(self, (*prepare_key(self.score, key, side), value))
        else:
            query = self._project_queries(x)
            kept = cache.once(self, lambda: self._prepare_memory(memory, graph))
        prepared, query_term, edge_query = prepare_query(self.score, query, graph.query_side)
        assert kept[2] is not None
        _check_tokens(kept[2], graph.keys.num_tokens)
        operands = Operands(prepared, kept[0], kept[2], query_term, kept[1], edge_query)
        out = attend_prepared(operands, graph, self.score, self.heads, self.normalize)
        assert isinstance(out, Tensor)
        return out

    def _prepare_memory(self, memory: Tensor, graph: TokenGraph) -> tuple[Tensor | None, ...]:
        key, value = self._project_keys(memory)
        return (*prepare_key(self.score, key, ArrivingSide(graph.keys, graph)), value)

    def _project_queries(self, x: Tensor) -> Tensor | None:
        width = self.widths[0]
        if not width:
            return None
        if self.shared:
            return self._in_heads(self.projection(x), width)
        bias = self.projection.bias
        weight = self.projection.weight.split([width, sum(self.widths[1:])])[0]
        return self._in_heads(F.linear(x, weight, None if bias is None else bias[:width]), width)

    def _project_keys(self, memory: Tensor) -> tuple[Tensor | None, Tensor]:
        first, *others = self.widths
        if self.shared:
            parts = [self.projection(memory)] * 2
        else:
            bias = self.projection.bias
            weight = self.projection.weight.split([first, sum(others)])[1]
            projected = F.linear(memory, weight, None if bias is None else bias[first:])
            parts = list(projected.split(others, -1))
        key, value = map(self._in_heads, parts, others)
        assert value is not None
        return key, value

    def _in_heads(self, x: Tensor, width: int) -> Tensor | None:
        return x.view(x.shape[0], width // self.head_dim, self.head_dim) if width else None

    def _prepared_width(self) -> int:
        """The width of a prepared query, which need not be that of a head."""
        weight = self.projection.weight
        index = torch.zeros(2, dtype=torch.int64, device=weight.device)
        nobody = Layout(index, index.new_zeros(0, 1), torch.zeros(1, dtype=torch.int64), 0, True)
        query = weight.new_zeros(0, self.heads, self.head_dim) if self.widths[0] else None
        side = TokenGraph(complete(), nobody, nobody).query_side
        prepared = prepare_query(self.score, query, side)[0]
        return self.head_dim if prepared is None else prepared.shape[-1]


class Attention(MultiHead):
    """Multi-head attention, its heads joined by a linear map back to the width of the tokens.

    Args:
        dim: width of the tokens.
        heads: number of heads of the queries.
        score: how strongly a query attends to a key, or its notation, such as "Cosine(4)";
            `DotProduct()` where left out.
        kv_heads: number of heads of the keys and values, which divides `heads`; as many where left
            out.
        head_dim: width of a head; `dim / heads` where left out.
        normalize: "softmax", "sum" or "none".
        shared: whether query, key and value are one projection.
        dropout: probability with which a weight is zero while training.

    Raises:
        ValueError: if the numbers of heads do not fit each other, the width or the score, or
            weights can be neither normalized nor dropped so.

    Source: Vaswani et al. 2017 (1706.03762), section 3.2.2; Ainslie et al. 2023 (2305.13245) for
        fewer heads of keys and values.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        score: Score | str | None = None,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        normalize: str = "softmax",
        shared: bool = False,
        dropout: float = 0.0,
    ) -> None:
        if heads < 1:
            raise ValueError(f"an attention has at least 1 head, it is given {heads}")
        if head_dim is None and dim % heads:
            raise ValueError(
                f"{heads} heads do not divide a width of {dim} evenly; choose another number of "
                "heads, or name head_dim"
            )
        super().__init__(
            dim,
            heads,
            _made(score),
            heads if kv_heads is None else kv_heads,
            dim // heads if head_dim is None else head_dim,
            normalize,
            shared,
            dropout,
        )
        self.output = nn.Linear(self.heads * self.head_dim, dim)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def join(self, heads: Float[Tensor, "query head dim"]) -> Float[Tensor, "query width"]:
        out: Tensor = self.output(heads.flatten(1))
        return out


def _check_tokens(x: Tensor, bound: int) -> None:
    if x.shape[0] != bound:
        raise ValueError(
            f"a cached attention has {x.shape[0]} tokens, and its graph was bound to {bound}: take "
            "the graph of cache.bind for these tokens, or of cache.bind_memory for a memory"
        )


def _made(score: Score | str | None) -> Score:
    if isinstance(score, str):
        return Score.parse(score)
    return DotProduct() if score is None else score


def _check_heads(heads: int, kv_heads: int, score: Score, shared: bool) -> None:
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(
            f"{heads} heads of queries cannot share {kv_heads} of keys and values evenly; make the "
            "first a multiple of the second"
        )
    if kv_heads != heads and shared:
        raise ValueError(
            f"one shared projection has {heads} heads for keys and values too, not {kv_heads}; "
            "leave out kv_heads, or shared=True"
        )
    if kv_heads != heads and "query" not in score.reads:
        raise ValueError(
            f"{score!r} reads no query, so nothing has more heads than keys and values; leave out "
            "kv_heads"
        )
