"""Times, memory and gap of every backend on one graph."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graphformer.attend import attend, explain, plan
from graphformer.backends import Cost
from graphformer.graph import TokenGraph
from graphformer.planner import Plan
from graphformer.scores import Score
from graphformer.tasks.comparison.memory import machine_bytes, peak_bytes
from graphformer.tasks.comparison.points import COMPLETE, Point
from graphformer.tasks.comparison.rows import DIRECTIONS, TRAINING, Row
from graphformer.tasks.comparison.settings import DTYPES, Sizes, Timing
from graphformer.tokens import Tokens, sequences
from graphformer.topology import complete

Call = Callable[[], object]
BASELINE = "dense on the complete graph"


@dataclass(frozen=True)
class Stage:
    """What all graphs of one length have in common.

    Attributes:
        tokens: the batch.
        operands: query, key and value [token, head, dim].
        score: how strongly.
        timing: how it is measured.
    """

    tokens: Tokens
    operands: tuple[Tensor, Tensor, Tensor]
    score: Score
    timing: Timing

    @classmethod
    def make(
        cls,
        length: int,
        sizes: Sizes,
        score: Score,
        timing: Timing,
        device: torch.device,
        seed: int,
    ) -> Stage:
        """Examples of random walks with noise, and their tokens as query, key and value.

        As in a text or a series, neighbors resemble each other: else a window would lose as much
        as any other graph.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (sizes.batch, length, sizes.heads * sizes.dim)
        walk = torch.randn(shape, generator=generator).cumsum(1) / length**0.5
        x = (walk + 0.1 * torch.randn(shape, generator=generator)).to(device, DTYPES[sizes.dtype])
        heads = x.flatten(0, 1).unflatten(-1, (sizes.heads, sizes.dim))
        operands = tuple(heads.clone().requires_grad_() for _ in range(3))
        return cls(sequences(list(x)), operands, score.to(device), timing)

    @cached_property
    def whole(self) -> TokenGraph:
        """The complete graph."""
        return complete().bind(self.tokens)

    @cached_property
    def target(self) -> Float[Tensor, "token head dim"]:
        """The output on the complete graph."""
        return self.attend(self.whole)

    @property
    def device(self) -> torch.device:
        return self.tokens.x.device

    @property
    def length(self) -> int:
        """Tokens of an example."""
        return int(self.tokens.lengths[0])

    def plan(self, graph: TokenGraph, training: bool, backend: str | None = None) -> Plan:
        """The plan of a graph; everything that it needs is then made."""
        heads, dim = self.operands[0].shape[1:]
        dtype = self.operands[0].dtype
        settings: dict[str, Any] = {} if backend is None else {"backend": backend}
        with warnings.catch_warnings():
            # That the slow backend was chosen is one of the results.
            warnings.filterwarnings("ignore", message=".*run on the reference backend")
            ahead = explain if backend is None else plan
            return ahead(graph, self.score, heads, dim, dtype, training, **settings)  # type: ignore[return-value]

    @torch.no_grad()
    def attend(self, graph: TokenGraph, backend: str | None = None) -> Tensor:
        """The output, without a backward."""
        self.plan(graph, training=False, backend=backend)
        out: Tensor = attend(*self.operands, graph, self.score, backend=backend)  # type: ignore[assignment]
        return out

    def call(self, graph: TokenGraph, direction: str, backend: str) -> Call:
        """The call that is timed, planned ahead."""
        parameters = (each for each in self.score.parameters() if each.requires_grad)
        learned = [*self.operands, *parameters]
        received = torch.ones_like(self.operands[0])

        def forward() -> Tensor:
            return attend(*self.operands, graph, self.score, backend=backend)  # type: ignore[return-value]

        def both() -> object:
            return torch.autograd.grad(forward(), learned, received, allow_unused=True)

        self.plan(graph, direction == TRAINING, backend)
        return both if direction == TRAINING else torch.no_grad()(forward)


def measure_point(point: Point, stage: Stage, seed: int) -> list[Row]:
    """A row for each backend and direction."""
    is_complete = point.topology == COMPLETE
    graph = stage.whole if is_complete else point.bind(stage.tokens, seed)
    out = stage.attend(graph)
    gap = float((out.double() - stage.target.double()).norm() / stage.target.double().norm())
    shared = (*point, graph.density, graph.num_edges, gap)
    rows = []
    for direction in DIRECTIONS:
        made = stage.plan(graph, direction == TRAINING)
        refusals = {name: why_not(name, made, stage) for name in made.candidates}
        calls = {
            name: stage.call(graph, direction, name)
            for name, refusal in refusals.items()
            if not refusal
        }
        baseline = "dense" if is_complete else BASELINE
        calls[baseline] = stage.call(stage.whole, direction, "dense")
        seconds = time_in_turn(calls, stage.timing, stage.device)
        for name, candidate in made.candidates.items():
            measured = name in seconds
            rows.append(
                Row(
                    *shared,
                    direction,
                    name,
                    chosen=name == made.name,
                    predicted=candidate.seconds if isinstance(candidate, Cost) else None,
                    seconds=seconds.get(name),
                    dense_seconds=seconds[baseline],
                    peak_bytes=peak_bytes(calls[name], stage.device) if measured else None,
                    why_not="" if measured else refusals[name],
                )
            )
    return rows


def why_not(name: str, made: Plan, stage: Stage) -> str:
    """Why a backend is not measured, or nothing."""
    candidate, patience = made.candidates[name], stage.timing.patience
    if isinstance(candidate, str):
        return candidate
    limit = machine_bytes(stage.device)
    if candidate.bytes > limit:
        return f"would take about {candidate.bytes / 1e9:.3g} GB of {limit / 1e9:.3g}"
    if candidate.seconds > patience and name != made.name:
        return f"predicted to take longer than the patience of {patience:g} s"
    return ""


def time_in_turn(
    calls: Mapping[str, Call], timing: Timing, device: torch.device
) -> dict[str, float]:
    """The median seconds of each call, after one that does not count.

    Rounds of all calls follow each other, so that whatever else the machine does meets all alike.
    A call that has used up its seconds is left out of further rounds.
    """
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        _seconds(call, device)
    for _ in range(timing.repeats):
        for name, call in calls.items():
            if not measured[name] or sum(measured[name]) < timing.seconds:
                measured[name].append(_seconds(call, device))
    return {name: statistics.median(each) for name, each in measured.items()}


def _seconds(call: Call, device: torch.device) -> float:
    _finish(device)
    start = time.perf_counter()
    call()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
