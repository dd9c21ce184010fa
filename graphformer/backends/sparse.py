"""Sparse attention: fused C++ kernels over the edges, never edges x heads x dim.

A pass over queries and their keys for the outputs; in the backward one more, and one over keys and
their queries. Work is cut at fixed numbers of edges and added in one order, so that results do
not depend on threads.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from graphformer.backends import kernels
from graphformer.backends.calibration import factor
from graphformer.backends.operators import Arguments, sparse_attention
from graphformer.backends.request import Attended, Cost, Operands, Request
from graphformer.backends.windows import reach_of
from graphformer.graph import TokenGraph
from graphformer.layout import Pair
from graphformer.padding import pick_rows
from graphformer.scores import Bahdanau, GATv2, LeakyReLU, Score, SoftCap
from graphformer.scores.additive import check_made
from graphformer.scores.pointwise import Identity
from graphformer.scores.score import evaluate

# Bytes of gathered rows in a second, on two CPU cores (Zen 4), from the caches and from memory; how
# much faster where they lie beside each other, as in windows; bytes of rows in turn, to and from
# fresh memory; bytes that caches hold; seconds that a call takes at least.
NEAR = {torch.float64: 5e10, torch.float32: 1.05e11, torch.bfloat16: 6.5e10}
FAR = {torch.float64: 1.45e10, torch.float32: 1.16e10, torch.bfloat16: 7.7e9}
BESIDE, FRESH = 1.35, 1.6e10
CACHED = 2**25
LEAST_SECONDS = 1e-4
# Of the backward and the forward, in times of the forward.
PASSES = 3.8
# As in csrc/blocks.h.
BLOCK_BYTES, BLOCK_EDGES_PER_KEY = 2**24, 64

Edges = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
PAIRS: dict[type[Score], int] = {GATv2: 1, Bahdanau: 2}


def why_not(request: Request) -> str | None:
    """All but a user's own pairwise scores, on a CPU, where there are kernels."""
    graph = request.graph
    if request.pairwise and type(request.score.core) not in PAIRS:
        return (
            f"{request.score.core!r} is a function of its own that would need edges x heads x dim"
        )
    if type(request.pointwise) not in (Identity, LeakyReLU, SoftCap):
        return (
            f"its kernels know no {request.pointwise!r}: put the function into forward(score, pair)"
        )
    if graph.device.type != "cpu":
        return f"its kernels run on the CPU, the graph is on {graph.device}"
    if request.dtype not in kernels.DTYPES:
        return f"its kernels compute in float32, float64 and bfloat16, not in {request.dtype}"
    if max(graph.num_edges, graph.queries.num_tokens, graph.keys.num_tokens) >= 2**31:
        return f"its kernels count to 2^31, and there are {graph.num_edges:,} edges"
    return kernels.why_missing()


def cost(request: Request) -> Cost:
    """The rows of keys and values that edges gather."""
    graph, passes = request.graph, PASSES if request.grad else 1.0
    edges, heads = graph.num_edges, request.heads
    width = heads * (request.dim + request.value_dim)
    flops = 2.0 * edges * width * passes
    moved = edges * (width * request.dtype.itemsize + 8.0 * heads) * passes
    tokens = graph.queries.num_tokens + graph.keys.num_tokens
    held = 4.0 * graph.queries.num_tokens * heads + (_kept(request) if request.grad else 0.0)
    data = (graph.edge_values_of(name).values for name in request.edge_names)
    edge_dim = sum(values.shape[1] for values in data if values is not None)
    moved += 4.0 * edges * edge_dim * passes
    rows = graph.keys.num_tokens * width * request.dtype.itemsize
    beside = not isinstance(reach_of(graph), str)
    near = 1.0 if beside else min(CACHED / max(rows, 1), 1.0)
    rate = NEAR[request.dtype] * (BESIDE if beside else 1.0)
    seconds = near * moved / rate * factor("sparse, near", request)
    seconds += (1 - near) * moved / FAR[request.dtype] * factor("sparse, far", request)
    seconds += tokens * width * request.dtype.itemsize * passes / FRESH
    return Cost(flops, held, LEAST_SECONDS + seconds)


