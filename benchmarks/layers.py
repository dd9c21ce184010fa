"""Whole layers with their projections: drop-ins against PyG's, eager and compiled; their memory.

A part of sparse_attention.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from figures import Figures
from graphs import power_law
from peers import csr_matrix, those_that_run
from timing import Run, in_fresh_process, passes
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.nn.conv.gcn_conv import gcn_norm

import graphformer as gf
from graphformer import nn as drop_ins
from graphformer.tasks.comparison.memory import peak_bytes

WIDTH, HEADS, EDGE_DIM = 128, 8, 16
SIZES = {"in_channels": WIDTH, "out_channels": WIDTH // HEADS, "heads": HEADS}


class Layer(NamedTuple):
    """A layer that both sides have, and how much faster ours has to be with the backward.

    Attributes:
        kind: its name.
        settings: its arguments.
        least: times as fast as PyG's.
    """

    kind: str
    settings: dict[str, Any]
    least: float

    def make(self) -> tuple[nn.Module, nn.Module]:
        """The drop-in and PyG's layer, with the same weights."""
        theirs = getattr(pyg, self.kind)(**self.settings)
        ours = getattr(drop_ins, self.kind)(**self.settings)
        ours.load_state_dict(theirs.state_dict())
        return ours, theirs


LAYERS = {
    "TransformerConv": Layer("TransformerConv", SIZES, 6),
    "TransformerConv with edge features": Layer(
        "TransformerConv", {**SIZES, "edge_dim": EDGE_DIM}, 6
    ),
    "GATConv": Layer("GATConv", {**SIZES, "add_self_loops": False}, 7),
    "GATv2Conv": Layer("GATv2Conv", {**SIZES, "add_self_loops": False}, 6),
    "GCNConv": Layer(
        "GCNConv", {"in_channels": WIDTH, "out_channels": WIDTH, "add_self_loops": False}, 5
    ),
}


def compare_layers(
    figures: Figures,
    edges: tuple[Tensor, Tensor],
    num_nodes: int,
    rounds: int,
    only: list[str],
) -> None:
    """Each layer against PyG's, and PyG's compiled.

    Args:
        figures: gets the times.
        edges: `edge_index`, and features of the edges.
        num_nodes: number of nodes.
        rounds: calls of each, of which the median counts.
        only: names of the layers, or none for all.
    """
    for name in only or LAYERS:
        layer = LAYERS[name]
        ours, theirs = layer.make()
        x = torch.randn(num_nodes, WIDTH)
        more = edges if "edge_dim" in layer.settings else edges[:1]
        for backward in (False, True):
            torch.compiler.reset()
            step = training if backward else inference
            compiled = torch.compile(theirs, dynamic=False)
            runs = {"PyG": step(theirs, x, *more)}
            title = f"{name}, {passes(backward)}"
            runs |= those_that_run(title, {"PyG, compiled": step(compiled, x, *more)})
            if name == "TransformerConv":
                runs["projections of either"] = projections(theirs, x, backward)
            if name == "GCNConv":
                runs["torch.sparse"] = step(SparseGCN(theirs, edges[0], num_nodes), x)
            runs["ours"] = step(ours, x, *more)
            found = figures.compare("layers", title, runs, rounds)
            demand(figures, name, title, found, backward)


def demand(
    figures: Figures, name: str, title: str, found: dict[str, float], backward: bool
) -> None:
    """What the times of one layer have to be."""
    over = found["PyG"] / found["ours"]
    if backward:
        figures.demand_least(f"{title}, PyG over ours", over, LAYERS[name].least)
    if name == "TransformerConv" and not backward:
        figures.demand_least(f"{title}, PyG over ours", over, 8)
    if name == "TransformerConv" and backward and "PyG, compiled" in found:
        over = found["PyG, compiled"] / found["ours"]
        figures.demand_least(f"{title}, PyG compiled over ours", over, 5.5)


class SparseGCN(nn.Module):
    """PyG's GCNConv as a product with a sparse matrix of torch, which is made beforehand.

    Args:
        layer: the layer, whose weights it shares.
        edge_index: the edges.
        num_nodes: number of nodes.
    """

    def __init__(self, layer: Any, edge_index: Tensor, num_nodes: int) -> None:
        super().__init__()
        self.layer = layer
        graph = gf.TokenGraph.from_edge_index(edge_index, num_nodes)
        _, weight = gcn_norm(edge_index, None, num_nodes, add_self_loops=False)
        self.adjacency = csr_matrix(graph, weight[graph.csr.order.long()])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.sparse.mm(self.adjacency, self.layer.lin(x)) + self.layer.bias
        return out


def projections(layer: Any, x: Tensor, backward: bool) -> Run:
    """The products of a TransformerConv with its weights, which either side pays."""
    maps = [getattr(layer, f"lin_{name}") for name in ("query", "key", "value", "skip")]
    if not backward:
        return torch.no_grad()(lambda: [each(x) for each in maps])
    x = x.detach().requires_grad_()
    leaves = [x, *(parameter for each in maps for parameter in each.parameters())]
    outside = [torch.randn(len(x), each.weight.shape[0]) for each in maps]
    return lambda: torch.autograd.grad([each(x) for each in maps], leaves, outside)


def training(module: Callable[..., Tensor], x: Tensor, *rest: object) -> Run:
    """Forward and backward of a module, with gradients of its weights and its input."""
    assert isinstance(module, nn.Module)
    x = x.clone().requires_grad_()
    outside = torch.randn(x.shape)
    leaves = [x, *module.parameters()]
    return lambda: torch.autograd.grad(module(x, *rest), leaves, outside, allow_unused=True)


def inference(module: Callable[..., Tensor], x: Tensor, *rest: object) -> Run:
    """Forward alone."""
    return torch.no_grad()(lambda: module(x, *rest))


def compare_memory(figures: Figures, num_nodes: int, num_edges: int) -> None:
    """Peak memory of one training step of TransformerConv, above what was held before it."""
    print("\npeak memory of a training step of TransformerConv, in a process of its own")
    held = {}
    for side in ("PyG", "ours"):
        held[side], _ = in_fresh_process(memory_of_step, side, num_nodes, num_edges)
        print(f"  {side:<44} {held[side] / 1e6:7,.0f} MB", flush=True)
        figures.others[f"peak_bytes of {side}"] = held[side]
    figures.demand_least("peak memory, PyG over ours", held["PyG"] / held["ours"], 6)


def memory_of_step(side: str, num_nodes: int, num_edges: int) -> int:
    """Bytes at the peak of a step above those before it, of an untouched process."""
    edge_index = power_law(num_nodes, num_edges)
    ours, theirs = LAYERS["TransformerConv"].make()
    x = torch.randn(num_nodes, WIDTH)
    step = training(ours if side == "ours" else theirs, x, edge_index)
    with torch.no_grad():
        ours(x, edge_index)  # binds the edges
    peak = peak_bytes(step, torch.device("cpu"))
    if peak is None:
        raise OSError("this system does not tell the peak memory of a part of a process")
    return peak
