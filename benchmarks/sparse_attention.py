"""Sparse attention on a large graph: our kernels, PyG's layers, and the floor that memory sets.

    python benchmarks/sparse_attention.py              # operator, layers, a small graph, memory
    python benchmarks/sparse_attention.py compiled     # a layer against PyG's, compiled
    python benchmarks/sparse_attention.py operator memory --nodes 20000 --edges 300000

All that is compared runs in turns in one process, each its fastest and its median time; peak memory
is taken in a process of its own. The gather floor is the time to sum the same rows of keys and
values without any weights, by torch's `embedding_bag`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric import nn as pyg

import graphformer as gf
from graphformer import nn as drop_ins
from graphformer.backends import kernels
from graphformer.machine import cpu_name

HEADS, DIM = 8, 16
WIDTH = HEADS * DIM
EDGE_DIM = 16
SIZES = {"in_channels": WIDTH, "out_channels": DIM, "heads": HEADS}
# The layers that are compared: kind and settings.
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "TransformerConv": ("TransformerConv", SIZES),
    "TransformerConv with edge features": ("TransformerConv", {**SIZES, "edge_dim": EDGE_DIM}),
    "GATConv": ("GATConv", {**SIZES, "add_self_loops": False}),
    "GATv2Conv": ("GATv2Conv", {**SIZES, "add_self_loops": False}),
    "GCNConv": ("GCNConv", {"in_channels": WIDTH, "out_channels": WIDTH, "add_self_loops": False}),
}
Step = Callable[[], object]


def power_law(num_nodes: int, num_edges: int, seed: int = 0) -> Tensor:
    """Edges whose ends are drawn by weights with a Pareto tail."""
    generator = np.random.default_rng(seed)
    weight = generator.pareto(1.3, num_nodes) + 1
    weight = np.minimum(weight, weight.sum() * 0.005)
    ends = generator.choice(num_nodes, (2, num_edges), p=weight / weight.sum())
    return torch.from_numpy(ends)


# ---- measuring ----


def measure(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, in turns, after one turn that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: dict[str, list[float]], base: str) -> None:
    """Medians, the fastest, and how often each fits into `base`."""
    print(f"\n{title}")
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, median in medians.items():
        ratio = medians[base] / median
        print(f"  {name:<34} {median:9.4f} s  fastest {min(seconds[name]):9.4f} s  {ratio:6.2f}x")


def training(module: nn.Module, x: Tensor, *rest: object) -> Step:
    """Forward and backward of a module, with gradients of its weights and its input."""
    x = x.clone().requires_grad_()
    outside = torch.randn(x.shape)
    leaves = [x, *module.parameters()]
    return lambda: torch.autograd.grad(module(x, *rest), leaves, outside, allow_unused=True)


def inference(module: nn.Module, x: Tensor, *rest: object) -> Step:
    """Forward alone."""
    return torch.no_grad()(lambda: module(x, *rest))


# ---- what is compared ----


def compare_operator(edge_index: Tensor, graph: gf.TokenGraph, repeats: int) -> None:
    num_nodes = graph.queries.num_tokens
    operands = [torch.randn(num_nodes, HEADS, DIM) for _ in range(3)]
    outside = torch.randn(num_nodes, HEADS, DIM)
    layer = pyg.TransformerConv(WIDTH, DIM, HEADS)

    def floor() -> list[Tensor]:
        ends, index = graph.csr.ptr[:-1], graph.csr.index
        rows = (x.flatten(1) for x in operands[1:])
        return [F.embedding_bag(index, x, ends, mode="sum") for x in rows]

    def theirs(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return layer.propagate(
            edge_index, query=query, key=key, value=value, edge_attr=None, size=None
        )

    def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return gf.attend(query, key, value, graph, backend="sparse")

    def both(operator: Callable[..., Tensor], dtype: torch.dtype = torch.float32) -> Step:
        leaves = [x.to(dtype).requires_grad_() for x in operands]
        return lambda: torch.autograd.grad(operator(*leaves), leaves, outside.to(dtype))

    def alone(operator: Callable[..., Tensor], dtype: torch.dtype = torch.float32) -> Step:
        rounded = [x.to(dtype) for x in operands]
        return torch.no_grad()(lambda: operator(*rounded))

    half, once = torch.bfloat16, max(repeats // 3, 1)
    quick = {"gather floor": floor, "ours": alone(ours), "ours, bfloat16": alone(ours, half)}
    seconds = measure(quick, repeats) | measure({"PyG propagate": alone(theirs)}, once)
    report("operator, forward (of the floor)", seconds, "gather floor")
    report("operator, forward (of PyG)", seconds, "PyG propagate")
    quick = {"gather floor": floor, "ours": both(ours), "ours, bfloat16": both(ours, half)}
    seconds = measure(quick, repeats) | measure({"PyG propagate": both(theirs)}, once)
    report("operator, forward and backward (of the floor)", seconds, "gather floor")
    report("operator, forward and backward (of PyG)", seconds, "PyG propagate")


def pair_of_layers(name: str) -> tuple[nn.Module, nn.Module]:
    """The drop-in and PyG's layer, with the same weights."""
    kind, settings = LAYERS[name]
    theirs = getattr(pyg, kind)(**settings)
    ours = getattr(drop_ins, kind)(**settings)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def compare_layers(edge_index: Tensor, bonds: Tensor, repeats: int, names: list[str]) -> None:
    num_nodes = int(edge_index.max()) + 1
    for name in names or LAYERS:
        ours, theirs = pair_of_layers(name)
        x = torch.randn(num_nodes, WIDTH)
        more = (edge_index, bonds) if "edge" in name else (edge_index,)
        slow = max(repeats // 3, 2)
        for kind, step in (("forward", inference), ("forward and backward", training)):
            seconds = measure({"ours": step(ours, x, *more)}, repeats)
            seconds |= measure({"PyG": step(theirs, x, *more)}, slow)
            report(f"{name}, {kind}", seconds, "PyG")


def compare_compiled(edge_index: Tensor, repeats: int) -> None:
    """TransformerConv against PyG's under torch.compile."""
    ours, theirs = pair_of_layers("TransformerConv")
    x = torch.randn(int(edge_index.max()) + 1, WIDTH)
    compiled = torch.compile(theirs, dynamic=False)
    seconds = measure({"ours": training(ours, x, edge_index)}, repeats)
    seconds |= measure({"PyG, compiled": training(compiled, x, edge_index)}, max(repeats // 3, 2))
    report("TransformerConv, forward and backward (of PyG compiled)", seconds, "PyG, compiled")


def compare_small(repeats: int) -> None:
    """A graph of Cora's size, on which calls themselves cost most."""
    edge_index, settings = power_law(2708, 13_264), {"in_channels": 64, "out_channels": 8}
    theirs, ours = (module.TransformerConv(**settings, heads=8) for module in (pyg, drop_ins))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2708, 64)
    steps = {
        "ours": training(ours, x, edge_index),
        "PyG": training(theirs, x, edge_index),
    }
    title = "2,708 nodes, 13 k edges, 8 heads of 8: TransformerConv, forward and backward"
    report(title, measure(steps, 20 * repeats), "PyG")
    graph = gf.TokenGraph.from_edge_index(edge_index, 2708)
    leaves = [torch.randn(2708, 8, 8, requires_grad=True) for _ in range(3)]
    outside = torch.randn(2708, 8, 8)

    def operator(run: Callable[..., Tensor]) -> Step:
        return lambda: torch.autograd.grad(run(*leaves), leaves, outside)

    steps = {
        "ours": operator(lambda q, k, v: gf.attend(q, k, v, graph, backend="sparse")),
        "PyG propagate": operator(
            lambda q, k, v: theirs.propagate(
                edge_index, query=q, key=k, value=v, edge_attr=None, size=None
            )
        ),
    }
    report("the same, the operator alone", measure(steps, 20 * repeats), "PyG propagate")


def compare_memory(num_nodes: int, num_edges: int) -> None:
    """Peak memory of one training step of TransformerConv, above what was held before it."""
    print("\npeak memory of a training step, in a process of its own")
    held = {}
    for side in ("ours", "PyG"):
        command = [sys.executable, __file__, f"memory of {side}"]
        command += ["--nodes", str(num_nodes), "--edges", str(num_edges)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        held[side] = float(run.stdout.split()[-1])
        print(f"  {side:<6} {held[side]:8.0f} MB")
    print(f"  PyG's over ours: {held['PyG'] / max(held['ours'], 1):.1f}")


def print_memory(side: str, edge_index: Tensor, num_nodes: int) -> None:
    ours, theirs = pair_of_layers("TransformerConv")
    x = torch.randn(num_nodes, WIDTH)
    step = training(ours if side == "ours" else theirs, x, edge_index)
    with torch.no_grad():
        ours(x, edge_index)  # binds the edges
    # The peak from here on, where the system can forget the one before.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    step()
    print(memory("VmHWM") - before)


def memory(field: str) -> float:
    """Memory of this process in MB, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["operator", "layers", "small", "memory"])
    parser.add_argument("--nodes", type=int, default=169_343)
    parser.add_argument("--edges", type=int, default=2_300_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--layer", action="append", default=[], help="only these layers")
    given = parser.parse_args()
    torch.manual_seed(0)
    edge_index = power_law(given.nodes, given.edges)
    bond = torch.randn(given.edges, EDGE_DIM)
    for side in ("ours", "PyG"):
        if given.what == [f"memory of {side}"]:
            print_memory(side, edge_index, given.nodes)
            return
    graph = gf.TokenGraph.from_edge_index(edge_index, given.nodes)
    print(
        f"{cpu_name()}, {torch.get_num_threads()} threads, {kernels.instruction_set()}; torch "
        f"{torch.__version__}\n{given.nodes:,} nodes, {given.edges:,} edges, largest degree "
        f"{int(graph.in_degree.max()):,}, {HEADS} heads of {DIM}, width {WIDTH}"
    )
    if "operator" in given.what:
        compare_operator(edge_index, graph, given.repeats)
    if "layers" in given.what:
        compare_layers(edge_index, bond, given.repeats, given.layer)
    if "compiled" in given.what:
        compare_compiled(edge_index, given.repeats)
    if "small" in given.what:
        compare_small(given.repeats)
    if "memory" in given.what:
        compare_memory(given.nodes, given.edges)


if __name__ == "__main__":
    main()
