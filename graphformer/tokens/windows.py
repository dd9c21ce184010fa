"""Windows of a multivariate series as tokens: one a variate, a patch or a time step."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from graphformer.tokens.flat import flat
from graphformer.tokens.tokens import Tokens

Token = Literal["variate", "patch", "time"]


def series(
    values: Tensor, token: Token = "variate", patch: int | None = None, stride: int | None = None
) -> Tokens:
    """One token for each variate, each patch of each variate, or each time step of each window.

    Args:
        values: the windows [window, time, variate].
        token: what a token is. "variate": `x` is its whole window [token, time] (iTransformer).
            "patch": `x` is a piece of one variate [token, patch]; its variate and the number of the
            piece are axes 1 and 2 (PatchTST). "time": `x` is the variates [token, variate].
        patch: time steps of a patch.
        stride: time steps from one patch to the next; by default `patch`.

    Raises:
        ValueError: if there is no window, `values` has other axes or holds NaN, `token` is unknown,
            or the patches do not end with the window.
    """
    if values.ndim != 3:
        raise ValueError(
            f"series got values of shape {tuple(values.shape)}: give [window, time, variate]; of "
            "one window, values[None]."
        )
    if token not in get_args(Token):
        raise ValueError(f"series got token={token!r}: a token is one of {get_args(Token)}.")
    if token != "patch" and (patch is not None or stride is not None):
        raise ValueError(f'series got a patch or stride with token={token!r}: write token="patch".')
    num_windows, num_steps, num_variates = values.shape
    if token == "variate":
        return flat(values.transpose(1, 2).flatten(0, 1), [num_variates] * num_windows)
    if token == "time":
        return flat(values.flatten(0, 1), [num_steps] * num_windows)
    length, step = _checked_patch(num_steps, patch, stride)
    pieces = values.transpose(1, 2).unfold(2, length, step)
    num_pieces = pieces.shape[2]
    variate = torch.arange(num_variates).repeat_interleave(num_pieces).repeat(num_windows)
    piece = torch.arange(num_pieces).repeat(num_windows * num_variates)
    return flat(pieces.flatten(0, 2), [num_variates * num_pieces] * num_windows, variate, piece)


def _checked_patch(num_steps: int, patch: int | None, stride: int | None) -> tuple[int, int]:
    if patch is None:
        raise ValueError('series got token="patch" without its size: write patch=16, for instance.')
    step = patch if stride is None else stride
    if patch < 1 or step < 1:
        raise ValueError(f"series got patch={patch}, stride={step}: both are at least 1 time step.")
    if patch > num_steps:
        raise ValueError(f"series got patch={patch} for windows of {num_steps} time steps.")
    rest = (num_steps - patch) % step
    if rest:
        raise ValueError(
            f"series got windows of {num_steps} time steps: patches of {patch} every {step} leave "
            f"{rest} over. Drop the first {rest} with values[:, {rest}:], or repeat the last value "
            f"{step - rest} times."
        )
    return patch, step
