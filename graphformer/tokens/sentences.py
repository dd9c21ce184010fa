"""Sequences of ids or vectors as tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphformer.tokens.flat import flat, refuse_mixture
from graphformer.tokens.tokens import Tokens


def sequences(
    examples: Sequence[Tensor] | Tensor, lengths: Sequence[int] | Tensor | None = None
) -> Tokens:
    """One token for each element of each sequence, at its index.

    Args:
        examples: a list of sequences, each of ids [length] (integers) or vectors [length, dim];
            or one padded tensor of them, [example, longest] or [example, longest, dim]. A sequence
            may be empty, a batch may not.
        lengths: elements of each sequence of a padded tensor; what stands behind them is dropped.
            Left out, every element counts.

    Raises:
        TypeError: if a sequence is not a tensor.
        ValueError: if there is no sequence, the sequences have other axes, differ in width, dtype
            or device, or hold NaN; or if the lengths do not fit.
    """
    if isinstance(examples, Tensor):
        return _of_padded(examples, lengths)
    if lengths is not None:
        raise ValueError(
            "sequences takes lengths beside a padded tensor only: a list of sequences has its own. "
            "Leave them out."
        )
    examples = list(examples)
    for index, example in enumerate(examples):
        if not isinstance(example, Tensor):
            raise TypeError(
                f"sequences takes tensors, and example {index} is a {type(example).__name__}: "
                f"write torch.tensor(example)."
            )
        if example.ndim not in (1, 2):
            raise ValueError(
                f"sequences got example {index} of shape {tuple(example.shape)}: an example is ids "
                "[length] or vectors [length, dim]."
            )
    if not examples:
        raise ValueError("sequences got an empty list: a batch needs at least one example.")
    refuse_mixture(examples, "sequences")
    x = torch.cat(examples)
    _refuse_bare_numbers(x)
    return flat(x, [example.shape[0] for example in examples])


def _of_padded(padded: Tensor, lengths: Sequence[int] | Tensor | None) -> Tokens:
    if padded.ndim not in (2, 3):
        raise ValueError(
            f"sequences got a padded tensor of shape {tuple(padded.shape)}: it is ids [example, "
            "longest] or vectors [example, longest, dim]."
        )
    if padded.ndim == 2 and padded.is_floating_point():
        raise ValueError(
            f"sequences got numbers of {padded.dtype} and shape {tuple(padded.shape)} as a padded "
            "tensor of ids: of one sequence of vectors write sequences([x]), of sequences of "
            "numbers x[..., None]."
        )
    num_examples, longest = padded.shape[:2]
    if lengths is None:
        sizes = [longest] * num_examples
    else:
        sizes = _checked_lengths(lengths, num_examples, longest)
    if all(size == longest for size in sizes):
        x = padded.flatten(0, 1)
    else:
        stop = torch.tensor(sizes, device=padded.device)
        x = padded[torch.arange(longest, device=padded.device) < stop[:, None]]
    _refuse_bare_numbers(x)
    return flat(x, sizes)


def _checked_lengths(lengths: Sequence[int] | Tensor, num_examples: int, longest: int) -> list[int]:
    sizes = torch.as_tensor(lengths)
    if sizes.is_floating_point() or sizes.dtype == torch.bool or sizes.ndim != 1:
        raise ValueError(
            f"sequences got lengths of {sizes.dtype} and shape {tuple(sizes.shape)}: give one "
            "integer an example (of a padding mask, mask.sum(1))."
        )
    if sizes.shape[0] != num_examples:
        raise ValueError(f"sequences got {sizes.shape[0]} lengths for {num_examples} examples.")
    checked = sizes.tolist()
    for index, size in enumerate(checked):
        if not 0 <= size <= longest:
            raise ValueError(
                f"sequences got length {size} for example {index}: it is padded to {longest} "
                f"tokens, so its length is 0 to {longest}."
            )
    return checked


def _refuse_bare_numbers(x: Tensor) -> None:
    if x.ndim == 1 and (x.is_floating_point() or x.is_complex()):
        raise ValueError(
            f"sequences got one number of {x.dtype} a token, which is neither an id nor a vector: "
            "give integers for ids, or write example[..., None] for vectors of width 1."
        )
