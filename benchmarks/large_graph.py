"""One training step of a graph Transformer on a graph of 2.4 M nodes and 62 M edges.

    python benchmarks/large_graph.py --out runs/large
    python benchmarks/large_graph.py --nodes 240000 --edges 6200000

Two layers of width 64, 4 heads, feed-forward networks of twice the width; each block keeps what
enters it and computes the rest once more in the backward. What PyG would need is scaled up from a
fiftieth of the graph, in processes of their own: at the peak of a step its TransformerConv holds so
many copies of edges x heads x dim.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from figures import Figures
from graphs import power_law
from timing import in_fresh_process, peak_bytes, readable, seconds
from torch import Tensor
from torch.nn import functional as F
from torch_geometric import nn as pyg

import graphformer as gf
from graphformer.models.graph import GraphTransformer
from graphformer.tasks.comparison import memory

WIDTH, HEADS, LAYERS, CLASSES = 64, 4, 2, 16
CPU = torch.device("cpu")
# PyG is measured on so small a part of the graph.
PART = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=2_400_000)
    parser.add_argument("--edges", type=int, default=62_000_000)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--out", type=Path, help="folder for large_graph.json")
    given = parser.parse_args()
    torch.manual_seed(0)
    figures = Figures(
        f"{given.nodes:,} nodes, {given.edges:,} edges; graph Transformer of {LAYERS} layers, "
        f"width {WIDTH}, {HEADS} heads, dropout {given.dropout:g}"
    )
    copies = copies_of_pyg(given.nodes // PART, given.edges // PART)
    step = Step(given.nodes, given.edges, given.dropout)
    above = memory.peak_bytes(step.run, CPU)
    peak = max(peak_bytes(), step.peak_before)
    for name, taken in step.seconds.items():
        print(f"  {name:<44} {readable(taken):>10}", flush=True)
        figures.others[f"seconds of {name}"] = taken
    print(f"  {'peak memory of the process':<44} {peak / 1e9:>7.1f} GB")
    figures.others |= {"peak_bytes": peak, "loss": step.loss}
    if above is not None:
        print(f"  {'of which the step, above what it found':<44} {above / 1e9:>7.1f} GB")
        figures.others["peak_bytes of the step"] = above
    one = copies * given.edges * WIDTH * 4
    print(
        f"\nPyG's TransformerConv holds {copies:.1f} copies of edges x heads x dim at the peak of "
        f"a step:\n{one / 1e9:,.0f} GB for one layer of this graph, {LAYERS * one / 1e9:,.0f} GB "
        f"for {LAYERS} without activation checkpointing"
    )
    figures.others |= {"copies of PyG": copies, "bytes of PyG, one layer": one}
    figures.demand("peak memory", peak / 1e9, 20, "GB")
    figures.finish(given.out, "large_graph")


class Step:
    """A graph, features, labels and a model that are ready for a training step.

    Args:
        num_nodes: number of nodes.
        num_edges: number of edges.
        dropout: of the model.

    Attributes:
        seconds: what each part has taken so far.
        peak_before: the most bytes that the process held until the step.
        loss: of the step.
    """

    def __init__(self, num_nodes: int, num_edges: int, dropout: float) -> None:
        self.seconds: dict[str, float] = {}
        self.loss = float("nan")

        def bind() -> None:
            self.graph = gf.TokenGraph.from_edge_index(edge_index, num_nodes)
            gf.plan(self.graph, self.model)

        edge_index = power_law(num_nodes, num_edges)
        self.x = torch.randn(num_nodes, WIDTH)
        self.labels = torch.randint(CLASSES, (num_nodes,))
        self.model = GraphTransformer(WIDTH, WIDTH, CLASSES, LAYERS, HEADS, dropout)
        for block in self.model.blocks:
            block.checkpoint = True
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.seconds["binding and planning"] = seconds(bind)
        self.peak_before = peak_bytes()

    def run(self) -> None:
        """Forward, backward and the optimizer's step."""
        self.optimizer.zero_grad()
        losses: list[Tensor] = []
        self.seconds["forward"] = seconds(lambda: losses.append(self._forward()))
        self.seconds["backward, with the second forward"] = seconds(losses[0].backward)
        self.seconds["optimizer"] = seconds(self.optimizer.step)
        self.loss = losses[0].item()

    def _forward(self) -> Tensor:
        return F.cross_entropy(self.model(self.x, self.graph), self.labels)


def copies_of_pyg(num_nodes: int, num_edges: int) -> float:
    """How often PyG's TransformerConv holds edges x heads x dim at the peak of a training step."""
    held, _ = in_fresh_process(bytes_of_pyg, num_nodes, num_edges)
    copies: float = held / (num_edges * WIDTH * 4)
    return copies


def bytes_of_pyg(num_nodes: int, num_edges: int) -> int:
    """Bytes at the peak of a step of one layer above those before it."""
    edge_index = power_law(num_nodes, num_edges)
    layer = pyg.TransformerConv(WIDTH, WIDTH // HEADS, HEADS)
    x = torch.randn(num_nodes, WIDTH, requires_grad=True)
    outside = torch.randn(num_nodes, WIDTH)
    peak = memory.peak_bytes(lambda: layer(x, edge_index).backward(outside), CPU)
    if peak is None:
        raise OSError("this system does not tell the peak memory of a part of a process")
    return peak


if __name__ == "__main__":
    main()
