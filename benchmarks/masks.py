"""Attention over few of all pairs of 4,096 tokens, against peers that take a mask of all of them.

    python benchmarks/masks.py --out runs/masks

SDPA is given the mask, FlexAttention its blocks, compiled and forward alone, for it has no backward
on a CPU. PyG and torch.sparse are given the edges; ours runs on what the planner chooses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from figures import Figures
from peers import Rule, flex, masked_sdpa, ours, propagate, those_that_run, torch_sparse
from timing import Run, pass_of, passes
from torch import Tensor

import graphformer as gf
from graphformer.tasks.comparison.drawn import block_size, draw_edges
from graphformer.tasks.comparison.memory import machine_bytes
from graphformer.tasks.comparison.points import fill_in

KINDS = ("window", "blocks", "random", "power_law")
HEADS, DIM = 8, 64
# How often PyG holds edges x heads x dim at the peak of a training step.
COPIES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for masks.json and pictures")
    given = parser.parse_args()
    torch.manual_seed(0)
    figures = Figures(f"{given.tokens:,} tokens, {HEADS} heads of {DIM}, float32")
    operands = [torch.randn(given.tokens, HEADS, DIM) for _ in range(4)]
    for kind in given.kinds:
        for density in given.densities:
            graph = draw(kind, given.tokens, density)
            for backward in (False, True):
                title = f"{kind}, {100 * graph.density:.2g}% of all pairs, {passes(backward)}"
                rule = rule_of(kind, graph)
                runs = peers(title, graph, rule, operands, backward)
                made = gf.explain(graph, heads=HEADS, dim=DIM, training=backward)
                runs[f"ours, by {made.name}"] = pass_of(ours(graph), operands, backward)
                figures.compare("training" if backward else "forward", title, runs, given.rounds)
    figures.finish(given.out, "masks")


def draw(kind: str, num_tokens: int, density: float) -> gf.TokenGraph:
    """A graph of this kind whose density comes near."""
    tokens = gf.sequences(torch.zeros(1, num_tokens, 1))
    if kind == "window":
        return gf.Topology.parse(fill_in("window(n)", num_tokens, density)).bind(tokens)
    return gf.edges(draw_edges(kind, num_tokens, density, seed=0)).bind(tokens)


def rule_of(kind: str, graph: gf.TokenGraph) -> Rule:
    """Who attends to whom, as FlexAttention likes it best: arithmetic where there is one."""
    num_tokens = graph.queries.num_tokens
    if kind == "window":
        reach = int((graph.edge_index[0] - graph.edge_index[1]).max())
        return lambda query, key: (query - key).abs() <= reach
    if kind == "blocks":
        size = block_size(num_tokens, graph.density)
        return lambda query, key: query // size == key // size
    mask = mask_of(graph)
    return lambda query, key: mask[query, key]


def mask_of(graph: gf.TokenGraph) -> Tensor:
    """All pairs [query, key], True at the edges."""
    key, query = graph.edge_index
    mask = torch.zeros(graph.queries.num_tokens, graph.keys.num_tokens, dtype=torch.bool)
    mask[query, key] = True
    return mask


def peers(
    title: str, graph: gf.TokenGraph, rule: Rule, given: list[Tensor], backward: bool
) -> dict[str, Run]:
    """What each peer that can do the work is called by; why others cannot is printed."""
    mask = mask_of(graph)
    # A query without keys would be NaN.
    mask |= ~mask.any(1, keepdim=True)
    found = {"SDPA, masked": pass_of(masked_sdpa(mask), given, backward)}
    if not backward:
        attention = flex(rule, graph.queries.num_tokens)
        called = {"FlexAttention, compiled": pass_of(attention, given, backward)}
        found |= those_that_run(title, called)
    needed = COPIES * graph.num_edges * given[0][0].nbytes
    if needed < 0.8 * machine_bytes(torch.device("cpu")):
        attention = propagate(graph.edge_index, HEADS, DIM)
        found["PyG propagate"] = pass_of(attention, given, backward)
    else:
        print(f"\n{title}, left out: PyG propagate, which needs about {needed / 1e9:.0f} GB")
    found["torch.sparse"] = pass_of(torch_sparse(graph), given, backward)
    return found


if __name__ == "__main__":
    main()
