"""Biases: what is added to a score because of where query and key stand."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.layout import Pair
from graphformer.scores.score import Bias, precise


class ALiBi(Bias):
    """-slope * |distance|, a slope for each head (Press et al. 2022, 2108.12409, section 3).

    Args:
        heads: number of heads; slopes are 2^(-8 h / heads), h = 1..heads, and for a number that
            is no power of two interleaved as in the paper's code.
    """

    slopes: Tensor
    by_distance = True

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("slopes", _slopes(heads), persistent=False)

    def forward(self, pair: Pair) -> Float[Tensor, "*pair head"]:
        return pair.distance.abs() * -precise(self.slopes)


class T5Bias(Bias):
    """A learned bias for each head and bucket of distances, buckets widening with distance.

    Args:
        heads: number of heads.
        buckets: number of buckets; half are for keys after the query unless `causal`.
        largest: the distance, in tokens, from which on all share the last bucket.
        causal: whether keys never stand after their query.

    Raises:
        ValueError: if there are too few buckets, or `largest` is no farther than those that have a
            distance each.

    Source: Raffel et al. 2020 (1910.10683), section 2.1.
    """

    by_distance = True

    def __init__(
        self, heads: int, buckets: int = 32, largest: int = 128, causal: bool = False
    ) -> None:
        super().__init__()
        least = 2 if causal else 4
        exact = buckets // least
        if not exact:
            raise ValueError(f"T5Bias has buckets={buckets}: write at least {least}")
        if largest <= exact:
            raise ValueError(
                f"T5Bias has a bucket for each distance below {exact}, and largest={largest}: "
                f"write at least {exact + 1}, or fewer buckets"
            )
        self.heads, self.buckets, self.largest, self.causal = heads, buckets, largest, causal
        self.table = nn.Parameter(torch.randn(buckets, heads) * 0.02)

    def forward(self, pair: Pair) -> Float[Tensor, "*pair head"]:
        # `embedding`, since the backward of `table[index]` is not deterministic.
        return F.embedding(self.bucket(pair.distance.squeeze(-1)), precise(self.table))

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance (key position minus query position, in tokens)."""
        count, offset = self.buckets, torch.zeros_like(distance)
        if not self.causal:
            count //= 2
            offset = (distance > 0) * count
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = count // 2
        ratio = (distance.clamp(min=exact) / exact).log() / math.log(self.largest / exact)
        far = exact + (ratio * (count - exact)).long()
        return offset + torch.where(distance < exact, distance, far.clamp(max=count - 1))


class HopBias(Bias):
    """A learned bias for each head and number of hops (Graphormer, 2106.05234, section 3.1.2).

    Args:
        edge_data: name of the edge data that holds hops, such as `hop_distance` gives.
        heads: number of heads.
        largest: hops from here on, and pairs without a path, share one bias each.
    """

    edge_data: str
    edge_dim = 1

    def __init__(self, edge_data: str, heads: int, largest: int = 8) -> None:
        super().__init__()
        self.edge_data, self.heads, self.largest = edge_data, heads, largest
        self.table = nn.Parameter(torch.randn(largest + 2, heads) * 0.02)

    def forward(self, pair: Pair) -> Float[Tensor, "*pair head"]:
        hops = pair.edge_data[self.edge_data].squeeze(-1).round().long()
        return F.embedding(hops.clamp(0, self.largest + 1), precise(self.table))


class EdgeBias(Bias):
    """A linear function of the edge data, for each head.

    Args:
        edge_data: name of the edge data, [edge, edge_dim].
        heads: number of heads.
        edge_dim: dimension of the edge data.
    """

    edge_data: str

    def __init__(self, edge_data: str, heads: int, edge_dim: int = 1) -> None:
        super().__init__()
        self.edge_data, self.heads, self.edge_dim = edge_data, heads, edge_dim
        self.weight = nn.Parameter(torch.randn(edge_dim, heads) * edge_dim**-0.5)

    def forward(self, pair: Pair) -> Float[Tensor, "*pair head"]:
        weight = precise(self.weight)
        return pair.edge_data[self.edge_data].to(weight.dtype) @ weight


def _slopes(heads: int) -> Tensor:
    power = 2 ** math.floor(math.log2(heads))
    exponents = [8 * (head + 1) / power for head in range(power)]
    exponents += [4 * (2 * head + 1) / power for head in range(heads - power)]
    return torch.tensor([2.0**-exponent for exponent in exponents])