def _kept(request: Request) -> float:
    """Bytes that the backward keeps for keys: weights and slopes of a block, and their sums.

    A query with more edges than a block has one by itself, which is not counted.
    """
    graph, heads = request.graph, request.heads
    edges, keys = graph.num_edges, graph.keys.num_tokens
    each = 2.0 * request.dtype.itemsize * heads
    num_blocks = max(edges // max(BLOCK_BYTES / each, BLOCK_EDGES_PER_KEY * keys), 1)
    sums = 4.0 * keys * heads * (request.dim + request.value_dim + 1)
    return each * edges / num_blocks + (sums if num_blocks > 1 else 0)


def prepare(request: Request) -> None:
    """Makes the edges by query and by key, and the pairs that biases look at."""
    edges_of(request.graph)
    _moves(request.graph)
    if request.score.biases or request.has_function:
        _ends(request.graph)
    for name in request.edge_names:
        _edge_values(request.graph, name)


def edges_of(graph: TokenGraph) -> Edges:
    """The edges by query, the edges by key, and where each of these is among the former.

    The edges of a key are in the order of their queries, whatever order they were given in.
    """
    return (*graph.csr[:2], *graph.transposed)


def _moves(graph: TokenGraph) -> tuple[Tensor, Tensor] | None:
    """The edges by query in their numbers, and the place of each number there; None if the same."""

    def make() -> tuple[Tensor, Tensor] | None:
        order = graph.csr.order.long()
        same = torch.equal(order, torch.arange(order.shape[0], device=order.device))
        return None if same else (order, _inverse(order))

    found: tuple[Tensor, Tensor] | None = graph._make("sparse moves", make)
    return found


def _inverse(order: Tensor) -> Tensor:
    place = torch.empty_like(order)
    place[order.long()] = torch.arange(order.shape[0], dtype=order.dtype, device=order.device)
    return place


def _ends(graph: TokenGraph) -> tuple[Tensor, Tensor]:
    """Query and key of each edge, by query, [edge, 1]."""

    def make() -> tuple[Tensor, Tensor]:
        moves = _moves(graph)
        ends = graph.edge_index if moves is None else graph.edge_index.index_select(1, moves[0])
        return ends[1].unsqueeze(1), ends[0].unsqueeze(1)

    found: tuple[Tensor, Tensor] = graph._make("sparse ends", make)
    return found


def _edge_values(graph: TokenGraph, name: str) -> Tensor:
    """Edge data by query: rows one after another, where those as given would lie anywhere."""
    values, moves = graph.edge_values(name), _moves(graph)
    if moves is None:
        return values
    given = graph.edge_values_of(name)
    return graph._keep((name, "by query"), given, lambda: pick_rows(values, *moves))


def run(request: Request, operands: Operands) -> Attended:
    """One call of the kernels; two where the score has a function of its own between them."""
    if not torch.compiler.is_compiling():
        _check_transforms(operands)
    graph, precision = request.graph, torch.promote_types(request.dtype, torch.float32)
    bias = None
    for term in request.score.biases:
        more = evaluate(term, request.heads, _pair(request)).to(precision)
        more = more.expand(graph.num_edges, -1)
        bias = more if bias is None else bias + more
    parts = _Parts(request, operands, bias, precision)
    if request.has_function:
        bias = evaluate(request.score.core, request.heads, parts.scores(), _pair(request))
        bias = bias.to(precision)
        parts = _Parts(request, Operands(None, None, operands.value), bias, precision, True)
    return parts.attend()


def _check_transforms(operands: Operands) -> None:
    """Raises an error where derivatives are asked for that the kernels have none of."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "the sparse backend does not run under torch.func; write attend(..., "
            "backend='reference')"
        )
    if forward_ad._current_level >= 0:
        parts = [x for x in operands if isinstance(x, Tensor)]
        if any(forward_ad.unpack_dual(x).tangent is not None for x in parts):
            raise RuntimeError(
                "the sparse backend has no forward mode; write attend(..., backend='reference')"
            )


def _pair(request: Request) -> Pair:
    """The pairs of all edges, by query."""
    graph = request.graph
    named = [name for name, given in graph.edge_data.items() if given.values is not None]
    data = {name: _edge_values(graph, name) for name in named}
    return Pair(*_ends(graph), graph.queries, graph.keys, data, request.heads)


class _Parts:
    """The numbers of an attention with all of its heads, or with one where all weigh alike.

    Args:
        request: what is asked for.
        operands: what the score has prepared.
        bias: of each edge by query, [edge, head or 1].
        precision: of terms and biases.
        finished: whether the bias is the score itself, to which nothing more is done.
    """

    def __init__(
        self,
        request: Request,
        operands: Operands,
        bias: Tensor | None,
        precision: torch.dtype,
        finished: bool = False,
    ) -> None:
        query, key, value, query_term, key_term, edge_query, self.scale = operands
        if query is None or key is None:
            query = key = None
        said = (query, key, query_term, key_term, edge_query, bias)
        alike = not request.pairwise and all(x is None or x.shape[1] == 1 for x in said)
        self.request, self.precision, self.bias = request, precision, bias
        self.alike = alike and not request.dropout
        self.heads = 1 if self.alike else request.heads
        self.finished = finished
        self.query, self.key = self._spread(query), self._spread(key)
        self.value = value.flatten(1).unsqueeze(1) if self.alike else self._spread(value)
        self.query_term, self.key_term, self.edge_query = (
            None if x is None else self._spread(x.to(precision))
            for x in (query_term, key_term, edge_query)
        )

    def scores(self) -> Tensor:
        """The scores [edge, head], the pointwise function included."""
        return sparse_attention(self._arguments("scores", True))[2]

    def attend(self) -> Attended:
        """The sums, and what else was asked for."""
        request = self.request
        arguments = self._arguments(request.normalize, request.return_weights)
        out, edge_sum, weights = sparse_attention(arguments)
        if self.alike:
            out = out.view(out.shape[0], request.kv_heads, request.value_dim)
            if request.heads != request.kv_heads:  # or it would be copied
                out = out.repeat_interleave(request.heads // request.kv_heads, 1)
        moves = _moves(request.graph)
        if request.return_weights and moves is not None:
            weights = pick_rows(weights, moves[1], moves[0])
        return Attended(
            out,
            self._all_heads(edge_sum) if request.edge_sum is not None else None,
            self._all_heads(weights) if request.return_weights else None,
        )

    def _arguments(self, normalize: str, weighs: bool) -> Arguments:
        request, graph = self.request, self.request.graph
        sums = normalize != "scores"
        pointwise, constant = (0, 0.0) if self.finished else _pointwise(request)
        pair, pair_weight, pair_map, pair_data = 0, None, None, None
        core = request.score.core
        if isinstance(core, GATv2 | Bahdanau):
            check_made(core)
            pair, pair_weight = PAIRS[type(core)], core.weight.to(self.precision)
            constant = getattr(core, "slope", 0.0)
            if core.edge_weight is not None:
                pair_map = core.edge_weight.to(self.precision).permute(2, 0, 1).flatten(1)
            pair_data = self._edge_data(core.edge_data)
        drops = sums and request.dropout > 0
        return Arguments(
            self.query,
            self.key,
            self.value if sums else None,
            self.query_term,
            self.key_term,
            self.bias,
            self.edge_query,
            None if self.edge_query is None else self._edge_data(core.edge_data),
            self._edge_data(request.edge_sum) if sums else None,
            pair_weight,
            pair_map,
            pair_data,
            *edges_of(graph),
            torch.randint(2**63 - 1, ()) if drops else None,
            self.heads,
            pointwise,
            pair,
            kernels.NORMALIZE.index(normalize),
            self.scale,
            constant,
            request.dropout if drops else 0.0,
            weighs,
            # Only softmax and sums look at the output again.
            sums and request.grad and request.dtype == torch.bfloat16 and normalize != "none",
        )

    def _edge_data(self, name: str | None) -> Tensor | None:
        return None if name is None else _edge_values(self.request.graph, name).to(self.precision)

    def _spread(self, x: Tensor | None) -> Tensor | None:
        if x is None or x.shape[1] == self.heads:
            return x
        return x.repeat_interleave(self.heads // x.shape[1], 1)

    def _all_heads(self, x: Tensor) -> Tensor:
        x = x.to(self.request.dtype)
        return x.expand(-1, self.request.heads, *x.shape[2:])


def _pointwise(request: Request) -> tuple[int, float]:
    function = request.pointwise
    if isinstance(function, LeakyReLU):
        return 1, function.slope
    return (2, function.cap) if isinstance(function, SoftCap) else (0, 0.0)
