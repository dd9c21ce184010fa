"""Everything that is asked for, tried on a few tokens, so that nothing fails half-way."""

from __future__ import annotations

import torch

from graphformer.attend import attend, explain
from graphformer.backends import Cost
from graphformer.scores import Score
from graphformer.tasks.comparison.drawn import DRAWN
from graphformer.tasks.comparison.memory import machine_bytes
from graphformer.tasks.comparison.points import Point, has_number, names_in, with_number
from graphformer.tasks.comparison.settings import DTYPES, Graphs, Sizes
from graphformer.tasks.fitting import check_score as check_heads
from graphformer.tasks.fitting import named
from graphformer.tokens import sequences
from graphformer.topology import complete

# Enough for every rule to be bound, and for a score to be tried.
FEW = 4
# Of an edge that is drawn, sorted, checked and listed.
EDGE_BYTES = 64


def check(sizes: Sizes, graphs: Graphs, device: torch.device) -> None:
    """Raises what is wrong with topologies, score or sizes.

    Raises:
        ValueError: a topology or the score cannot be read, names edges that there are none of,
            does not fit the heads, is nothing that dense attention computes, or the machine has
            too little memory.
    """
    check_score(sizes, graphs)
    for text in graphs.topologies:
        check_topology(text)
    check_memory(sizes, graphs, device)


def check_score(sizes: Sizes, graphs: Graphs) -> None:
    """Raises why a score cannot be compared."""
    check_heads("score", graphs.score, sizes.heads)
    score = Score.parse(graphs.score)
    dtype = DTYPES[sizes.dtype]
    x = torch.ones(FEW, sizes.heads, sizes.dim, dtype=dtype)
    whole = complete().bind(sequences([x.flatten(1)]))
    with named("score"):
        refusal = explain(whole, score, sizes.heads, sizes.dim, dtype).candidates["dense"]
        if isinstance(refusal, str):
            raise ValueError(
                f"there is no dense attention with {graphs.score} to compare with: {refusal}; give "
                'another score, such as "DotProduct()"'
            )
        attend(x, x, x, whole, score)


def check_topology(text: str) -> None:
    """Raises why a topology cannot be compared."""
    with named("topologies"):
        check_named_edges(text)
        tokens, tried = sequences([torch.zeros(FEW, dtype=torch.int64)]), with_number(text, 1)
        try:
            Point(FEW, text, tried, None).bind(tokens, 0)
        except ValueError as error:
            # As it was written, not as it was tried.
            raise ValueError(str(error).replace(repr(tried), repr(text))) from error


def check_named_edges(text: str) -> None:
    """Raises why the edges that a topology names cannot be drawn."""
    unknown = [name for name in names_in(text) if name not in DRAWN]
    if unknown:
        raise ValueError(
            f"the topology {text!r} names the edges {unknown[0]!r}, which are not drawn here; "
            f"known are {', '.join(DRAWN)}"
        )
    if names_in(text) and has_number(text):
        raise ValueError(
            f"the topology {text!r} has both n and drawn edges, and which of them is to give "
            "the densities is not said: write a number in place of n"
        )


def check_memory(sizes: Sizes, graphs: Graphs, device: torch.device) -> None:
    """Raises which length is too long for the memory of the machine."""
    longest, limit = max(sizes.lengths), machine_bytes(device)
    tokens = sequences([torch.zeros(longest, dtype=torch.int64)] * sizes.batch)
    score, dtype = Score.parse(graphs.score), DTYPES[sizes.dtype]
    whole = complete().bind(tokens)
    cost = explain(whole, score, sizes.heads, sizes.dim, dtype, training=True).candidates["dense"]
    needed = {"attention over the complete graph": cost.bytes if isinstance(cost, Cost) else 0.0}
    if any(map(names_in, graphs.topologies)):
        densest = max(graphs.densities)
        edges = densest * sizes.batch * longest**2
        needed[f"drawing a graph of density {densest:g}"] = EDGE_BYTES * edges
    for what, size in needed.items():
        if size > limit:
            raise ValueError(
                f"{what} takes about {size / 1e9:,.1f} GB at {longest:,} tokens, and there are "
                f"{limit / 1e9:,.1f}: give shorter lengths, or smaller densities or batches"
            )
