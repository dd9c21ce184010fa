"""Rotary positions: query and key are turned by angles that grow with their positions."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphformer.graph import Side
from graphformer.scores.score import BilinearScore, Score


class Rotary(BilinearScore):
    """A bilinear score whose products depend on relative positions alone.

    Coordinates (m, m + width/2) of what the score prepared are turned by
    position * base^(-2m/width) radians. Its terms stay as they are.

    Args:
        score: the score whose prepared query and key are turned; their width must be even.
        base: the wavelength, in tokens over 2 pi, that the slowest pair nears.

    Source: Su et al. 2021, RoFormer (2104.09864), equation 34, in the half-split form.
    """

    def __init__(self, score: Score, base: float = 10000.0) -> None:
        super().__init__()
        if not isinstance(score, BilinearScore):
            raise TypeError(
                f"Rotary turns the query and key that a bilinear score prepared, {score!r} is "
                "none; add biases outside: Rotary(DotProduct()) + ALiBi(8)"
            )
        self.score, self.base, self.heads = score, base, score.heads
        self.reads, self.edge_data = score.reads, score.edge_data
        self.pointwise = score.pointwise

    def set_head_dim(self, dim: int) -> None:
        self.score.set_head_dim(dim)

    def prepare_query(
        self, query: Float[Tensor, "query head dim"] | None, side: Side
    ) -> Float[Tensor, "query _ width"] | None:
        return self._turn(self.score.prepare_query(query, side), side.positions[:, 0])

    def prepare_key(
        self, key: Float[Tensor, "key kv_head dim"] | None, side: Side
    ) -> Float[Tensor, "key _ width"] | None:
        return self._turn(self.score.prepare_key(key, side), side.positions[:, 0])

    def query_term(
        self, query: Float[Tensor, "query head dim"] | None, side: Side
    ) -> Float[Tensor, "query head"] | None:
        return self.score.query_term(query, side)

    def key_term(
        self, key: Float[Tensor, "key kv_head dim"] | None, side: Side
    ) -> Float[Tensor, "key kv_head"] | None:
        return self.score.key_term(key, side)

    def edge_query(
        self, query: Float[Tensor, "query head dim"] | None, side: Side
    ) -> Float[Tensor, "query head edge_dim"] | None:
        return self.score.edge_query(query, side)

    def forward(self, score, pair):  # type: ignore[no-untyped-def]
        return self.score(score, pair)

    def _turn(self, x: Tensor | None, positions: Int[Tensor, "token"]) -> Tensor | None:
        if x is None:
            return None
        if x.shape[-1] % 2:
            raise ValueError(
                f"Rotary turns pairs of coordinates, so the width of query and key must be even; "
                f"it is {x.shape[-1]}: choose an even dimension of heads"
            )
        half = x.shape[-1] // 2
        # At position 100,000 a float32 angle is off by up to 0.006 radians. MPS has no float64.
        precision = torch.float32 if x.device.type == "mps" else torch.float64
        exponent = torch.arange(half, device=x.device, dtype=precision) / half
        angle = positions.unsqueeze(-1).to(precision) * self.base**-exponent
        sine, cosine = angle.sin().to(x.dtype).unsqueeze(1), angle.cos().to(x.dtype).unsqueeze(1)
        first, second = x[..., :half], x[..., half:]
        turned = (first * cosine - second * sine, first * sine + second * cosine)
        return torch.cat(turned, dim=-1)
