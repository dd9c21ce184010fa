"""Which of the two dense executors is faster here: measured once, kept, never assumed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from graphformer.backends.request import Operands, Request
from graphformer.graph import TokenGraph
from graphformer.layout import Layout
from graphformer.scores import DotProduct
from graphformer.topology import Topology, causal, complete, self_loops

# A trial has about this many scores: enough to rank the two, a few milliseconds long.
TRIAL_SCORES = 2**20
# Of very short examples, whose projections outweigh their scores, fewer will do.
TRIAL_TOKENS = 2**13
LONGEST_TRIAL = 2048
REPEATS = 5

_chosen: dict[str, str] = {}


def constants() -> dict[str, str]:
    """What was measured in this process, for a checkpoint to keep."""
    return dict(_chosen)


def use_constants(constants: Mapping[str, str]) -> None:
    """Plans with what was measured before, so that a resumed run goes on with the same plans."""
    _chosen.update(constants)


def choose(request: Request, executors: Mapping[str, ModuleType]) -> str:
    """The name of the executor that ran faster at such lengths, dimensions and dtype.

    On a GPU always "sdpa", whose kernels are fused in every dtype.
    """
    graph = request.graph
    if graph.device.type != "cpu":
        return "sdpa"
    rows, columns = (
        min(_bucket(_usual(layout)), LONGEST_TRIAL) for layout in (graph.queries, graph.keys)
    )
    kind = _kind(graph)
    passes = "forward and backward" if request.grad else "forward"
    sizes = f"{request.dtype} {rows}x{columns}x{_bucket(request.dim)}"
    name = f"{' '.join([sizes, *kind, passes])}, {torch.get_num_threads()} threads"
    if name not in _chosen:
        trial = _trial(request, rows, columns, kind)
        _chosen[name] = _fastest(trial, executors)
    return _chosen[name]


def _kind(graph: TokenGraph) -> list[str]:
    """What the faster executor depends on, beside sizes."""
    ragged = not (graph.queries.uniform and graph.keys.uniform)
    found = {
        "causal": graph.rectangle.is_causal,
        "ragged": ragged,
        "masked": graph.rectangle.mask is not None and not ragged,
        # With nothing to share the cost of the calls with.
        "alone": graph.queries.num_examples == 1,
    }
    return [word for word, holds in found.items() if holds]


def _trial(request: Request, rows: int, columns: int, kind: list[str]) -> Request:
    """A request of about `TRIAL_SCORES` scores."""
    dim = _bucket(request.dim)
    heads = max(2, min(request.heads, TRIAL_SCORES // (rows * columns)))
    examples = min(TRIAL_SCORES // (rows * columns * heads), TRIAL_TOKENS // max(rows, columns))
    examples = 1 if "alone" in kind else max(examples, 2 if "ragged" in kind else 1)
    topology: Topology = causal() if "causal" in kind else complete()
    if "masked" in kind:
        topology = topology - self_loops()
    queries = _layout(examples, rows, "ragged" in kind)
    keys = queries if "causal" in kind else _layout(examples, columns, "ragged" in kind)
    graph = TokenGraph(topology, queries, keys)
    return replace(
        request,
        graph=graph,
        score=DotProduct(),
        heads=heads,
        kv_heads=heads,
        dim=dim,
        value_dim=dim,
    )


def _layout(examples: int, length: int, ragged: bool) -> Layout:
    """Examples of one length, or of half of it to half as much again."""
    spread = length // 2 if ragged else 0
    lengths = torch.linspace(length - spread, length + spread, examples).round().long()
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    at = torch.arange(int(ptr[-1])) - torch.repeat_interleave(ptr[:-1], lengths)
    return Layout(ptr, at.unsqueeze(1), lengths, 0, True)


def _fastest(trial: Request, executors: Mapping[str, ModuleType]) -> str:
    """The executor with the least best time, all of them called in turns."""
    sizes = (trial.graph.queries.num_tokens, trial.graph.keys.num_tokens)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(size, trial.heads, trial.dim, generator=generator).to(trial.dtype)
        for size in (sizes[0], sizes[1], sizes[1])
    )
    for executor in executors.values():
        executor.prepare(trial)
    inputs = [x.requires_grad_(trial.grad) for x in (query, key, value)]
    best = dict.fromkeys(executors, float("inf"))
    for _ in range(REPEATS + 1):
        for name, executor in executors.items():
            best[name] = min(best[name], _seconds(trial, inputs, executor))
    return min(best, key=best.__getitem__)


def _seconds(trial: Request, inputs: list[Tensor], executor: ModuleType) -> float:
    start = time.perf_counter()
    with torch.set_grad_enabled(trial.grad):
        query, key, value = inputs
        out = executor.run(trial, Operands(query, key, value))
        if trial.grad:
            torch.autograd.grad(out, inputs, torch.ones_like(out))
    return time.perf_counter() - start


def _usual(layout: Layout) -> int:
    """The length that stands for all where time grows with its square."""
    return round(float(layout.lengths.double().square().mean().sqrt()))


def _bucket(number: int) -> int:
    """The power of two, or three quarters of one, at or above `number`."""
    power = 1 << max(number - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and number <= power * 3 // 4 else power
