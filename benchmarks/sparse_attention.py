"""Sparse attention on a large graph: our kernels, PyG, torch.sparse, and the floor of memory.

    python benchmarks/sparse_attention.py --out runs/sparse        # all of it
    python benchmarks/sparse_attention.py operator memory --nodes 20000 --edges 300000

Graphs are bound beforehand. All that is compared runs in turns in one process, short calls many to
a turn; peak memory is taken in a process of its own. What is demanded is of the full size. The
gather floor is the time to sum the same rows of keys and values without any weights, by torch's
`embedding_bag`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from figures import Figures
from graphs import power_law
from layers import EDGE_DIM, compare_layers, compare_memory, projections
from peers import ours, propagate, sdpa, torch_sparse
from timing import pass_of, passes
from torch import Tensor
from torch.nn import functional as F
from torch_geometric import nn as pyg

import graphformer as gf
from graphformer import nn as drop_ins
from graphformer.backends import kernels

HEADS, DIM = 8, 16
PARTS = ("operator", "layers", "small", "complete", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS, metavar=" ".join(PARTS))
    parser.add_argument("--nodes", type=int, default=169_343)
    parser.add_argument("--edges", type=int, default=2_300_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layer", action="append", default=[], help="only these layers")
    parser.add_argument("--out", type=Path, help="folder for sparse_attention.json and pictures")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {min(unknown)}; known are {', '.join(PARTS)}")
    torch.manual_seed(0)
    edge_index = power_law(given.nodes, given.edges)
    graph = gf.TokenGraph.from_edge_index(edge_index, given.nodes)
    figures = Figures(
        f"{given.nodes:,} nodes, {given.edges:,} edges, largest degree "
        f"{int(graph.in_degree.max()):,}; {HEADS} heads of {DIM}; kernels for "
        f"{kernels.instruction_set()}"
    )
    if "operator" in given.parts:
        compare_operator(figures, edge_index, graph, given.rounds)
    if "layers" in given.parts:
        bonds = torch.randn(given.edges, EDGE_DIM)
        compare_layers(figures, (edge_index, bonds), given.nodes, given.rounds, given.layer)
    if "small" in given.parts:
        compare_small(figures, 20 * given.rounds)
    if "complete" in given.parts:
        compare_complete(figures, 20 * given.rounds)
    if "memory" in given.parts:
        compare_memory(figures, given.nodes, given.edges)
    figures.finish(given.out, "sparse_attention")


def compare_operator(
    figures: Figures, edge_index: Tensor, graph: gf.TokenGraph, rounds: int
) -> None:
    """The operator alone on given q, k, v, in float32 and, ours, in bfloat16."""
    given = [torch.randn(graph.queries.num_tokens, HEADS, DIM) for _ in range(4)]
    once = without_repeats(edge_index, graph.queries.num_tokens)
    rounded = [x.bfloat16() for x in given]
    for backward, times in ((False, 14), (True, 12)):
        runs = {
            "PyG propagate": pass_of(propagate(edge_index, HEADS, DIM), given, backward),
            "torch.sparse": pass_of(torch_sparse(once), given, backward),
            "ours, bfloat16": pass_of(ours(graph, "sparse"), rounded, backward),
            "ours": pass_of(ours(graph, "sparse"), given, backward),
        }
        title = f"operator, {passes(backward)}"
        theirs, _, half, mine = figures.compare("operator", title, runs, rounds).values()
        figures.demand_least(f"{title}, PyG over ours", theirs / mine, times)
        if backward:
            figures.demand_least(f"{title}, float32 over bfloat16", mine / half, 1.3)
    # By themselves, and behind PyG: it leaves gigabytes that are free, so that nobody waits for
    # memory, which would slow the floor more than ours.
    for backward, of_floor in ((False, 1.6), (True, 6)):
        runs = {
            "gather floor": gather(graph, given),
            "ours": pass_of(ours(graph, "sparse"), given, backward),
        }
        title = f"gather floor, {passes(backward)}"
        floor, mine = figures.compare("floor", title, runs, 3 * rounds).values()
        figures.demand(
            f"operator, {passes(backward)}, ours over the gather floor", mine / floor, of_floor
        )


def without_repeats(edge_index: Tensor, num_nodes: int) -> gf.TokenGraph:
    """The graph in which each edge is there once."""
    return gf.TokenGraph.from_edge_index(edge_index.unique(dim=1), num_nodes)


def gather(graph: gf.TokenGraph, given: list[Tensor]) -> Callable[[], object]:
    """Sums the rows of keys and values that attention has to read, and does nothing else."""
    ends, index = graph.csr.ptr[:-1], graph.csr.index
    rows = [x.flatten(1) for x in given[1:3]]
    return lambda: [F.embedding_bag(index, x, ends, mode="sum") for x in rows]


def compare_small(figures: Figures, rounds: int) -> None:
    """A graph of Cora's size, on which calls themselves cost most."""
    num_nodes, heads, dim = 2708, 8, 8
    edge_index = power_law(num_nodes, 13_264)
    graph = gf.TokenGraph.from_edge_index(edge_index, num_nodes)
    once = without_repeats(edge_index, num_nodes)
    layer, drop_in = (module.TransformerConv(64, dim, heads) for module in (pyg, drop_ins))
    drop_in.load_state_dict(layer.state_dict())
    x = torch.randn(num_nodes, heads * dim, requires_grad=True)
    outside = torch.randn(num_nodes, heads * dim)

    def step(layer: torch.nn.Module) -> Callable[[], object]:
        leaves = [x, *layer.parameters()]
        return lambda: torch.autograd.grad(layer(x, edge_index), leaves, outside)

    given = [torch.randn(num_nodes, heads, dim) for _ in range(4)]
    size = f"{num_nodes:,} nodes, 13 k edges, {heads} heads of {dim}"
    figures.about["small"] = size
    operators = {
        "PyG propagate": pass_of(propagate(edge_index, heads, dim), given, True),
        "torch.sparse": pass_of(torch_sparse(once), given, True),
        "ours": pass_of(ours(graph, "sparse"), given, True),
    }
    layers = {
        "PyG": step(layer),
        "projections of either": projections(layer, x, True),
        "ours": step(drop_in),
    }
    for what, runs in (("operator", operators), ("TransformerConv", layers)):
        title = f"{what}, {passes(True)}"
        found = figures.compare("small", title, runs, rounds)
        over = next(iter(found.values())) / found["ours"]
        figures.demand_least(f"{size}: {title}, PyG over ours", over, 4)


def compare_complete(figures: Figures, rounds: int) -> None:
    """A complete graph, where the planner has to find what torch does best."""
    num_tokens = 512
    graph = gf.complete().bind(gf.sequences(torch.zeros(1, num_tokens, 1)))
    figures.about["complete"] = size = f"complete graph of {num_tokens} tokens"
    for dim in (16, 64):
        for backward in (False, True):
            given = [torch.randn(num_tokens, HEADS, dim) for _ in range(4)]
            made = gf.explain(graph, heads=HEADS, dim=dim, training=backward)
            runs = {
                "SDPA and its transposes": pass_of(sdpa, given, backward),
                f"ours, by {made.name}": pass_of(ours(graph), given, backward),
            }
            title = f"{HEADS} heads of {dim}, {passes(backward)}"
            theirs, mine = figures.compare("complete", title, runs, rounds).values()
            figures.demand(f"{size}, {title}, over SDPA", mine / theirs, 1.05)


if __name__ == "__main__":
    main()
