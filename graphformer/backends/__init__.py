"""Who computes an attention: the backends in order, and the planner that picks among them."""

from __future__ import annotations

from types import ModuleType

from graphformer.backends import band, dense, linear, reference, sparse
from graphformer.backends.request import Attended, Cost, Operands, Request

# In the order of preference among equals. `flex` belongs between sparse and reference.
BACKENDS: tuple[ModuleType, ...] = (dense, band, linear, sparse, reference)

__all__ = ["BACKENDS", "Attended", "Cost", "Operands", "Request", "by_name", "name_of", "pick"]


def name_of(backend: ModuleType) -> str:
    """The name of a backend, such as "dense"."""
    return backend.__name__.rpartition(".")[2]


def by_name(name: str) -> ModuleType:
    """The backend of this name.

    Raises:
        ValueError: if there is none; the known names are listed.
    """
    for backend in BACKENDS:
        if name_of(backend) == name:
            return backend
    known = ", ".join(repr(name_of(backend)) for backend in BACKENDS)
    raise ValueError(f"unknown backend {name!r}; known are {known}")


def pick(request: Request) -> tuple[ModuleType, dict[str, Cost | str]]:
    """The backend predicted to be fastest, and for each its cost or why it was refused."""
    candidates: dict[str, Cost | str] = {}
    best, least = reference, float("inf")
    for backend in BACKENDS:
        refusal = backend.why_not(request)
        if refusal is not None:
            candidates[name_of(backend)] = refusal
            continue
        cost = candidates[name_of(backend)] = backend.cost(request)
        if cost.seconds < least:
            best, least = backend, cost.seconds
    return best, candidates
