"""Values of many examples, one after another, made into tokens and checked on the way in."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from graphformer.tokens.tokens import Tokens


def flat(x: Tensor, lengths: list[int], *axes: Tensor) -> Tokens:
    """Tokens of the values `x` [token, dim] or ids [token] of examples one after another.

    Args:
        x: the values, without virtual tokens.
        lengths: tokens of each example.
        axes: positions beside the index in the example, int64 [token] each.

    Raises:
        ValueError: if there is no example, or a value is NaN.
    """
    if not lengths:
        raise ValueError("A batch needs at least one example, and there is none.")
    refuse_nan(x, lengths)
    ptr = torch.tensor([0, *accumulate(lengths)])
    sizes = ptr.diff()
    start = ptr[:-1].repeat_interleave(sizes, output_size=x.shape[0])
    index = torch.arange(x.shape[0]) - start
    at = torch.stack([index, *axes], dim=1)
    return Tokens(x, ptr.to(x.device), at.to(x.device), sizes)


def refuse_nan(x: Tensor, lengths: list[int]) -> None:
    """Raises a ValueError that says where the first NaN of `x` is, if there is one."""
    if not x.is_floating_point() or not x.isnan().any():
        return
    token = int(x.isnan().flatten(1).any(1).nonzero()[0])
    example = 0
    while token >= lengths[example]:
        token -= lengths[example]
        example += 1
    raise ValueError(
        f"x holds NaN, first in example {example} at token {token}: fill or drop missing values "
        "before making tokens, for instance with x.nan_to_num(0.0)."
    )


def refuse_mixture(examples: list[Tensor], caller: str) -> None:
    """Raises a ValueError if examples differ in more than their length.

    Args:
        examples: the examples [length, ...].
        caller: the function that was called, named in the error.
    """
    kinds = [(tuple(example.shape[1:]), example.dtype, example.device) for example in examples]
    if len(set(kinds)) < 2:
        return
    odd = next(index for index, kind in enumerate(kinds) if kind != kinds[0])
    names = ("shapes after the first axis", "dtypes", "devices")
    pairs = zip(names, kinds[0], kinds[odd], strict=True)
    name, first, other = next(pair for pair in pairs if pair[1] != pair[2])
    raise ValueError(
        f"{caller} got examples of different {name}: {first} in example 0, {other} in example "
        f"{odd}. Give all the same."
    )
