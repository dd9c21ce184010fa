"""The specification: one equation as a PyG `MessagePassing`. It runs everything.

Where the messages would take more than `CHUNK_BYTES`, queries are taken in chunks that are
recomputed in the backward, so that memory grows with tokens, not with edges x heads x dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, overload

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter, softmax

from graphformer.backends.calibration import factor
from graphformer.backends.request import Attended, Cost, Operands, Request
from graphformer.layout import Pair
from graphformer.scores.score import evaluate, precise

CHUNK_BYTES = 2**28

# Numbers of messages that two cores stream in a second, forward, with all their gathers: while
# they fit into the caches, and where nothing does. Between them it falls with this power.
CACHED, FAST_RATE, SLOW_RATE, FALL = 2**24, 8e8, 2.2e8, 0.4
# What a call costs whatever its size.
CALL_SECONDS = 1e-3


class Equation(MessagePassing):
    """out_i = sum over j of a_ij v_j, with a_i. = normalize(f(<q_i, k_j> + s_i + t_j + b_ij))."""

    def __init__(self) -> None:
        super().__init__(aggr="add", node_dim=0)

    def _set_jittable_templates(self, raise_on_error: bool = False) -> None:
        # PyG would write `propagate` anew, into a file that each process leaves behind.
        pass

    def forward(
        self, request: Request, operands: Operands, edge_index: Tensor, pair: Pair, num_queries: int
    ) -> Attended:
        num_keys = operands.value.shape[0]
        size = (num_keys, num_queries)
        weights = self.edge_updater(
            edge_index,
            query=(None, operands.query),
            key=(operands.key, None),
            query_term=(None, operands.query_term),
            key_term=(operands.key_term, None),
            edge_query=(None, operands.edge_query),
            request=request,
            pair=pair,
            num_queries=num_queries,
        )
        used = weights
        if request.dropout:
            used = F.dropout(_all_heads(weights, request), request.dropout)
        value = (operands.value, None)
        out = self.propagate(edge_index, size=size, value=value, weights=used, request=request)
        edge_sum = None
        if request.edge_sum is not None:
            data = pair.edge_data[request.edge_sum].to(used.dtype)
            messages = used.unsqueeze(-1) * data.unsqueeze(1)
            edge_sum = scatter(messages, edge_index[1], dim=0, dim_size=num_queries)
        dtype = operands.value.dtype
        return Attended(
            _all_heads(out, request).to(dtype),
            None if edge_sum is None else _all_heads(edge_sum, request).to(dtype),
            _all_heads(used, request).to(dtype) if request.return_weights else None,
        )

    def edge_update(
        self,
        query_i: Tensor | None,
        key_j: Tensor | None,
        query_term_i: Tensor | None,
        key_term_j: Tensor | None,
        edge_query_i: Tensor | None,
        index: Tensor,
        request: Request,
        pair: Pair,
        num_queries: int,
    ) -> Tensor:
        """The weights a_ij, [edge, head]."""
        score = request.score
        query, key = precise(query_i), _heads_of(precise(key_j), request)
        total: Any
        if request.pairwise:
            assert query is not None
            assert key is not None
            total = evaluate(score.core, request.heads, query, key.expand_as(query), pair)
        else:
            product = None if query is None or key is None else (query * key).sum(-1)
            edge = None
            if edge_query_i is not None:
                assert score.core.edge_data is not None
                data = pair.edge_data[score.core.edge_data].to(edge_query_i.dtype)
                edge = (edge_query_i * data.unsqueeze(1)).sum(-1)
            terms = (product, query_term_i, _heads_of(key_term_j, request), edge)
            total = sum(term for term in terms if term is not None)
            if not isinstance(total, Tensor):
                dtype = torch.promote_types(request.dtype, torch.float32)
                total = torch.zeros(index.shape[0], 1, dtype=dtype, device=index.device)
        for bias in score.biases:
            total = total + evaluate(bias, request.heads, pair)
        if not request.pairwise:
            total = evaluate(score.core, request.heads, request.pointwise(total), pair)
        if request.normalize == "softmax":
            return _softmax(total, index, num_queries, request.may_hide_all)
        if request.normalize == "sum":
            norm = scatter(total, index, dim=0, dim_size=num_queries)
            return total / torch.where(norm == 0, 1.0, norm).index_select(0, index)
        return total

    def message(self, value_j: Tensor, weights: Tensor, request: Request) -> Tensor:
        """a_ij v_j, [edge, head, dim]."""
        return _heads_of(precise(value_j), request) * weights.unsqueeze(-1)


def _softmax(total: Tensor, index: Tensor, size: int, may_hide_all: bool) -> Tensor:
    """Weights of the edges of each query; zero where all of its scores are minus infinity."""
    if not may_hide_all:
        return softmax(total, index, num_nodes=size)
    seen = scatter((total > -torch.inf).to(total.dtype), index, dim=0, dim_size=size)
    hidden = seen.index_select(0, index) == 0
    return softmax(total.masked_fill(hidden, 0.0), index, num_nodes=size).masked_fill(hidden, 0.0)


def why_not(request: Request) -> str | None:
    """Nothing is refused."""
    return None


def cost(request: Request) -> Cost:
    """Messages are written and read several times over."""
    edges, passes = request.graph.num_edges, 4 if request.grad else 1
    numbers = edges * request.heads * (request.dim + request.value_dim)
    rate = max(FAST_RATE * min(CACHED / max(numbers, 1), 1.0) ** FALL, SLOW_RATE)
    held = min(4.0 * numbers * 3, 8 * CHUNK_BYTES)
    seconds = CALL_SECONDS + numbers * passes / rate * max(request.dtype.itemsize / 4, 1)
    return Cost(2 * numbers * passes, held, seconds * factor("reference", request))


def run(request: Request, operands: Operands) -> Attended:
    """Runs all edges at once, or by chunks of queries."""
    graph, operands = request.graph, operands.scaled()
    width = request.heads * max(request.dim, request.value_dim)
    edges_at_once = max(CHUNK_BYTES // (4 * width), 1)
    if torch.compiler.is_compiling() or graph.num_edges <= edges_at_once:
        pair = graph.edge_pair(request.heads)
        return equation(request, operands, graph.edge_index, pair, graph.queries.num_tokens)
    return _by_chunks(request, operands, edges_at_once)


def prepare(request: Request) -> None:
    """Makes the indexes that a run reads."""
    request.graph.edge_pair(request.heads)


def _by_chunks(request: Request, operands: Operands, edges_at_once: int) -> Attended:
    graph = request.graph
    csr = graph.csr
    bounds = list(_bounds(csr.ptr, edges_at_once))
    sizes = [stop - start for start, stop in bounds]
    # `split`, since its backward joins once where that of slices fills a whole tensor a chunk.
    sided = [
        [None] * len(sizes) if part is None else part.split(sizes)
        for part in (operands.query, operands.query_term, operands.edge_query)
    ]
    results = []
    for chunk, (start, stop) in enumerate(bounds):
        query, query_term, edge_query = (side[chunk] for side in sided)
        first, last = int(csr.ptr[start]), int(csr.ptr[stop])
        parts = operands._replace(query=query, query_term=query_term, edge_query=edge_query)

        def one_chunk(parts: Operands, first: int, last: int, start: int, stop: int) -> Attended:
            pair = graph.edge_pair(request.heads, csr.order[first:last])
            local = torch.stack([pair.key[:, 0], pair.query[:, 0] - start])
            return equation(request, parts, local, pair, stop - start)

        arguments = (parts, first, last, start, stop)
        if request.grad:
            results.append(checkpoint(one_chunk, *arguments, use_reentrant=False))
        else:
            results.append(one_chunk(*arguments))
    outs, edge_sums, all_weights = zip(*results, strict=True)
    edge_sum = None if request.edge_sum is None else torch.cat(edge_sums)
    weights = torch.cat(all_weights) if request.return_weights else None
    if weights is not None:
        place = csr.order.long().unsqueeze(1).expand_as(weights)
        weights = torch.zeros_like(weights).scatter(0, place, weights)
    return Attended(torch.cat(outs), edge_sum, weights)


def _bounds(ptr: Tensor, edges_at_once: int) -> Iterator[tuple[int, int]]:
    """Ranges of queries with at most `edges_at_once` edges, or of a single query."""
    start, num_queries = 0, ptr.shape[0] - 1
    while start < num_queries:
        limit = ptr[start] + edges_at_once
        stop = int(torch.searchsorted(ptr, limit, right=True)) - 1
        stop = min(max(stop, start + 1), num_queries)
        yield start, stop
        start = stop


@overload
def _heads_of(x: Tensor, request: Request) -> Tensor: ...
@overload
def _heads_of(x: None, request: Request) -> None: ...
def _heads_of(x: Tensor | None, request: Request) -> Tensor | None:
    if x is None or x.shape[1] in (1, request.heads):
        return x
    return x.repeat_interleave(request.heads // x.shape[1], 1)


def _all_heads(x: Tensor, request: Request) -> Tensor:
    return x if x.shape[1] == request.heads else x.expand(-1, request.heads, *x.shape[2:])


equation = Equation()
