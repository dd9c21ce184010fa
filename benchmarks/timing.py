"""Times of several ways to compute one thing, taken in turns, and what the machine can do."""

from __future__ import annotations

import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from graphformer.machine import cpu_name

Run = Callable[[], object]
# Seconds of a turn at least: short calls are repeated, as training repeats them. The first call of
# a turn is not counted: memory that another has freed may have gone back to the system, or from a
# virtual machine to its host, and whoever comes next waits for it, sometimes longer than it takes.
TURN = 0.02


class Demand(NamedTuple):
    """Something measured, and the most, or the least, that it may be."""

    what: str
    measured: float
    limit: float
    unit: str = "x"
    bound: Literal["at most", "at least"] = "at most"

    @property
    def is_met(self) -> bool:
        """Whether what was measured is within its bound."""
        below = self.measured <= self.limit
        return below if self.bound == "at most" else self.measured >= self.limit

    def __str__(self) -> str:
        met = "met   " if self.is_met else "MISSED"
        return f"{met} {self.what}: {self.measured:.3g} {self.unit}, {self.bound} {self.limit:g}"


def seconds(run: Run, least: float = 0.0) -> float:
    """How long one call took, on average over as many as take `least` seconds."""
    start, calls, taken = time.perf_counter(), 0, 0.0
    while not calls or taken < least:
        run()
        calls += 1
        taken = time.perf_counter() - start
    return taken / calls


def medians(
    runs: Mapping[str, Run], rounds: int, patience: float = float("inf")
) -> dict[str, float]:
    """The median seconds of each run, all of them called in turns.

    Whatever else the machine does falls on all of them alike; who comes first changes each round.

    Args:
        runs: what is called, once before it is timed.
        rounds: turns of each: one call to settle, and as many as take a fiftieth of a second.
        patience: seconds after which a run is left out of further rounds.
    """
    names = list(runs)
    for name in names:
        runs[name]()
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if sum(found[name]) < patience:
                runs[name]()
                found[name].append(seconds(runs[name], TURN))
    return {name: statistics.median(found[name]) for name in names}


def compare(
    title: str,
    runs: Mapping[str, Run],
    rounds: int,
    patience: float = float("inf"),
    base: str | None = None,
) -> dict[str, float]:
    """`medians`, printed with their ratios to `base`, or to the fastest but the last, ours."""
    calls = f"{rounds}" if patience == float("inf") else f"up to {rounds}, {patience:g} s"
    print(f"\n{title} (median of {calls})", flush=True)
    found = medians(runs, rounds, patience)
    unit = min(list(found.values())[:-1]) if base is None else found[base]
    for name, median in found.items():
        print(f"  {name:<44} {readable(median):>10} {median / unit:>7.3f}x", flush=True)
    return found


def pass_of(attention: Callable[..., Tensor], given: list[Tensor], backward: bool) -> Run:
    """One forward of query, key and value, or one forward and the backward of the last given."""
    *operands, grad = given
    if not backward:
        return torch.no_grad()(lambda: attention(*operands))
    leaves = [x.detach().requires_grad_() for x in operands]
    return lambda: torch.autograd.grad(attention(*leaves), leaves, grad)


def passes(backward: bool) -> str:
    """What is timed, in words."""
    return "forward and backward" if backward else "forward"


def readable(duration: float) -> str:
    """Seconds with the unit that suits them."""
    for factor, unit in ((1, "s"), (1e-3, "ms")):
        if duration >= factor:
            return f"{duration / factor:.3g} {unit}"
    return f"{duration * 1e6:.3g} us"


def machine() -> str:
    """The CPU, torch, its threads and the system."""
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} threads, torch {torch.__version__}, {platform.system()}"


def print_machine() -> None:
    """Prints the CPU, torch, its threads, and the speed of matrix products and copies."""
    print(machine())
    size = 2048
    for dtype in (torch.float32, torch.bfloat16):
        left, right, out = (torch.rand(size, size).to(dtype) for _ in range(3))
        taken = medians({"product": lambda a=left, b=right, c=out: torch.mm(a, b, out=c)}, 7)
        speed = 2 * size**3 / taken["product"] / 1e9
        print(f"matrix products in {str(dtype).removeprefix('torch.')}: {speed:.0f} GFLOP/s")
    source, target = torch.zeros(2**26), torch.ones(2**26)
    taken = medians({"copy": lambda: target.copy_(source)}, 7)
    print(
        f"copies: {2 * source.nbytes / taken['copy'] / 1e9:.1f} GB/s read and written", flush=True
    )


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> tuple[Any, int]:
    """What `function` returns in a process of its own, and the most bytes that process held."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_peak, (function, arguments))


def _with_peak(function: Callable[..., Any], arguments: tuple[object, ...]) -> tuple[Any, int]:
    return function(*arguments), peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    try:
        # What `getrusage` says on Linux counts the parent too, if that was larger.
        status = Path("/proc/self/status").read_text("utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
