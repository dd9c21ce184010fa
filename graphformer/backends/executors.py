"""Which of the dense executors is fastest here: measured once, kept, never assumed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from graphformer.backends.request import Operands, Request
from graphformer.backends.windows import power_of_two
from graphformer.graph import TokenGraph
from graphformer.layout import Layout
from graphformer.scores import DotProduct
from graphformer.topology import Topology, causal, complete, self_loops

# Tokens of an example in a trial: close together where the two are close.
LENGTHS = (8, 16, 20, 24, 32, 48, 64, 128, 256, 512, 1024)
# A trial has about this many scores, and of very short examples fewer: some milliseconds.
TRIAL_SCORES = 2**18
TRIAL_TOKENS = 2**12
TRIAL_HEADS = 4
# Called in turns at least twice and at most so often, for no longer than this.
TURNS = 6
SECONDS = 0.03
# What the faster one depends on, beside lengths, dimensions and dtype.
KINDS = ("causal", "alone", "with few queries", "masked", "ragged")
# Products hold their weights in memory: they must be so much faster to be worth it.
WORTH = {"matmul": 1.1}
# With so many keys for each query, a trial has as few queries.
FEW_QUERIES = 8
# From so many bytes of weights on, which products keep for the backward, they are left out.
MOST_BYTES = 2**27

_chosen: dict[str, str] = {}


def chosen() -> dict[str, str]:
    """What was measured in this process, for a checkpoint to keep."""
    return dict(_chosen)


def use(chosen: Mapping[str, str]) -> None:
    """Plans with what was measured before, so that a resumed run goes on with the same plans."""
    _chosen.update(chosen)


def choose(request: Request, executors: Mapping[str, ModuleType]) -> str:
    """The name of the executor that ran faster at such lengths, dimensions and dtype.

    On a GPU always "sdpa", whose kernels are fused in every dtype; in float16 too, in which CPUs
    multiply slowly.
    """
    graph = request.graph
    if graph.device.type != "cpu" or request.dtype == torch.float16:
        return "sdpa"
    pairs = graph.queries.lengths * graph.keys.lengths
    is_large = int(pairs.sum()) * request.heads * request.dtype.itemsize > MOST_BYTES
    kind = _kind(graph)
    able = _lean(executors) if is_large else executors
    name = _name(request, kind, _usual_length(graph, kind), able)
    if name not in _chosen:
        # In a thread of its own, which what surrounds the caller does not reach: inference mode,
        # autocast, and the hooks of activation checkpointing, to which the trials would look like
        # a part of the model that is missing when it is computed again.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_measure, request, kind, executors).result()
    return _chosen[name]


def _measure(request: Request, kind: tuple[str, ...], executors: Mapping[str, ModuleType]) -> None:
    """Ranks the executors at all lengths, and in training for the kinds of batches still to come.

    So what a checkpoint keeps, however early, holds for ragged examples, for others, for a batch of
    one, and for those whose weights are too many bytes to keep; unless the first batch is of one
    example, as all batches of a single graph are.
    """
    common = tuple(word for word in kind if word not in ("masked", "ragged"))
    kinds = {kind}
    if request.grad and "alone" not in kind:
        alone = tuple(word for word in KINDS if word in (*common, "alone"))
        kinds |= {common, (*common, "ragged"), alone}
    sets = executors, _lean(executors)
    for each in kinds:
        for length in LENGTHS:
            names = [_name(request, each, length, able) for able in sets]
            if all(name in _chosen for name in names):
                continue
            seconds = _best_seconds(_trial(request, each, length), executors)
            for name, able in zip(names, sets, strict=True):
                _chosen.setdefault(name, min(able, key=seconds.__getitem__))


def _lean(executors: Mapping[str, ModuleType]) -> dict[str, ModuleType]:
    """Those that hold no weights."""
    return {name: each for name, each in executors.items() if name != "matmul"}


def _kind(graph: TokenGraph) -> tuple[str, ...]:
    """What the faster executor depends on, beside lengths, dimensions and dtype."""
    ragged = not (graph.queries.uniform and graph.keys.uniform)
    found = {
        "causal": graph.rectangle.is_causal,
        # With nothing to share the cost of the calls with.
        "alone": graph.queries.num_examples == 1,
        "with few queries": FEW_QUERIES * graph.queries.max_length <= graph.keys.max_length,
        "masked": graph.rectangle.mask is not None and not ragged,
        "ragged": ragged,
    }
    return tuple(word for word in KINDS if found[word])


def _name(request: Request, kind: tuple[str, ...], length: int, executors: Iterable[str]) -> str:
    passes = "forward and backward" if request.grad else "forward"
    words = (f"{request.dtype} {length}x{power_of_two(request.dim)}", *kind, passes)
    return f"{' or '.join(executors)}: {' '.join(words)}, {torch.get_num_threads()} threads"


def _usual_length(graph: TokenGraph, kind: tuple[str, ...]) -> int:
    """The length of `LENGTHS` that is closest to those of the graph, where squares add up."""
    queries = graph.keys.lengths if "with few queries" in kind else graph.queries.lengths
    mean = float((queries * graph.keys.lengths).double().mean().sqrt())
    return min(LENGTHS, key=lambda length: max(length / max(mean, 1), max(mean, 1) / length))


def _trial(request: Request, kind: tuple[str, ...], length: int) -> Request:
    dim = power_of_two(request.dim)
    rows = max(length // FEW_QUERIES, 1) if "with few queries" in kind else length
    examples = min(TRIAL_SCORES // (rows * length * TRIAL_HEADS), TRIAL_TOKENS // length)
    examples = 1 if "alone" in kind else max(examples, 2)
    topology: Topology = causal() if "causal" in kind else complete()
    if "masked" in kind:
        topology = topology - self_loops()
    queries = _layout(examples, rows, "ragged" in kind)
    keys = queries if "causal" in kind else _layout(examples, length, "ragged" in kind)
    return replace(
        request,
        graph=TokenGraph(topology, queries, keys),
        score=DotProduct(),
        heads=TRIAL_HEADS,
        kv_heads=TRIAL_HEADS,
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


def _best_seconds(trial: Request, executors: Mapping[str, ModuleType]) -> dict[str, float]:
    """The best time of each executor, longer where it must be worth its memory."""
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
    start = time.perf_counter()
    for turn in range(TURNS):
        for name, executor in executors.items():
            best[name] = min(best[name], _seconds(trial, inputs, executor))
        if turn and time.perf_counter() - start > SECONDS:
            break
    return {name: WORTH.get(name, 1.0) * seconds for name, seconds in best.items()}


def _seconds(trial: Request, inputs: list[Tensor], executor: ModuleType) -> float:
    start = time.perf_counter()
    with torch.set_grad_enabled(trial.grad):
        query, key, value = inputs
        out = executor.run(trial, Operands(query, key, value))
        if trial.grad:
            torch.autograd.grad(out, inputs, torch.ones_like(out))
    return time.perf_counter() - start
