"""Scores that are products of query and key: the Transformer's own and its relatives."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.graph import Side
from graphformer.scores.score import BilinearScore, precise


class DotProduct(BilinearScore):
    """<q, k> / sqrt(dim), or <q, k> * scale (Vaswani et al. 2017, 1706.03762, equation 1).

    Args:
        scale: what multiplies the product; 1 / sqrt(dim) where left out.
    """

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        self.scale = scale

    def factor(self, dim: int) -> float:
        """What multiplies the product of a query and a key of this dimension."""
        return dim**-0.5 if self.scale is None else self.scale

    def prepare_query(
        self, query: Float[Tensor, "query head dim"], side: Side
    ) -> Float[Tensor, "query head dim"]:
        return query * self.factor(query.shape[-1])


class Cosine(BilinearScore):
    """Cosine of the angle between q and k, times a learned temperature of each head.

    Args:
        heads: number of heads.
        initial: the temperature before training.

    Source: Henry et al. 2020, Query-Key Normalization for Transformers (2010.04245).
    """

    def __init__(self, heads: int, initial: float = 10.0) -> None:
        super().__init__()
        self.heads, self.initial = heads, initial
        self.scale = nn.Parameter(torch.full((heads, 1), initial))

    def prepare_query(
        self, query: Float[Tensor, "query head dim"], side: Side
    ) -> Float[Tensor, "query head dim"]:
        return F.normalize(query, dim=-1) * self.scale

    def prepare_key(
        self, key: Float[Tensor, "key kv_head dim"], side: Side
    ) -> Float[Tensor, "key kv_head dim"]:
        return F.normalize(key, dim=-1)


class Gaussian(BilinearScore):
    """-|q - k|^2 / (2 bandwidth^2): under softmax, a Gaussian kernel between query and key.

    Args:
        bandwidth: the standard deviation of the kernel, in the unit of q and k. At dim ** 0.25, 2.4
            of heads of 32, products count as in `DotProduct`; far below, each query hears but the
            nearest key, and learns little.
    """

    def __init__(self, bandwidth: float = 1.0) -> None:
        super().__init__()
        self.bandwidth = bandwidth

    def prepare_query(
        self, query: Float[Tensor, "query head dim"], side: Side
    ) -> Float[Tensor, "query head dim"]:
        return query / self.bandwidth**2

    def query_term(
        self, query: Float[Tensor, "query head dim"], side: Side
    ) -> Float[Tensor, "query head"]:
        return _half_square(query, self.bandwidth)

    def key_term(
        self, key: Float[Tensor, "key kv_head dim"], side: Side
    ) -> Float[Tensor, "key kv_head"]:
        return _half_square(key, self.bandwidth)


class Kernel(BilinearScore):
    """<phi(q), phi(k)> with phi(x) = elu(x) + 1 > 0: linear attention, with `normalize="sum"`.

    On complete and causal graphs it runs in time linear in the number of tokens.

    Source: Katharopoulos et al. 2020 (2006.16236), equations 5 and 7.
    """

    def prepare_query(
        self, query: Float[Tensor, "query head dim"], side: Side
    ) -> Float[Tensor, "query head dim"]:
        return F.elu(query) + 1

    def prepare_key(
        self, key: Float[Tensor, "key kv_head dim"], side: Side
    ) -> Float[Tensor, "key kv_head dim"]:
        return F.elu(key) + 1


class EdgeDot(BilinearScore):
    """<q, k + W e> / sqrt(dim) for edges that carry data e, never edges x heads x dim.

    Uses <q, k + W e> = <q, k> + <W^T q, e>. The values' half, sum_j a_ij W e_ij, is
    W times what `attend(..., edge_sum=edge_data)` gives.

    Args:
        edge_data: name of the edge data in `bind`.
        weight: W, [head, dim, edge_dim]; a parameter is trained.

    Raises:
        ValueError: if the weight is no such tensor.

    Source: Shi et al. 2021, UniMP (2009.03509), PyG's `TransformerConv`.
    """

    def __init__(self, edge_data: str, weight: Float[Tensor, "head dim edge_dim"]) -> None:
        super().__init__()
        if not isinstance(weight, Tensor) or weight.dim() != 3:
            came = f"shape {list(weight.shape)}" if isinstance(weight, Tensor) else repr(weight)
            raise ValueError(f"EdgeDot needs a tensor [head, dim, edge_dim], it got {came}")
        self.edge_data, self.edge_dim = edge_data, weight.shape[-1]
        self.heads = weight.shape[0]
        self.weight = weight

    def factor(self, dim: int) -> float:
        """What multiplies the product of a query and a key of this dimension."""
        return dim**-0.5

    def prepare_query(
        self, query: Float[Tensor, "query head dim"], side: Side
    ) -> Float[Tensor, "query head dim"]:
        return query * self.factor(query.shape[-1])

    def edge_query(
        self, query: Float[Tensor, "query head dim"], side: Side
    ) -> Float[Tensor, "query head edge_dim"]:
        scaled = precise(self.weight) * self.factor(query.shape[-1])
        # A term: it is not rounded, whatever products are rounded to.
        with torch.autocast(query.device.type, enabled=False):
            return torch.einsum("qhd,hde->qhe", query.to(scaled.dtype), scaled)


def _half_square(x: Tensor, bandwidth: float) -> Tensor:
    scaled = x.to(torch.promote_types(x.dtype, torch.float32)) / bandwidth
    return -scaled.square().sum(-1) / 2
