"""The few queries that attend to whole examples, beside the many that look through windows."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from graphformer.backends.boxes import Box, attend_box, sum_biases
from graphformer.backends.request import Operands, Request
from graphformer.backends.windows import Columns
from graphformer.graph import TokenGraph
from graphformer.layout import Layout
from graphformer.padding import from_rectangle, make_slots, to_rectangle
from graphformer.rectangle import real_edges


def make_global_graph(graph: TokenGraph, columns: Columns) -> TokenGraph:
    """The graph of the same keys, and of no queries but the global ones."""
    layout, tokens = graph.queries, columns.query
    lengths = layout.lengths.clamp(max=columns.num_global)
    ptr = F.pad(layout.ptr.diff().clamp(max=columns.num_global).cumsum(0), (1, 0))
    queries = Layout(ptr, layout.at[tokens], lengths, layout.num_virtual, True)
    rows = TokenGraph(graph.topology, queries, layout)
    rectangle = rows.rectangle
    # Scores may ask for the queries by their numbers in the whole graph.
    pair = replace(rectangle.pair, query=tokens[rectangle.pair.query], queries=layout)
    rows._made["rectangle"] = rectangle._replace(pair=pair)
    return rows


def prepare(request: Request, rows: TokenGraph) -> None:
    """Makes the slots that a run reads."""
    for heads in {1, request.heads, request.kv_heads}:
        make_slots(rows, "query", heads)
        make_slots(rows, "key", heads)


def attend_globally(
    request: Request, rows: TokenGraph, columns: Columns, operands: Operands, fits: bool
) -> Float[Tensor, "global head value_dim"]:
    """The attention of the global queries, each over its whole example.

    Args:
        request: the attention of the whole graph.
        rows: what `make_global_graph` made.
        columns: the global tokens.
        operands: those of the whole graph.
        fits: whether SDPA can run it, unless a bias needs a gradient.
    """
    rectangle = rows.rectangle
    pair = replace(rectangle.pair, num_heads=request.heads)
    query, query_term = (
        None if x is None else x.index_select(0, columns.query)
        for x in (operands.query, operands.query_term)
    )
    key_term = _box(operands.key_term, rows, "key")
    assert rectangle.mask is not None
    mask, biases = rectangle.mask, request.score.biases
    empty = None if rectangle.empty is None else rectangle.empty[:, None, :, None]
    box = Box(
        _box(query, rows, "query"),
        _box(operands.key, rows, "key"),
        to_rectangle(operands.value, rows, "key"),
        _box(query_term, rows, "query"),
        None if key_term is None else key_term.transpose(-1, -2),
        sum_biases(request, biases, pair, real_edges(rows)) if biases else None,
        mask,
        empty,
        lambda: pair,
    )
    return from_rectangle(attend_box(request, box, fits), rows)


def _box(x: Tensor | None, rows: TokenGraph, side: str) -> Tensor | None:
    if x is None:
        return None
    return to_rectangle(x if x.dim() == 3 else x.unsqueeze(-1), rows, side)
