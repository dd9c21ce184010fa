"""What an attention will run on, and why."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from graphformer import backends
from graphformer.backends import Cost, Request, calibration, executors

# From this many edges x heads x dim on, running on `reference` is worth a warning.
LARGE = 2**27


@dataclass(frozen=True, eq=False)
class Plan:
    """The backend of an attention, chosen before any number is seen; print it.

    Attributes:
        request: what was asked.
        backend: the module that will run it.
        candidates: for each backend its predicted cost, or the sentence that says why not.
        chosen: whether the planner chose it; False where the caller named it.
    """

    request: Request
    backend: ModuleType
    candidates: dict[str, Cost | str]
    chosen: bool

    @property
    def name(self) -> str:
        """The name of the backend."""
        return backends.name_of(self.backend)

    def __str__(self) -> str:
        request, graph = self.request, self.request.graph
        shape = f"{request.heads} heads of {request.dim}"
        if request.kv_heads != request.heads:
            shape += f" ({request.kv_heads} of keys and values)"
        direction = "forward and backward" if request.grad else "forward"
        lines = [
            f"{graph.topology!r} with {request.score!r}, {request.normalize}",
            f"  {graph.queries.num_tokens:,} queries, {graph.keys.num_tokens:,} keys, "
            f"{graph.num_edges:,} edges, density {graph.density:.3%}",
            f"  {shape}, {str(request.dtype).removeprefix('torch.')}, {direction}",
            f"  runs on {self.name}" + ("" if self.chosen else ", as asked"),
        ]
        for name, candidate in self.candidates.items():
            mark = "*" if name == self.name else " "
            if isinstance(candidate, str):
                lines.append(f"  {mark} {name:<10} no: {candidate}")
                continue
            lines.append(
                f"  {mark} {name:<10} {_scaled(candidate.seconds, 's'):>9}"
                f" {_scaled(candidate.flops, 'FLOP'):>12} {_scaled(candidate.bytes, 'B'):>9} held"
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes())])

    def notes(self) -> list[str]:
        """What was paid for listing edges or for running unfused, and on what dense runs."""
        found = []
        if "where(" in repr(self.request.graph.topology):
            found.append("a predicate cannot be listed below queries x keys; give edges instead")
        if self.request.has_function:
            found.append("the score's own forward(score, pair) runs unfused")
        if self.backend is backends.dense and (note := backends.dense.note(self.request)):
            found.append(note)
        if self.chosen and self.request.graph.device.type == "cpu" and not calibration.factors():
            found.append("by built-in costs; graphformer calibrate measures this machine's")
        return found


def constants() -> dict[str, Any]:
    """What plans depend on beside the request, for a checkpoint to keep."""
    return {"executors": executors.chosen(), "factors": calibration.factors()}


def use_constants(constants: Mapping[str, Any]) -> None:
    """Plans as with these constants from now on, so that a resumed run has the same plans."""
    executors.use(constants["executors"])
    calibration.use(constants["factors"])


def make_plan(request: Request, backend: str | None = None) -> Plan:
    """The plan of `request`; nothing is prepared for it yet.

    Raises:
        ValueError: if `backend` is unknown or refuses the request.
    """
    if backend is None:
        module, candidates = backends.pick(request)
    else:
        module = backends.by_name(backend)
        refusal = module.why_not(request)
        if refusal is not None:
            raise ValueError(f"the {backend} backend cannot run this: {refusal}")
        candidates = {backend: module.cost(request)}
    plan = Plan(request, module, candidates, backend is None)
    if backend is None and plan.name == "reference":
        _warn_if_large(plan)
    return plan


def _warn_if_large(plan: Plan) -> None:
    request = plan.request
    if request.graph.num_edges * request.heads * request.dim < LARGE:
        return
    reasons = "; ".join(
        f"{name}: {why}" for name, why in plan.candidates.items() if isinstance(why, str)
    )
    warnings.warn(
        f"{request.graph.num_edges:,} edges run on the reference backend, which is slow: {reasons}",
        stacklevel=4,
    )


def _scaled(number: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}{unit}"
    for factor, prefix in ((1e-3, "m"), (1e-6, "u"), (1e-9, "n")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"
