"""What constructors of topologies are given, checked before any work."""

from __future__ import annotations

import operator
from typing import SupportsIndex

import torch
from torch import Tensor


def whole_number(function: str, name: str, value: object, at_least: int | None = None) -> int:
    """`value` as an int.

    Args:
        function: the constructor that was called, for the message.
        name: the argument.
        value: what it got.
        at_least: the smallest number that makes sense; None where any does.

    Raises:
        TypeError: if `value` is no whole number.
        ValueError: if it is too small.
    """
    needed = "a whole number" if at_least is None else f"a whole number of at least {at_least}"
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(
            f"{function}() got {name}={value!r}, a {type(value).__name__}: write {needed}"
        )
    number = operator.index(value)
    if at_least is not None and number < at_least:
        raise ValueError(f"{function}() got {name}={number}: write {needed}")
    return number


def edge_ids(function: str, value: object) -> Tensor:
    """`value` as int64 edges [2, edge].

    Args:
        function: the constructor that was called, for the message.
        value: what it got.

    Raises:
        TypeError: if `value` is no tensor, or holds no integers.
        ValueError: if its shape is another.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{function}() got a {type(value).__name__}: write an integer tensor [2, edge], keys "
            'in row 0 and queries in row 1, or the name of edge data, such as edges("bond")'
        )
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(
            f"{function}() got an edge_index of {value.dtype}: ids are integers, write "
            "edge_index.long(), or edges(mask.nonzero().T) for a matrix of key x query"
        )
    if value.dim() != 2 or value.shape[0] != 2:
        hint = "edge_index.T" if value.dim() == 2 and value.shape[1] == 2 else "[2, edge]"
        raise ValueError(
            f"{function}() got an edge_index of shape {list(value.shape)}: keys stand in row 0 and "
            f"queries in row 1, write {hint}"
        )
    return value.long()
