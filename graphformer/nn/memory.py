"""What was made of a tensor before: kept for as long as the tensor lives unchanged."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from torch_geometric import EdgeIndex

from graphformer.attend import Plans
from graphformer.graph import TokenGraph

Made = TypeVar("Made")


class _Remembered:
    """What was made of one tensor, under the settings that it was made with."""

    def __init__(self, version: tuple[int, ...]) -> None:
        self.version = version
        self.made: dict[Hashable, Any] = {}

    def __del__(self) -> None:
        for graph in self.made.values():
            if isinstance(graph, TokenGraph):
                # Plans and sides refer back: memory would wait for the garbage collector.
                graph.plans.clear()
                graph.unasked.clear()
                graph._made.pop("query_side", None)
                graph._made.pop("key_side", None)


# For all layers of all models: the second layer and the next epoch find what the first one bound.
_memory = WeakTensorKeyDictionary()
_lock = Lock()


def remembered(tensor: Tensor, settings: Hashable, make: Callable[[], Made]) -> Made:
    """What `make` makes of `tensor`, made once for as long as the tensor lives unchanged.

    Args:
        tensor: edges or a mask; known by identity, so that nothing is compared, and held weakly.
        settings: what the result depends on beside it.
        make: makes a graph, or what else; the result must not hold `tensor` itself, or neither is
            ever freed.
    """
    found: _Remembered | None = _memory.get(tensor)
    if found is not None and settings in found.made and found.version == _version(tensor):
        known: Made = found.made[settings]
        return known
    # What a validation makes under inference mode, training must be able to use.
    with torch.inference_mode(False):
        made = make()
    if isinstance(made, TokenGraph):
        # Sides belong to the graph that makes them: to this one, not to that of one call.
        _ = made.query_side, made.key_side
    if tensor.is_inference():
        # Nothing says when it changes.
        return made
    # To look at a sparse tensor may count as a change of it.
    version = _version(tensor)
    with _lock:
        # Another thread may have been here in the meantime: then what it made serves both.
        found = _memory.get(tensor)
        if found is None or found.version != version:
            found = _memory[tensor] = _Remembered(version)
        kept: Made = found.made.setdefault(settings, made)
    return kept


def plans_of(tensor: Tensor) -> Plans:
    """What the drop-ins that were called with these edges, or this mask, ran on; print it.

    Nothing is remembered of calls that run as PyG's or torch's own, of those under inference mode
    and of `GCNConv(cached=True)`, nor of `MultiheadAttention` without masks or with weights.

    Args:
        tensor: the very `edge_index` (or mask of who hears whom) that the layers were given, not
            changed since.

    Returns:
        A plan for each kind of attention over it.

    Raises:
        TypeError: if it is no tensor.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"plans_of takes the edge_index, or the mask, that the layers were given, it got a "
            f"{type(tensor).__name__}: of a PyG Data write plans_of(data.edge_index)"
        )
    found: _Remembered | None = _memory.get(tensor)
    made = found.made.values() if found is not None and found.version == _version(tensor) else ()
    graphs = [each for each in made if isinstance(each, TokenGraph)]
    plans = [plan for graph in graphs for plan in graph.plans.values()]
    return Plans(plans, "" if plans else "no plan is remembered for this tensor as it is now")


def _version(tensor: Tensor) -> tuple[int, ...]:
    """What differs once it was changed: by operations in place, or by other data put into it."""
    if isinstance(tensor, EdgeIndex):
        tensor = tensor.as_tensor()
    if tensor.layout is not torch.strided:
        return (tensor._version,)
    return tensor._version, tensor.data_ptr(), *tensor.shape
