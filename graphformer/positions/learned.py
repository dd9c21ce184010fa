"""A learned vector a position."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Learned(nn.Module):
    """One learned vector a position, from normal values of standard deviation 0.02.

    Args:
        num_positions: positions from 0 that have a vector.
        dim: width.
        num_virtual: virtual tokens, which have theirs at positions below 0.
    """

    def __init__(self, num_positions: int, dim: int, num_virtual: int = 0) -> None:
        super().__init__()
        self.num_positions = num_positions
        self.num_virtual = num_virtual
        self.embedding = nn.Embedding(num_virtual + num_positions, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, positions: Int[Tensor, "*token"]) -> Float[Tensor, "*token dim"]:
        """The vectors of the positions.

        Args:
            positions: where the tokens stand: `tokens.at[:, 0]`, or another axis.

        Raises:
            ValueError: if a position has no vector. Elsewhere than on the CPU, where looking would
                wait for the device, the embedding's own assertion says so.
        """
        if positions.device.type == "cpu" and not torch.compiler.is_compiling():
            self._refuse_outside(positions)
        vectors: Tensor = self.embedding(positions + self.num_virtual)
        return vectors

    def _refuse_outside(self, positions: Tensor) -> None:
        if positions.numel() == 0:
            return
        first, last = int(positions.min()), int(positions.max())
        if first < -self.num_virtual or last >= self.num_positions:
            raise ValueError(
                f"Learned got positions {first} to {last}, and has vectors for "
                f"{-self.num_virtual} to {self.num_positions - 1}: give "
                f"num_positions={max(last + 1, self.num_positions)}, "
                f"num_virtual={max(-first, self.num_virtual)}, or cut the examples."
            )

    def extra_repr(self) -> str:
        return f"num_positions={self.num_positions}, num_virtual={self.num_virtual}"
