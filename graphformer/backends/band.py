"""Windows: blocks of queries against the keys near them, never queries x keys.

Blocks are taken in chunks. Where a chunk's masks or weights would have to be kept for the
backward, it is computed again there, so that memory grows with tokens x dim alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from graphformer.backends import dense, global_queries
from graphformer.backends.boxes import (
    Box,
    additive_mask,
    attend_box,
    attend_fused,
    edges_of,
    sum_biases,
)
from graphformer.backends.calibration import factor
from graphformer.backends.chunks import Chunk, take
from graphformer.backends.global_queries import attend_globally, make_global_graph
from graphformer.backends.request import Attended, Cost, Operands, Request
from graphformer.backends.windows import (
    Columns,
    Windows,
    make_windows,
    reach_of,
    sample_pair,
)
from graphformer.graph import TokenGraph
from graphformer.scores import Bias

# Bytes of float32 scores in a chunk: larger ones leave the caches, and come as fresh memory.
CHUNK_BYTES = 2**22
# Rates of two CPU cores, lower than those of `dense`: blocks are small.
FLOPS = {torch.float64: 5e10, torch.float32: 1e11, torch.bfloat16: 8e10}
BYTES = 8e9
CALL_SECONDS = 2e-4
MOVES = 6


def why_not(request: Request) -> str | None:
    """Windows, beside global tokens, with scores that are products."""
    if request.pairwise:
        return "a pairwise score is no matrix product: it would need query x key x dim numbers"
    if request.edge_sum is not None or request.return_weights:
        return "it never has its weights edge by edge; for extras use dense or reference"
    if request.edge_names:
        names = ", ".join(repr(name) for name in request.edge_names)
        return f"the score reads the edge data {names}, and windows have none"
    data = [name for name, value in request.graph.edge_data.items() if value.values is not None]
    if request.has_own_functions and data:
        return f"a function of your own may read the edge data {data[0]!r}, and windows have none"
    reach = reach_of(request.graph)
    return reach if isinstance(reach, str) else None


def cost(request: Request) -> Cost:
    """Two products of every block with its window, and its scores in memory unless fused."""
    graph, reach = request.graph, reach_of(request.graph)
    assert not isinstance(reach, str), reach
    layout = graph.queries
    size, rows = layout.num_tokens, layout.num_examples * layout.max_length * reach.num_global
    blocks = int((layout.lengths / (reach.step * reach.rows)).ceil().sum()) * reach.step
    pairs = blocks * reach.rows * (reach.width + reach.num_global) + rows
    fused = _may_fuse(request)
    # The backward runs the forward once more, unless nothing has to be made again.
    passes = 1.0 if not request.grad else 3.5 if fused and not reach.num_global else 4.5
    flops = 2.0 * pairs * request.heads * (request.dim + request.value_dim) * passes
    scores = 4.0 * pairs * request.heads
    moved = scores * (0.2 if fused else 4 * passes)
    # Tokens are gathered into blocks, and what comes of them is put together.
    moved += MOVES * size * request.heads * (request.dim + request.value_dim) * 4 * passes
    seconds = flops / FLOPS.get(request.dtype, FLOPS[torch.float32]) + moved / BYTES
    box = 4.0 * reach.rows * reach.width * request.heads
    held = 4 * max(min(CHUNK_BYTES, scores), box) + 32.0 * size
    held += rows * (4 if fused else 16 * request.heads)
    if request.grad:
        held += size * request.heads * request.value_dim * request.dtype.itemsize
    way = "band, fused" if fused else "band, in steps"
    return Cost(flops, held, (CALL_SECONDS + seconds) * factor(way, request))


def prepare(request: Request) -> None:
    """Makes blocks and windows, and the graph of the global tokens as queries."""
    graph, reach = request.graph, reach_of(request.graph)
    assert not isinstance(reach, str), reach
    windows = graph._make("windows", lambda: make_windows(graph, reach))
    if windows.columns is not None:
        global_queries.prepare(request, _global_graph(graph, windows.columns))


def run(request: Request, operands: Operands) -> Attended:
    """Runs all blocks at once where they are few, else by chunks; then the global queries."""
    windows: Windows = request.graph._made["windows"]
    operands = operands.scaled()
    parts = _parts(operands, windows)
    shared = _share(request, windows, parts)
    chunks = _chunks(request, windows)
    if len(chunks) == 1:
        out = _attend(request, shared, chunks[0], *parts)
    else:
        out = torch.cat(list(_by_chunks(request, shared, chunks, parts)))
    if windows.place is not None:
        out = out.index_select(0, windows.place)
    if windows.columns is not None:
        columns, rows = windows.columns, _global_graph(request.graph, windows.columns)
        more = attend_globally(request, rows, columns, operands, shared.fits)
        out = out.index_add(0, columns.query, more)
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
    received = [operands.query, operands.query_term]
    sent = [operands.key, operands.key_term, operands.value]
    columns: list[Tensor | None] = [None, None, None]
    if windows.columns is not None:
        columns = _picked(sent, windows.columns.token)
    if windows.order is not None:
        received, sent = _picked(received, windows.order), _picked(sent, windows.order)
    return _Parts(*received, *sent, *columns)  # type: ignore[arg-type]


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
    bias = None
    if near:
        pair = sample_pair(windows.reach, value.device, request.heads)
        bias = sum_biases(request, near, pair, windows.near[None])
    if others or not fits or (bias is not None and bias.requires_grad):
        return _Shared(fits, others, bias, None)
    return _Shared(fits, others, bias, additive_mask(windows.near[None, None], bias, value))


def _chunks(request: Request, windows: Windows) -> list[Chunk]:
    """All blocks in chunks of about `CHUNK_BYTES`; in one where the run is being traced."""
    make = partial(Chunk, request.graph, windows)
    reach, blocks = windows.reach, windows.start.shape[0]
    box_bytes = 4 * request.heads * reach.rows * (reach.width + reach.num_global)
    at_once = max(CHUNK_BYTES // box_bytes, 1)
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if traced or blocks <= at_once:
        return [make(slice(0, None), slice(0, None), slice(0, None), slice(0, None))]
    size = windows.code.shape[0]
    start, plain = [*windows.start.tolist(), size], windows.plain.tolist()
    first = [0] * blocks if windows.columns is None else windows.columns.first.tolist()
    chunks = []
    for begin, end in pairwise([*range(0, blocks, at_once), blocks]):
        # Windows may look beyond the first or the last slot; some slot there must be to gather.
        key = min(max(start[begin] + reach.low, 0), size - 1)
        stop = max(start[end - 1] + reach.low + reach.width, key + 1)
        chunks.append(
            make(
                slice(begin, end),
                slice(start[begin], start[end]),
                slice(key, stop),
                slice(first[begin], first[end - 1] + reach.num_global),
                all(plain[begin:end]),
            )
        )
    return chunks


def _by_chunks(
    request: Request, shared: _Shared, chunks: list[Chunk], parts: _Parts
) -> Iterator[Tensor]:
    for chunk in chunks:
        pieces, parts = _cut(parts, chunk, chained=request.grad)
        attend = partial(_attend, request, shared, chunk)
        # Fused under the mask that all have, a chunk keeps nothing for the backward but views.
        if not request.grad or (chunk.is_plain and shared.mask is not None):
            yield attend(*pieces)
        else:
            yield checkpoint(attend, *pieces, use_reentrant=False)


def _cut(parts: _Parts, chunk: Chunk, chained: bool = False) -> tuple[_Parts, _Parts]:
    """The parts of one chunk, and the parts for those that come after it."""
    ranges = [chunk.queries] * 2 + [chunk.keys] * 3 + [chunk.entries] * 3
    pieces: list[Tensor | None] = []
    rest: list[Tensor | None] = []
    for x, part in zip(parts, ranges, strict=True):
        piece = after = None
        if x is not None:
            piece, after = take(x, part) if chained else (x[part], x)
        pieces.append(piece)
        rest.append(after)
    return _Parts(*pieces), _Parts(*rest)  # type: ignore[arg-type]


def _attend(
    request: Request, shared: _Shared, chunk: Chunk, *pieces: Tensor | None
) -> Float[Tensor, "slot head value_dim"]:
    """The attention of one chunk of blocks, without its global queries."""
    box = _make_box(request, shared, chunk, _Parts(*pieces))  # type: ignore[arg-type]
    if chunk.is_plain and shared.mask is not None:
        out = attend_fused(box, shared.mask)
    else:
        out = attend_box(request, box, shared.fits)
    return chunk.queries_of(out)


def _make_box(request: Request, shared: _Shared, chunk: Chunk, pieces: _Parts) -> Box:
    mask, empty = chunk.masks()
    pair = partial(chunk.pair, request.heads)
    bias = shared.bias
    if shared.biases:
        more = sum_biases(request, shared.biases, pair(), edges_of(mask, empty))
        bias = more if bias is None else bias + more
    query, query_term, key, key_term, value, column_key, column_term, column_value = pieces
    return Box(
        None if query is None else chunk.query_boxes(query),
        None if key is None else chunk.key_boxes(key, column_key),
        chunk.key_boxes(value, column_value),
        None if query_term is None else chunk.query_boxes(query_term).unsqueeze(-1),
        None if key_term is None else chunk.key_boxes(key_term, column_term).unsqueeze(-2),
        bias,
        mask,
        empty,
        pair,
    )


def _picked(parts: list[Tensor | None], index: Tensor) -> list[Tensor | None]:
    return [None if x is None else x.index_select(0, index) for x in parts]


def _may_fuse(request: Request) -> bool:
    """Whether the weights are a softmax of products and biases, and SDPA the way to sum them."""
    return (
        request.normalize == "softmax"
        and not request.dropout
        and not request.has_function
        and not request.has_terms
        and request.pointwise.identity
        and not _is_slow_in_sdpa(request)
    )


def _is_slow_in_sdpa(request: Request) -> bool:
    reach = reach_of(request.graph)
    return not isinstance(reach, str) and dense.is_slow_in_sdpa(request, reach.width)


def _global_graph(graph: TokenGraph, columns: Columns) -> TokenGraph:
    return graph._make("global queries", lambda: make_global_graph(graph, columns))
