"""Windows: blocks of queries against the keys near them, never queries x keys.

Blocks are taken in chunks. Where a chunk's masks or weights would have to be kept for the
backward, it is computed again there, so that memory grows with tokens x dim alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from graphformer.backends import dense
from graphformer.backends.boxes import Box, additive_mask, attend_fused, attend_products
from graphformer.backends.chunks import Chunk, take
from graphformer.backends.request import Attended, Cost, Operands, Request
from graphformer.backends.windows import (
    Columns,
    Reach,
    Windows,
    find_reach,
    make_columns,
    make_windows,
    sample_pair,
)
from graphformer.graph import TokenGraph
from graphformer.layout import Layout, Pair
from graphformer.scores import Bias

# Bytes of float32 scores in a chunk: larger ones leave the caches, and come as fresh memory.
CHUNK_BYTES = 2**24


def why_not(request: Request) -> str | None:
    """Windows, beside global tokens, with scores that are products."""
    if request.pairwise:
        return "a pairwise score is no matrix product: it would need query x key x dim numbers"
    if request.edge_sum is not None or request.return_weights:
        return "it never has its weights edge by edge; for extras use dense or reference"
    if request.edge_names:
        names = ", ".join(repr(name) for name in request.edge_names)
        return f"the score reads the edge data {names}, and windows have none"
    reach = _reach(request.graph)
    return reach if isinstance(reach, str) else None


def cost(request: Request) -> Cost:
    """Two products of every block with its window, and its scores in memory unless fused."""
    graph, reach = request.graph, _reach(request.graph)
    assert isinstance(reach, Reach)
    blocks = -(-graph.queries.num_tokens // reach.rows)
    pairs = blocks * reach.rows * (reach.width + reach.num_global)
    fused = _may_fuse(request)
    # The backward runs the forward once more, unless nothing has to be made again.
    passes = 1.0 if not request.grad else 3.5 if fused and not reach.num_global else 4.5
    flops = 2.0 * pairs * request.heads * (request.dim + request.value_dim) * passes
    scores = 4 * pairs * request.heads
    moved = scores * (0.2 if fused else 4 * passes)
    seconds = flops / dense.FLOPS.get(request.dtype, 6e10) + moved / dense.BYTES
    held = 3 * min(CHUNK_BYTES, scores) + 8.0 * graph.queries.num_tokens
    if not reach.num_global:
        return Cost(flops, held, seconds)
    rows = dense.cost(_rows_request(request))
    return Cost(flops + rows.flops, held + rows.bytes, seconds + rows.seconds)


def prepare(request: Request) -> None:
    """Makes blocks and windows, and the graph of the global tokens as queries."""
    windows = request.graph._make("windows", lambda: make_windows(request.graph))
    if windows.columns is not None:
        dense.prepare(_rows_request(request))


def run(request: Request, operands: Operands) -> Attended:
    """Runs all blocks at once where they are few, else by chunks; then the global queries."""
    windows: Windows = request.graph._made["windows"]
    parts = _parts(operands, windows)
    shared = _share(request, windows, parts)
    chunks = _chunks(request, windows, operands.value.shape[0])
    if len(chunks) == 1:
        out = _attend(request, shared, chunks[0], False, *_cut(parts, chunks[0])[0])
    else:
        out = torch.cat(list(_by_chunks(request, shared, chunks, parts)))
    if windows.place is not None:
        out = out.index_select(0, windows.place)
    if windows.columns is not None:
        rows = _attend_rows(request, windows.columns, operands)
        out = out.index_add(0, windows.columns.query, rows)
    return Attended(out)


class _Parts(NamedTuple):
    """Operands by slot, and those of the global columns by entry."""

    query: Tensor | None
    query_term: Tensor | None
    key: Tensor | None
    key_term: Tensor | None
    value: Tensor
    column_key: Tensor | None
    column_term: Tensor | None
    column_value: Tensor | None


class _Shared(NamedTuple):
    """What all chunks have in common.

    Attributes:
        fits: whether SDPA can run it, unless a bias needs a gradient.
        biases: those that need to know the pairs of each block.
        bias: the others, which are the same in every window, or None.
        mask: `bias`, and minus infinity where the window ends; None where that is not all, or
            SDPA cannot run it.
    """

    fits: bool
    biases: tuple[Bias, ...]
    bias: Float[Tensor, "1 head row column"] | None
    mask: Float[Tensor, "1 _ row column"] | None


def _parts(operands: Operands, windows: Windows) -> _Parts:
    """Operands in the order of slots, and what the global columns read."""
    parts = (operands.query, operands.query_term, operands.key, operands.key_term, operands.value)
    columns: tuple[Tensor | None, ...] = (None, None, None)
    if windows.columns is not None:
        columns = tuple(_pick(x, windows.columns.token) for x in parts[2:])
    if windows.order is not None:
        parts = tuple(_pick(x, windows.order) for x in parts)
    return _Parts(*parts, *columns)


def _share(request: Request, windows: Windows, parts: _Parts) -> _Shared:
    query, key, value = parts.query, parts.key, parts.value
    fits = (
        _may_fuse(request)
        and query is not None
        and key is not None
        and query.shape[1:] == (request.heads, request.value_dim)
        and key.shape[1:] == value.shape[1:]
    )
    if windows.columns is not None:
        return _Shared(fits, request.score.biases, None, None)
    near = tuple(bias for bias in request.score.biases if bias.by_distance)
    others = tuple(bias for bias in request.score.biases if not bias.by_distance)
    bias = _sum(near, sample_pair(windows.reach, value.device, request.heads))
    if others or not fits or (bias is not None and bias.requires_grad):
        return _Shared(fits, others, bias, None)
    return _Shared(fits, others, bias, additive_mask(windows.near[None, None], bias, value))


def _chunks(request: Request, windows: Windows, size: int) -> list[Chunk]:
    """All blocks in chunks of about `CHUNK_BYTES`; in one where the run is being traced."""
    reach, columns = windows.reach, windows.columns
    more = 0 if columns is None else columns.width
    blocks = -(-size // reach.rows)
    at_once = max(CHUNK_BYTES // (4 * request.heads * reach.rows * (reach.width + more)), 1)
    make = partial(Chunk, request.graph, windows)
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if traced or blocks <= at_once:
        return [make(0, blocks, size, (0, 0 if columns is None else columns.token.shape[0]))]
    first = [0] * blocks if columns is None else columns.first.tolist()
    return [
        make(start, stop, size, (first[start], first[stop - 1] + more))
        for start, stop in pairwise([*range(0, blocks, at_once), blocks])
    ]


def _by_chunks(
    request: Request, shared: _Shared, chunks: list[Chunk], parts: _Parts
) -> Iterator[Tensor]:
    plain = chunks[0].windows.plain.tolist()
    for chunk in chunks:
        pieces, parts = _cut(parts, chunk, chained=request.grad)
        # Fused under the mask that all have, a chunk keeps nothing for the backward but views.
        light = shared.mask is not None and all(plain[chunk.first : chunk.last])
        attend = partial(_attend, request, shared, chunk, light)
        if light or not request.grad:
            yield attend(*pieces)
        else:
            yield checkpoint(attend, *pieces, use_reentrant=False)


def _cut(parts: _Parts, chunk: Chunk, chained: bool = False) -> tuple[_Parts, _Parts]:
    """The parts of one chunk, and the parts for those that come after it."""
    ranges = [chunk.query_range] * 2 + [chunk.key_range] * 3 + [chunk.column_range] * 3
    pieces: list[Tensor | None] = []
    rest: list[Tensor | None] = []
    for x, (start, stop) in zip(parts, ranges, strict=True):
        piece = after = None
        if x is not None:
            piece, after = take(x, start, stop) if chained else (x[start:stop], x)
        pieces.append(piece)
        rest.append(after)
    return _Parts(*pieces), _Parts(*rest)  # type: ignore[arg-type]


def _attend(
    request: Request, shared: _Shared, chunk: Chunk, light: bool, *pieces: Tensor | None
) -> Float[Tensor, "slot head value_dim"]:
    """The attention of one chunk of blocks, without its global queries."""
    box = _make_box(request, shared, chunk, light, _Parts(*pieces))  # type: ignore[arg-type]
    if light:
        out = attend_fused(box, shared.mask)
    elif shared.fits and not (box.bias is not None and box.bias.requires_grad):
        out = attend_fused(box, additive_mask(box.mask, box.bias, box.value))
    else:
        out = attend_products(request, box)
    start, stop = chunk.query_range
    return out.transpose(1, 2).flatten(0, 1)[: stop - start]


def _make_box(request: Request, shared: _Shared, chunk: Chunk, light: bool, pieces: _Parts) -> Box:
    mask, empty = chunk.windows.near[None, None], None
    if not light:
        mask = chunk.mask()
        empty = ~mask.any(-1, keepdim=True)
        mask = mask | empty
    bias = shared.bias
    if shared.biases:
        more = _sum(shared.biases, chunk.pair(request.heads))
        bias = more if bias is None else bias + more
    query_term = chunk.query_boxes(pieces.query_term)
    key_term = chunk.key_boxes(pieces.key_term, pieces.column_term)
    return Box(
        chunk.query_boxes(pieces.query),
        chunk.key_boxes(pieces.key, pieces.column_key),
        chunk.key_boxes(pieces.value, pieces.column_value),
        None if query_term is None else query_term.unsqueeze(-1),
        None if key_term is None else key_term.unsqueeze(-2),
        bias,
        mask,
        empty,
        partial(chunk.pair, request.heads),
    )


def _sum(biases: tuple[Bias, ...], pair: Pair) -> Float[Tensor, "_ head row column"] | None:
    """The sum of biases, in the memory order of scores."""
    if not biases:
        return None
    return sum(bias(pair) for bias in biases).permute(0, 3, 1, 2).contiguous()


def _pick(x: Tensor | None, index: Tensor) -> Tensor | None:
    return None if x is None else x.index_select(0, index)


def _may_fuse(request: Request) -> bool:
    """Whether the weights are a softmax of products and biases, which SDPA keeps to itself."""
    low = request.dtype in (torch.bfloat16, torch.float16) and request.graph.device.type == "cpu"
    return (
        request.normalize == "softmax"
        and not request.dropout
        and not request.has_function
        and not request.has_terms
        and request.pointwise.identity
        # On the CPU, SDPA's backward in 16 bits takes twice the time of plain products.
        and not (low and request.grad)
    )


def _reach(graph: TokenGraph) -> Reach | str:
    return graph._make("reach", lambda: find_reach(graph))


def _attend_rows(
    request: Request, columns: Columns, operands: Operands
) -> Float[Tensor, "global head value_dim"]:
    """The attention of the global queries, each over its whole example."""
    query, query_term = operands.query, operands.query_term
    picked = operands._replace(
        query=_pick(query, columns.query), query_term=_pick(query_term, columns.query)
    )
    return dense.run(_rows_request(request), picked).out


def _rows_request(request: Request) -> Request:
    """The same attention with no queries but the global ones."""
    graph = request.graph
    return replace(request, graph=graph._make("global rows", lambda: _rows_graph(graph)))


def _rows_graph(graph: TokenGraph) -> TokenGraph:
    reach, layout = _reach(graph), graph.queries
    assert isinstance(reach, Reach)
    tokens = make_columns(layout, reach).query
    ptr = F.pad(layout.ptr.diff().clamp(max=reach.num_global).cumsum(0), (1, 0))
    lengths = layout.lengths.clamp(max=reach.num_global)
    queries = Layout(ptr, layout.at[tokens], lengths, layout.num_virtual, True)
    rows = TokenGraph(graph.topology, queries, layout)
    rectangle = rows.rectangle
    # Scores may ask for the queries by their numbers in the whole graph.
    pair = replace(rectangle.pair, query=tokens[rectangle.pair.query], queries=layout)
    rows._made["rectangle"] = rectangle._replace(pair=pair)
    return rows
