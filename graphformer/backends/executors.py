"""Which of the two dense executors is faster here: measured once, kept, never assumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from graphformer.backends.request import Operands, Request
from graphformer.graph import TokenGraph
from graphformer.layout import Layout
from graphformer.scores import DotProduct
from graphformer.topology import causal, complete

Executor = Callable[[Request, Operands], Tensor]

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


def choose(request: Request, executors: Mapping[str, Executor]) -> str:
    """The name of the executor that ran faster at such lengths, dimensions and dtype.

    On a GPU always "sdpa", whose kernels are fused in every dtype.
    """
    graph = request.graph
    if graph.device.type != "cpu":
        return "sdpa"
    rows, columns = (
        min(_bucket(layout.max_length), LONGEST_TRIAL) for layout in (graph.queries, graph.keys)
    )
    dim, is_causal = _bucket(request.dim), graph.rectangle.is_causal
    ragged = not (graph.queries.uniform and graph.keys.uniform) or graph.rectangle.mask is not None
    kind = ("ragged " if ragged else "") + ("causal " if is_causal else "")
    kind += "forward and backward" if request.grad else "forward"
    name = f"{request.dtype} {rows}x{columns}x{dim} {kind}, {torch.get_num_threads()} threads"
    if name not in _chosen:
        trial = _trial(request, rows, columns, dim, is_causal, ragged)
        seconds = {key: _seconds(trial, run) for key, run in executors.items()}
        _chosen[name] = min(seconds, key=seconds.__getitem__)
    return _chosen[name]


def _trial(
    request: Request, rows: int, columns: int, dim: int, is_causal: bool, ragged: bool
) -> Request:
    heads = max(2, min(request.heads, TRIAL_SCORES // (rows * columns)))
    examples = min(TRIAL_SCORES // (rows * columns * heads), TRIAL_TOKENS // max(rows, columns))
    examples = max(1, examples) + ragged
    queries = _layout(examples, rows, ragged)
    keys = queries if is_causal else _layout(examples, columns, ragged)
    graph = TokenGraph(causal() if is_causal else complete(), queries, keys)
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
    lengths = torch.full((examples,), length)
    if ragged:
        lengths[0] = max(length - 1, 1)
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    at = torch.arange(int(ptr[-1])) - torch.repeat_interleave(ptr[:-1], lengths)
    return Layout(ptr, at.unsqueeze(1), lengths, 0, True)


def _seconds(trial: Request, run: Executor) -> float:
    sizes = (trial.graph.queries.num_tokens, trial.graph.keys.num_tokens)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(size, trial.heads, trial.dim, generator=generator).to(trial.dtype)
        for size in (sizes[0], sizes[1], sizes[1])
    )
    operands = Operands(*(x.requires_grad_(trial.grad) for x in (query, key, value)))
    best = float("inf")
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        with torch.set_grad_enabled(trial.grad):
            out = run(trial, operands)
            if trial.grad:
                torch.autograd.grad(out, operands[:3], torch.ones_like(out))
        best = min(best, time.perf_counter() - start)
    return best


def _bucket(number: int) -> int:
    """The power of two at or above `number`."""
    return 1 << max(number - 1, 0).bit_length()
