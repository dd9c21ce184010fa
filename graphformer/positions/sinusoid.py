"""Sines and cosines of a position."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Real
from torch import Tensor


def sinusoidal(
    positions: Real[Tensor, "*token"],
    dim: int,
    base: float = 10000.0,
    frequencies: Float[Tensor, "half"] | None = None,
) -> Float[Tensor, "*token dim"]:
    """Sines (even columns) and cosines (odd columns) of each position, in torch's default dtype.

    Frequency i is base^(-2i / dim), unless given: with frequencies 2 pi m / n they are
    eigenvectors of the Laplacian of a cycle of n tokens.

    Args:
        positions: where the tokens stand, in tokens: `tokens.at[:, 0]`, or another axis.
        dim: number of columns, even.
        base: the longest wavelength is nearly 2 pi times this many tokens.
        frequencies: radians a token, one for each pair of columns.

    Raises:
        ValueError: if `dim` is odd, or `frequencies` are not half as many.

    Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.5.
    """
    if dim < 0 or dim % 2:
        raise ValueError(f"sinusoidal got dim={dim}: columns come in pairs, so it is even.")
    # At position 100,000 a float32 angle is off by up to 0.006 radians. MPS has no float64.
    precise = torch.float32 if positions.device.type == "mps" else torch.float64
    if frequencies is None:
        exponents = torch.arange(dim // 2, dtype=precise, device=positions.device) * (-2 / dim)
        frequencies = torch.exp(math.log(base) * exponents)
    elif frequencies.shape != (dim // 2,):
        raise ValueError(
            f"sinusoidal got frequencies of shape {tuple(frequencies.shape)}: dim={dim} columns "
            f"need [{dim // 2}]."
        )
    angles = positions[..., None].to(precise) * frequencies.to(positions.device, precise)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return waves.to(torch.get_default_dtype())
