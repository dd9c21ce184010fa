"""Scores alike: they differ in the numbers of their tensors alone, and one plan serves all."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from graphformer.scores.pointwise import Pointwise
from graphformer.scores.score import Score

# What every module has, and what is no part of what a score is.
_EVERY = frozenset((*vars(nn.Module()), "planned_as"))
_PLAIN = (bool, int, float, str, type(None), torch.dtype, Pointwise)
_first: WeakValueDictionary[Hashable, Score] = WeakValueDictionary()


def planned_for(score: Score) -> Score:
    """The score whose plans serve `score`: the first one alike that lives, or itself.

    So a score may be written where it is used, anew in each call.
    """
    if score.planned_as is None:
        try:
            first = _first.setdefault(_kind(score), score)
        except TypeError:
            return score
        if first is not score:
            score.share_plans(first)
    return score if score.planned_as is None else score.planned_as


def _kind(module: nn.Module | None) -> Hashable:
    """What a score has in common with those alike: all but the numbers in its tensors.

    Raises:
        TypeError: if it has an attribute that may be, or hold, anything.
    """
    if module is None:
        return None
    members = {**vars(module), **module._parameters, **module._buffers}
    said = ((name, _said(member)) for name, member in members.items() if name not in _EVERY)
    parts = ((name, _kind(part)) for name, part in module._modules.items())
    return type(module), tuple(said), tuple(parts)


def _said(member: Any) -> Hashable:
    if isinstance(member, Tensor):
        return member.shape, member.dtype
    if isinstance(member, tuple):
        return tuple(map(_said, member))
    if isinstance(member, _PLAIN):
        return member
    raise TypeError(f"a score with a {type(member).__name__} is like no other")
