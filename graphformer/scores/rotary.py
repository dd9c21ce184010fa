"""Rotary positions: query and key are turned by angles that grow with their positions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from graphformer.graph import Side
from graphformer.scores.pointwise import Pointwise
from graphformer.scores.score import BilinearScore, Score


class Turns(NamedTuple):
    """By which angles pairs of coordinates are turned.

    Attributes:
        cosine: of each token and pair.
        sine: the same.
    """

    cosine: Float[Tensor, "token pair"]
    sine: Float[Tensor, "token pair"]


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

    @property
    def pointwise(self) -> Pointwise:
        """That of the score that is turned, whatever it is by now."""
        return self.score.pointwise

    def set_head_dim(self, dim: int) -> None:
        self.score.set_head_dim(dim)

    def prepare_query(
        self, query: Float[Tensor, "query head dim"] | None, side: Side
    ) -> Float[Tensor, "query _ width"] | None:
        return self._turn(self.score.prepare_query(query, side), side)

    def prepare_key(
        self, key: Float[Tensor, "key kv_head dim"] | None, side: Side
    ) -> Float[Tensor, "key _ width"] | None:
        return self._turn(self.score.prepare_key(key, side), side)

    def turns(self, width: int, dtype: torch.dtype, side: Side) -> Turns:
        """By how much the tokens of a side are turned; computed once for all layers.

        Args:
            width: of a prepared query or key.
            dtype: of its entries; the turns are in float32 where that has 16 bits.
            side: the tokens.

        Raises:
            ValueError: if the width is odd.
        """
        if width % 2:
            raise ValueError(
                f"Rotary turns pairs of coordinates, so the width of query and key must be even; "
                f"it is {width}: choose an even dimension of heads"
            )
        dtype = torch.promote_types(dtype, torch.float32)
        if torch.compiler.is_compiling():
            return _turns(side.positions[:, 0], self.base, width, dtype)
        tokens = "query" if side.layout is side.graph.queries else "key"
        name = f"at {tokens}:turns:{self.base}:{width}:{dtype}"
        made: Turns = side.graph._make(
            name, lambda: _turns(side.positions[:, 0], self.base, width, dtype)
        )
        return made

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

    def _turn(self, x: Tensor | None, side: Side) -> Tensor | None:
        return None if x is None else turn(x, self.turns(x.shape[-1], x.dtype, side))


def turn(x: Float[Tensor, "token head width"], turns: Turns) -> Float[Tensor, "token head width"]:
    """Pairs of coordinates, half the width apart, turned; rounded once, to the dtype of `x`."""
    cosine, sine = (part.unsqueeze(1) for part in turns)
    first, second = x.chunk(2, dim=-1)
    turned = (first * cosine - second * sine, first * sine + second * cosine)
    return torch.cat(turned, dim=-1).to(x.dtype)


def _turns(positions: Tensor, base: float, width: int, dtype: torch.dtype) -> Turns:
    # At position 100,000 a float32 angle is off by up to 0.006 radians. MPS has no float64.
    precision = torch.float32 if positions.device.type == "mps" else torch.float64
    half = width // 2
    exponent = torch.arange(half, device=positions.device, dtype=precision) / half
    angle = positions.unsqueeze(-1).to(precision) * base**-exponent
    return Turns(angle.cos().to(dtype), angle.sin().to(dtype))
