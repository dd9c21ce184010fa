"""Ids into vectors that know where they stand."""

from __future__ import annotations

import copy
import re

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.layers.dropout import Dropout
from graphformer.positions import Learned, sinusoidal
from graphformer.tokens import Tokens


class Embedding(nn.Module):
    """A learned vector an id, scaled to unit variance, plus a vector a position.

    Args:
        vocabulary: number of ids.
        dim: width of the vectors.
        positions: a module from positions [token] to vectors [token, dim], or None.
        dropout: probability with which an entry is zero while training.

    Attributes:
        weight: the vectors [id, dim], of variance 1 / dim, so that they also serve as an output.

    Source: Vaswani et al. 2017 (1706.03762), section 3.4.
    """

    def __init__(
        self, vocabulary: int, dim: int, positions: nn.Module | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocabulary, dim) * dim**-0.5)
        self.positions = positions
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tokens) -> Float[Tensor, "token dim"]:
        """The vectors of the tokens.

        Raises:
            ValueError: if the tokens are not ids, or an id has no vector. Elsewhere than on the
                CPU, where looking would wait for the device, torch's own assertion says so.
        """
        ids = tokens.x
        if not torch.compiler.is_compiling():
            self._check(ids)
        vectors = F.embedding(ids, self.weight)
        scale = self.weight.shape[1] ** 0.5
        if self.positions is None:
            return self.dropout(vectors * scale)
        where = self.positions(tokens.at[:, 0]).to(vectors.dtype)
        return self.dropout(torch.add(where, vectors, alpha=scale))

    def _check(self, ids: Tensor) -> None:
        if ids.dim() != 1 or ids.is_floating_point():
            raise ValueError(
                f"an embedding takes ids, integers [token]; it got {ids.dtype} of shape "
                f"{list(ids.shape)}: make tokens of ids with sequences([ids, ...])"
            )
        if ids.device.type != "cpu" or not ids.numel():
            return
        first, last = map(int, ids.aminmax())
        if first < 0 or last >= self.weight.shape[0]:
            raise ValueError(
                f"the tokens hold the id {first if first < 0 else last}, and the vocabulary has "
                f"{self.weight.shape[0]} ids, 0 to {self.weight.shape[0] - 1}"
            )


class Sinusoidal(nn.Module):
    """The sinusoidal encoding as a module: nothing in it is learned.

    Args:
        dim: number of columns, even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, positions: Int[Tensor, "token"]) -> Float[Tensor, "token dim"]:
        """The encoding of each position."""
        if positions.device.type != "cpu" or torch.compiler.is_compiling() or not positions.numel():
            return sinusoidal(positions, self.dim)
        # A batch has thousands of tokens and tens of positions, and sines are dear on a CPU.
        first, last = map(int, positions.aminmax())
        table = sinusoidal(torch.arange(first, last + 1), self.dim)
        return table.index_select(0, positions - first)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def make_positions(positions: str | nn.Module | None, dim: int) -> nn.Module | None:
    """The module that a model was given, by name or itself.

    Args:
        positions: "sinusoidal", "Learned(512)" for vectors of so many positions, a module, which
            is copied, or None.
        dim: width of the tokens.

    Raises:
        ValueError: if the name is unknown.
    """
    if positions is None or isinstance(positions, nn.Module):
        return copy.deepcopy(positions)
    if positions == "sinusoidal":
        return Sinusoidal(dim)
    if (learned := re.fullmatch(r"Learned\((\d+)\)", positions)) is not None:
        return Learned(int(learned[1]), dim)
    raise ValueError(
        f"unknown positions={positions!r}; write 'sinusoidal', 'Learned(512)' for that many, a "
        "module of your own, or None and a score of positions: 'Rotary(DotProduct())'"
    )
