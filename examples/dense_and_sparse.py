"""The same attention, dense and sparse: what a window costs, and what it loses.

python examples/dense_and_sparse.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

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
    head = f"{'backend':>10} {'predicted':>10} {'measured':>10} {'gap':>7}"
    print(f"{'topology':<34} {'density':>8} {head}")
    for graph in graphs:
        chosen = plan(graph, DotProduct(), heads=HEADS, dim=DIM)
        out = attend(query, key, value, graph)
        gap = float((out - dense).norm() / dense.norm())
        # The prediction ranks the backends; how long they take depends on the machine.
        predicted = 1000 * chosen.candidates[chosen.name].seconds
        measured = 1000 * median_seconds(lambda graph=graph: attend(query, key, value, graph))
        print(
            f"{graph.topology!r:<34} {graph.density:>8.2%} {chosen.name:>10} "
            f"{predicted:>7.1f} ms {measured:>7.1f} ms {gap:>7.3f}"
        )

    print("\nWhy that backend, for the last one, by its predictions:\n")
    print(explain(graphs[-1], DotProduct(), heads=HEADS, dim=DIM))


def median_seconds(call: Callable[[], object]) -> float:
    """The median of five calls, so that what else the machine does counts little."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a shorter sequence")
    main(length=512 if parser.parse_args().quick else 8192)
