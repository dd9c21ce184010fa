"""Sparse attention on a large graph: our kernels, PyG's layers, and the floor that memory sets.

    python benchmarks/sparse_attention.py              # the operator, whole layers, peak memory
    python benchmarks/sparse_attention.py operator memory --nodes 20000 --edges 300000

All that is compared runs in turns in one process, each its fastest and its median time; peak memory
is taken in a process of its own. The gather floor is the time to sum the same rows of keys and
values without any weights, by torch's `embedding_bag`.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric import nn as pyg

import graphformer as gf
from graphformer.backends import kernels

HEADS, DIM = 8, 16
WIDTH = HEADS * DIM
EDGE_DIM = 16
Step = Callable[[], object]


def power_law(num_nodes: int, num_edges: int, seed: int = 0) -> Tensor:
    """Edges whose ends are drawn by weights with a Pareto tail."""
    generator = np.random.default_rng(seed)
    weight = generator.pareto(1.3, num_nodes) + 1
    weight = np.minimum(weight, weight.sum() * 0.005)
    ends = generator.choice(num_nodes, (2, num_edges), p=weight / weight.sum())
    return torch.from_numpy(ends)


class Layer(nn.Module):
    """One of PyG's layers: projections of the tokens, which of them is what, and a score.

    Args:
        score: how strongly.
        parts: for query, key and value the number of its projection; None for what is not read.
        skip: whether one more projection goes around the attention.
        edge_weight: of edge features, [head, dim, edge_dim].
        heads: number of heads.
    """

    def __init__(
        self,
        score: gf.Score,
        parts: tuple[int | None, int | None, int],
        skip: bool = False,
        edge_weight: nn.Parameter | None = None,
        heads: int = HEADS,
    ) -> None:
        super().__init__()
        self.score, self.parts, self.skip, self.heads = score, parts, skip, heads
        self.count = len({part for part in parts if part is not None}) + skip
        self.projections = nn.Linear(WIDTH, self.count * WIDTH)
        self.edge_weight = edge_weight

    def forward(self, x: Tensor, graph: gf.TokenGraph) -> Tensor:
        projected = self.projections(x).unflatten(-1, (self.count, self.heads, -1)).unbind(1)
        query, key, value = (None if part is None else projected[part] for part in self.parts)
        normalize = "none" if isinstance(self.score, gf.SymmetricDegree) else "softmax"
        if self.edge_weight is None:
            out = gf.attend(query, key, value, graph, self.score, normalize)
        else:
            out, bonds, _ = gf.attend(query, key, value, graph, self.score, edge_sum="bond")
            out = out + torch.einsum("qhe,hde->qhd", bonds, self.edge_weight)
        out = out.flatten(1)
        return out + projected[-1].flatten(1) if self.skip else out


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


def pairs_of_layers() -> dict[str, tuple[nn.Module, nn.Module]]:
    """Ours and PyG's layers by name."""
    weight = nn.Parameter(torch.randn(HEADS, DIM, EDGE_DIM) * EDGE_DIM**-0.5)
    return {
        "TransformerConv": (
            Layer(gf.DotProduct(), (0, 1, 2), skip=True),
            pyg.TransformerConv(WIDTH, DIM, HEADS),
        ),
        "TransformerConv with edge features": (
            Layer(gf.EdgeDot("bond", weight), (0, 1, 2), skip=True, edge_weight=weight),
            pyg.TransformerConv(WIDTH, DIM, HEADS, edge_dim=EDGE_DIM),
        ),
        "GATConv": (
            Layer(gf.Additive(HEADS, DIM), (0, 0, 0)),
            pyg.GATConv(WIDTH, DIM, HEADS, add_self_loops=False),
        ),
        "GATv2Conv": (
            Layer(gf.GATv2(HEADS, DIM), (0, 1, 1)),
            pyg.GATv2Conv(WIDTH, DIM, HEADS, add_self_loops=False),
        ),
        "GCNConv": (
            Layer(gf.SymmetricDegree(), (None, None, 0), heads=1),
            pyg.GCNConv(WIDTH, WIDTH, add_self_loops=False),
        ),
    }


def compare_layers(
    edge_index: Tensor, graph: gf.TokenGraph, repeats: int, names: list[str]
) -> None:
    x = torch.randn(graph.queries.num_tokens, WIDTH)
    bonds = graph.edge_values("bond")
    for name, (ours, theirs) in pairs_of_layers().items():
        if names and name not in names:
            continue
        more = (edge_index, bonds) if "edge" in name else (edge_index,)
        slow = max(repeats // 3, 1)
        for kind, step in (("forward", inference), ("forward and backward", training)):
            seconds = measure({"ours": step(ours, x, graph)}, repeats)
            seconds |= measure({"PyG": step(theirs, x, *more)}, slow)
            report(f"{name}, {kind}", seconds, "PyG")


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


def print_memory(side: str, edge_index: Tensor, graph: gf.TokenGraph) -> None:
    ours, theirs = pairs_of_layers()["TransformerConv"]
    x = torch.randn(graph.queries.num_tokens, WIDTH)
    step = training(ours, x, graph) if side == "ours" else training(theirs, x, edge_index)
    gf.attend(None, None, x.unsqueeze(1)[:, :, :1], graph, gf.Mean())  # binds the edges
    # The peak from here on, where the system can forget the one before.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    step()
    print(memory("VmHWM") - before)


def memory(field: str) -> float:
    """Memory of this process in MB, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["operator", "layers", "memory"])
    parser.add_argument("--nodes", type=int, default=169_343)
    parser.add_argument("--edges", type=int, default=2_300_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--layer", action="append", default=[], help="only these layers")
    given = parser.parse_args()
    torch.manual_seed(0)
    edge_index = power_law(given.nodes, given.edges)
    bond = torch.randn(given.edges, EDGE_DIM)
    graph = gf.TokenGraph.from_edge_index(edge_index, given.nodes, bond=bond)
    for side in ("ours", "PyG"):
        if given.what == [f"memory of {side}"]:
            print_memory(side, edge_index, graph)
            return
    print(
        f"{cpu_name()}, {torch.get_num_threads()} threads, {kernels.instruction_set()}; torch "
        f"{torch.__version__}\n{given.nodes:,} nodes, {given.edges:,} edges, largest degree "
        f"{int(graph.in_degree.max()):,}, {HEADS} heads of {DIM}, width {WIDTH}"
    )
    if "operator" in given.what:
        compare_operator(edge_index, graph, given.repeats)
    if "layers" in given.what:
        compare_layers(edge_index, graph, given.repeats, given.layer)
    if "memory" in given.what:
        compare_memory(given.nodes, given.edges)


if __name__ == "__main__":
    main()
