"""The command `graphformer calibrate`: how fast each backend is here, for the planner."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from graphformer.attend import attend, explain, plan
from graphformer.backends import Cost, calibration
from graphformer.graph import TokenGraph
from graphformer.scores import ALiBi, DotProduct, Gaussian, Kernel, Score
from graphformer.tasks.progress import somebody_watches
from graphformer.tasks.record import write_metrics
from graphformer.tokens import sequences
from graphformer.topology import Topology, complete, window

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# All trials are made so often, and the fastest call counts: what else runs here disturbs a while.
ROUNDS = 3
# Calls of a trial in a round, and seconds after which there are no more.
CALLS = 5
SECONDS = 0.2
# Rounds that differ by more tell of a machine that is busy.
STEADY = 1.5


@dataclass(frozen=True)
class Trial:
    """An attention that is computed in one way.

    Attributes:
        way: the name of the way in `backends.calibration`.
        graph: makes who attends to whom.
        score: makes how strongly, for so many heads.
        heads: number of heads.
        dim: dimension of a head.
        normalize: as in `attend`.
    """

    way: str
    graph: Callable[[], TokenGraph]
    score: Callable[[int], Score]
    heads: int = 8
    dim: int = 64
    normalize: str = "softmax"

    @property
    def backend(self) -> str:
        """The backend that computes in this way."""
        return self.way.partition(",")[0]


def calibrate(out: str | None = None) -> dict[str, float]:
    """Measure how fast this machine runs each backend, which the planner then chooses by.

    Takes about a minute, in which nothing else should run. The factors between the time that is
    taken and the one that the built-in costs predict are kept in the user's cache folder, for this
    processor and number of threads; `graphformer info` says whether there are any.

    Args:
        out: folder that gets the factors as `metrics.json` too; none where left out.

    Returns:
        The factors by name.
    """
    taken: dict[str, list[float]] = {}
    refused: dict[str, str] = {}
    predicted: dict[str, float] = {}
    with calibration.built_in():
        for trial, dtype, grad in watched():
            name = calibration.name_of(trial.way, dtype, grad)
            measured = measure(trial, dtype, grad)
            if isinstance(measured, str):
                refused[name] = measured
                continue
            predicted[name], seconds = measured
            taken.setdefault(name, []).append(seconds)
    found = {name: min(each) / predicted[name] for name, each in taken.items()}
    for name, ratio in found.items():
        print(f"{name:<48} {1e3 * min(taken[name]):8.2f} ms, {ratio:5.2f} x predicted")
    for name, why in refused.items():
        print(f"{name:<48} not here: {why}")
    print(f"kept in {calibration.keep(found)} for {calibration.this_machine()}")
    if out is not None:
        protocol = f"fastest of {ROUNDS} rounds of at most {CALLS} calls over the built-in cost"
        write_metrics(
            Path(out),
            found,
            seeds=[0],
            data="normal numbers",
            split="none",
            protocol=protocol,
            device=torch.device("cpu"),
            precision="each dtype",
        )
    unsteady = [each for each in taken.values() if max(each) > STEADY * min(each)]
    if len(unsteady) > len(taken) / 4:
        print(
            f"doubtful: {len(unsteady)} of {len(taken)} differed from round to round by more than "
            f"{STEADY} times; calibrate again when nothing else runs"
        )
    return found


def watched() -> Iterator[tuple[Trial, torch.dtype, bool]]:
    """All trials in each dtype, forward alone and with the backward; a bar where somebody looks."""
    once = [(trial, dtype, grad) for trial in TRIALS for dtype in DTYPES for grad in (False, True)]
    todo = ROUNDS * once
    yield from tqdm(todo, unit="trial", file=sys.stderr, disable=not somebody_watches())


def measure(trial: Trial, dtype: torch.dtype, grad: bool) -> tuple[float, float] | str:
    """Seconds predicted and taken; or why the backend does not run this here."""
    graph, score = trial.graph(), trial.score(trial.heads).to(dtype)
    asked = (graph, score, trial.heads, trial.dim, dtype, grad)
    cost = explain(*asked, normalize=trial.normalize).candidates[trial.backend]
    if not isinstance(cost, Cost):
        return cost
    plan(*asked, normalize=trial.normalize, backend=trial.backend)
    generator = torch.Generator().manual_seed(0)
    size = (graph.queries.num_tokens, trial.heads, trial.dim)
    operands = [torch.randn(size, generator=generator).to(dtype) for _ in range(3)]
    outside = torch.randn(size, generator=generator).to(dtype)

    def call() -> None:
        leaves = [x.detach().requires_grad_(grad) for x in operands]
        with torch.set_grad_enabled(grad):
            query, key, value = leaves
            out = attend(query, key, value, graph, score, trial.normalize, backend=trial.backend)
        assert isinstance(out, Tensor)
        if grad:
            torch.autograd.grad(out, leaves, outside)

    call()
    seconds: list[float] = []
    while len(seconds) < CALLS and sum(seconds) < SECONDS:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return cost.seconds, min(seconds)


def bound(topology: Topology, length: int) -> Callable[[], TokenGraph]:
    """A topology over one example, bound when it is its turn."""
    return lambda: topology.bind(sequences(torch.zeros(1, length, 1)))


def at_random(num_nodes: int, degree: int) -> Callable[[], TokenGraph]:
    """Edges between any nodes, so many a node."""

    def make() -> TokenGraph:
        generator = torch.Generator().manual_seed(0)
        ends = torch.randint(num_nodes, (2, num_nodes * degree), generator=generator)
        return TokenGraph.from_edge_index(ends, num_nodes)

    return make


def plain(_: int) -> Score:
    """Products alone."""
    return DotProduct()


def biased(heads: int) -> Score:
    """Products and a bias, which no fused kernel takes."""
    return DotProduct() + ALiBi(heads)


# What is close to where the planner has to choose.
TRIALS = (
    Trial("dense, fused", bound(complete(), 1024), plain),
    Trial("dense, in steps", bound(complete(), 512), biased),
    Trial("band, fused", bound(window(64), 4096), plain),
    Trial("band, in steps", bound(window(64), 4096), lambda _: Gaussian()),
    Trial("sparse, near", at_random(4096, 64), plain),
    Trial("sparse, far", at_random(100_000, 8), plain, dim=16),
    Trial("linear", bound(complete(), 4096), lambda _: Kernel(), normalize="sum"),
    Trial("reference", at_random(4096, 8), plain),
)
