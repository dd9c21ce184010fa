"""What a model is made of, as a JSON file says it and gives it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from graphformer.models.embedding import Sinusoidal
from graphformer.models.stack import Size
from graphformer.positions import Learned
from graphformer.scores import Score
from graphformer.topology import Topology

# What stands in the file for something that has no notation: {"own": "Nearby(3)"}.
OWN = "own"


def described(**settings: Any) -> dict[str, Any]:
    """The arguments of a model as JSON has them: sizes, and all else in its own notation.

    What no notation writes, such as a score of one's own, is named, and cannot be read back.
    """
    return {name: _described(value) for name, value in settings.items()}


def restored(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that were described, a pair as a pair.

    Raises:
        TypeError: the sizes are others.
    """
    found: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    if isinstance(found.get("size"), dict):
        found["size"] = Size(**found["size"])
    return found


def own_name(value: Any) -> str | None:
    """The name of what has no notation, in what was described; None where all has one."""
    if isinstance(value, list | tuple):
        return next((name for name in map(own_name, value) if name is not None), None)
    return str(value[OWN]) if isinstance(value, dict) and OWN in value else None


def _described(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_described(each) for each in value]
    if isinstance(value, Size):
        return asdict(value)
    if isinstance(value, Score):
        return repr(value) if _is_score(repr(value), value) else {OWN: _name(value)}
    if isinstance(value, Topology):
        return repr(value) if _is_topology(repr(value), value) else {OWN: _name(value)}
    if type(value) is Sinusoidal:
        return "sinusoidal"
    if type(value) is Learned and not value.num_virtual:
        return f"Learned({value.num_positions})"
    return {OWN: type(value).__name__} if isinstance(value, nn.Module) else value


def _is_score(text: str, score: Score) -> bool:
    if "..." in text:
        return False
    try:
        # A score that is made may draw its weights, and describing one must change nothing.
        with torch.random.fork_rng(devices=[]):
            read = Score.parse(text)
    except ValueError:
        return False
    return _kinds(read) == _kinds(score)


def _kinds(score: Score) -> list[Any]:
    """What a score is made of: a class of one's own may have the name of one of the library's."""
    return [(type(part), getattr(part, "pointwise", None)) for part in score.modules()]


def _is_topology(text: str, topology: Topology) -> bool:
    try:
        return Topology.parse(text) == topology
    except ValueError:
        return False


def _name(value: Score | Topology) -> str:
    text = repr(value)
    return type(value).__name__ if text.startswith("<") else text
