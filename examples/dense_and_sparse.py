"""The same attention, dense and sparse: what a window costs, and what it loses.

python examples/dense_and_sparse.py
"""

from __future__ import annotations

import argparse
import time

import torch

from graphformer import (
    DotProduct,
    attend,
    complete,
    explain,
    global_tokens,
    plan,
    sequences,
    window,
)

HEADS, DIM = 4, 32


def main(length: int) -> None:
    torch.manual_seed(0)
    # A slow walk and noise: neighbors resemble each other, as in a text or a series.
    walk = torch.randn(length, HEADS * DIM).cumsum(0) / length**0.5
    tokens = sequences([walk + 0.1 * torch.randn(length, HEADS * DIM)])
    query = key = value = tokens.x.unflatten(-1, (HEADS, DIM))

    topologies = [complete()] + [window(length // part) | global_tokens(4) for part in (8, 32, 128)]
    graphs = [topology.bind(tokens) for topology in topologies]
    dense = attend(query, key, value, graphs[0])

    print(f"{length} tokens, {HEADS} heads of {DIM}\n")
    print(f"{'topology':<34} {'density':>8} {'backend':>10} {'time':>9} {'gap':>7}")
    for graph in graphs:
        chosen = plan(graph, DotProduct(), heads=HEADS, dim=DIM)
        out = attend(query, key, value, graph)
        start = time.perf_counter()
        attend(query, key, value, graph)
        milliseconds = 1000 * (time.perf_counter() - start)
        gap = float((out - dense).norm() / dense.norm())
        print(
            f"{graph.topology!r:<34} {graph.density:>8.2%} {chosen.name:>10} "
            f"{milliseconds:>6.1f} ms {gap:>7.3f}"
        )

    print("\nWhy that backend, for the last one:\n")
    print(explain(graphs[-1], DotProduct(), heads=HEADS, dim=DIM))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a shorter sequence")
    main(length=512 if parser.parse_args().quick else 8192)
