"""Dense attention: the graph as a padded rectangle with a mask, or, on the CPU, as shelves of them.

Three executors: torch's fused `scaled_dot_product_attention`; a kernel for many short examples; and
plain batched matrix products, which in bfloat16 are often faster for long ones (see `executors`).
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphformer.backends import executors, fused, matmul, tiles
from graphformer.backends.calibration import factor
from graphformer.backends.request import Attended, Cost, Operands, Request
from graphformer.backends.safe import only_edges, only_values
from graphformer.graph import TokenGraph
from graphformer.layout import Pair
from graphformer.padding import all_heads, from_rectangle, make_slots, to_rectangle
from graphformer.rectangle import places, real_edges, rectangle_values
from graphformer.scores.score import evaluate, precise

# Rates of two CPU cores (Zen 4): FLOPs of matrix products and bytes of scores, a second.
FLOPS = {torch.float64: 4.6e10, torch.float32: 1.8e11, torch.bfloat16: 2e11, torch.float16: 5e10}
BYTES = 1.6e10
CALL_SECONDS = 5e-5

# Keys from which on SDPA is faster than plain products in every dtype.
WIDE = 1024


def why_not(request: Request) -> str | None:
    """Repeated edges and scores of whole vectors have no matrix product."""
    if request.pairwise:
        return "a pairwise score is no matrix product: it would need query x key x dim numbers"
    if request.graph.repeats:
        return "the graph was given by its edges, where one may stand twice: a mask holds it once"
    return None


def cost(request: Request) -> Cost:
    """Two products of all pairs, padding included, and their scores in memory unless fused."""
    graph, passes = request.graph, 3.5 if request.grad else 1.0
    way = "dense, fused" if _plain_softmax(request) and not request.dropout else "dense, in steps"
    rows, columns = graph.queries.max_length, graph.keys.max_length
    pairs = graph.queries.num_examples * rows * columns
    if _plain_softmax(request) and graph.device.type == "cpu":
        # On shelves examples are hardly padded.
        pairs = int((graph.queries.lengths * graph.keys.lengths).sum())
    width = request.dim + request.value_dim
    flops = 2 * pairs * request.heads * width * passes
    scores = pairs * request.heads * 4
    fused = way == "dense, fused"
    held = pairs + (0 if fused else 3 * scores)
    edge_dim = sum(graph.edge_values_of(name).known.shape[1] for name in request.edge_names)
    held += 4 * pairs * edge_dim
    moved = scores * (0.2 if fused else 4 * passes) + 4 * pairs * edge_dim * passes
    masked = not graph.topology.is_complete and not graph.topology.is_causal
    if masked:
        # Made for the longest example of all, twice: as the topology has it, and without padding.
        padded = graph.queries.num_examples * rows * columns
        held += 2 * (padded - pairs)
        moved += 4 * (padded - pairs)
    if fused and masked and graph.device.type == "cpu":
        # Each head reads the mask.
        moved += request.heads * pairs * request.dtype.itemsize * (2 if request.grad else 1)
    seconds = flops / FLOPS.get(request.dtype, FLOPS[torch.float32]) + moved / BYTES + CALL_SECONDS
    return Cost(flops, held, seconds * factor(way, request))


def prepare(request: Request) -> None:
    """Makes what a run reads of the graph, and measures once which executor is faster here."""
    if not _plain_softmax(request):
        prepare_compiled(request)
        return
    able = _able(request)
    if request.dropout:
        chosen = "tiles" if "tiles" in able else "matmul"
    else:
        chosen = executors.choose(request, able)
    _EXECUTORS[chosen].prepare(request)
    request.graph._made[f"executor:{request.numbers}"] = chosen


def chosen_executor(request: Request) -> str | None:
    """Which executor was chosen when the request was planned: "sdpa", "matmul" or "tiles"."""
    chosen: str | None = request.graph._made.get(f"executor:{request.numbers}")
    return chosen


def note(request: Request) -> str | None:
    """Which executor runs the request, and what it holds."""
    if not _plain_softmax(request):
        return None
    chosen = chosen_executor(request)
    if chosen is None:
        return "a kernel, SDPA or batched matrix products: which is faster the first call measures"
    if chosen == "sdpa":
        return "runs on scaled_dot_product_attention, which was faster or leaner here"
    if chosen == "tiles":
        return "runs on a kernel of this library, whose scores are never in memory"
    pairs = int((request.graph.queries.lengths * request.graph.keys.lengths).sum())
    held = pairs * request.heads * request.dtype.itemsize / 1e6
    if request.dropout:
        return f"dropout runs on batched matrix products; weights and drops hold {2 * held:.3g} MB"
    return f"runs on batched matrix products, which were faster here; weights hold {held:.3g} MB"


def prepare_compiled(request: Request) -> None:
    """Makes what compiled code reads of the graph: its rectangle."""
    graph = request.graph
    for heads in {1, request.heads, request.kv_heads}:
        make_slots(graph, "query", heads)
        make_slots(graph, "key", heads)
    if not _plain_softmax(request) or _is_compiled_in_steps(request):
        float_mask(request)


def run(request: Request, operands: Operands) -> Attended:
    """Runs what was measured to be fastest: the kernel, SDPA or batched matrix products."""
    if not _plain_softmax(request):
        return _general(request, operands)
    if torch.compiler.is_compiling():
        # What was measured differs from length to length, and each way would be compiled.
        if _is_compiled_in_steps(request):
            return _general(request, operands)
        return Attended(fused.attend_rectangle(request, operands))
    chosen: str = request.graph._made[f"executor:{request.numbers}"]
    if torch._C._are_functorch_transforms_active():
        if chosen == "sdpa":
            return Attended(fused.attend_rectangle(request, operands))
        return _general(request, operands)
    return Attended(_EXECUTORS[chosen].run(request, operands))


def _is_compiled_in_steps(request: Request) -> bool:
    """Whether compiled code takes plain steps, which the compiler fuses itself."""
    keys = request.graph.rectangle.pair.key.shape[2]
    return request.dropout > 0 or is_slow_in_sdpa(request, keys)


def is_slow_in_sdpa(request: Request, keys: int) -> bool:
    """Whether plain products are faster: SDPA's backward in 16 bits on the CPU is slow to start."""
    low = request.dtype in (torch.bfloat16, torch.float16)
    return low and request.grad and request.graph.device.type == "cpu" and keys < WIDE


_EXECUTORS = {"sdpa": fused, "matmul": matmul, "tiles": tiles}


def _able(request: Request) -> dict[str, ModuleType]:
    """The executors that can run the request."""
    return {
        name: executor
        for name, executor in _EXECUTORS.items()
        if executor is not tiles or tiles.can_run(request)
    }


def _general(request: Request, operands: Operands) -> Attended:
    """Any score, in plain differentiable steps; scores are float32 or float64."""
    graph, rectangle = request.graph, request.graph.rectangle
    precision = torch.promote_types(request.dtype, torch.float32)
    scores = _scores(request, operands.scaled())
    if request.normalize == "softmax":
        mask = float_mask(request)
        scores = scores if mask is None else scores + mask.to(precision)
        weights = (
            torch.ops.aten._safe_softmax(scores, -1) if request.may_hide_all else scores.softmax(-1)
        )
    else:
        mask = _bool_mask(graph)
        weights = scores if mask is None else scores.masked_fill(~mask, 0.0)
        if request.normalize == "sum":
            norm = weights.sum(-1, keepdim=True)
            weights = weights / torch.where(norm == 0, 1.0, norm)
    if rectangle.empty is not None:
        weights = weights.masked_fill(rectangle.empty[:, None, :, None], 0.0)
    value = all_heads(to_rectangle(operands.value, graph, "key"), request.heads)
    size = (value.shape[0], request.heads, rectangle.pair.query.shape[1], value.shape[2])
    used = weights.expand(size)
    if request.dropout:
        used = F.dropout(used, request.dropout)
    boxes = used.to(value.dtype) @ value
    if rectangle.empty is not None:
        # Weights of zero would let infinite values through.
        boxes = boxes.masked_fill(rectangle.empty[:, None, :, None], 0.0)
    out = from_rectangle(boxes, graph)
    edge_sum = edge_weights = None
    if request.edge_sum is not None:
        data = rectangle_values(graph, request.edge_sum).to(used.dtype)
        total = torch.einsum("bhqk,bqke->bhqe", used, data).to(out.dtype)
        edge_sum = from_rectangle(total, graph)
    if request.return_weights:
        example, row, column = places(graph, graph.edge_index)
        edge_weights = used.permute(0, 2, 3, 1)[example, row, column].to(out.dtype)
    return Attended(out, edge_sum, edge_weights)


def _scores(request: Request, operands: Operands) -> Tensor:
    """[example, head, query, key], in front of the mask; heads and examples may broadcast."""
    graph, score = request.graph, request.score
    pair, edges = rectangle_pair(request), _edges(request)
    if edges is not None:
        pair = only_edges(pair, edges)
    precision = torch.promote_types(request.dtype, torch.float32)
    total: Any = 0.0
    if operands.query is not None and operands.key is not None:
        query = to_rectangle(operands.query, graph, "query")
        key = to_rectangle(operands.key, graph, "key")
        heads = max(query.shape[1], key.shape[1])
        # Scores of 16 bits would put errors of a percent into the weights.
        query, key = precise(all_heads(query, heads)), precise(all_heads(key, heads))
        total = query @ key.transpose(-1, -2)
    if operands.query_term is not None:
        total = total + to_rectangle(operands.query_term.unsqueeze(-1), graph, "query")
    if operands.key_term is not None:
        term = to_rectangle(operands.key_term.unsqueeze(-1), graph, "key").transpose(-1, -2)
        total = total + all_heads(term, request.heads)
    if operands.edge_query is not None:
        assert score.core.edge_data is not None
        edge_query = to_rectangle(operands.edge_query, graph, "query")
        data = rectangle_values(graph, score.core.edge_data).to(edge_query.dtype)
        total = total + torch.einsum("bhqe,bqke->bhqk", edge_query, data)
    for bias in score.biases:
        more = evaluate(bias, request.heads, pair)
        total = total + more.view(*[1] * (4 - more.dim()), *more.shape).permute(0, 3, 1, 2)
    rows, columns = graph.rectangle.pair.query.shape[1], graph.rectangle.pair.key.shape[2]
    if not isinstance(total, Tensor):
        total = torch.zeros(1, 1, rows, columns, dtype=precision, device=graph.device)
    # One score for all keys is still one for each.
    total = request.pointwise(total.to(precision)).expand(-1, -1, -1, columns)
    if not request.has_function:
        return total
    total = total.permute(0, 2, 3, 1)
    if edges is not None:
        total = only_values(total.expand(-1, rows, -1, -1), edges)
    return evaluate(score.core, request.heads, total, pair).permute(0, 3, 1, 2)


def _edges(request: Request) -> Tensor | None:
    """Which pairs are edges, where functions must see no others; None where they may."""
    rectangle = request.graph.rectangle
    all_are = rectangle.mask is None and not rectangle.is_causal
    return real_edges(request.graph) if request.has_own_functions and not all_are else None


def rectangle_pair(request: Request) -> Pair:
    """The pairs of the rectangle with the edge data that score and biases read."""
    graph = request.graph
    names = [n for n in request.edge_names if n in graph.edge_data]
    if request.has_own_functions:
        # It may read what it does not name.
        names = [n for n, given in graph.edge_data.items() if given.values is not None]
    data = {name: rectangle_values(graph, name) for name in names}
    return replace(graph.rectangle.pair, edge_data=data, num_heads=request.heads)


def float_mask(request: Request) -> Tensor | None:
    """The mask as what is added to scores: 0 at edges, minus infinity elsewhere."""
    graph = request.graph
    rectangle = graph.rectangle
    if rectangle.mask is None and not rectangle.is_causal:
        return None
    return graph._make(f"mask:{request.dtype}", lambda: _make_float_mask(request))


def _make_float_mask(request: Request) -> Tensor:
    mask = _bool_mask(request.graph)
    assert mask is not None
    zero = torch.zeros((), dtype=request.dtype, device=request.graph.device)
    return torch.where(mask, zero, -torch.inf)


def _bool_mask(graph: TokenGraph) -> Tensor | None:
    rectangle = graph.rectangle
    if rectangle.is_causal:
        return rectangle.pair.distance.squeeze(-1).unsqueeze(1) <= 0
    return rectangle.mask


def _plain_softmax(request: Request) -> bool:
    return (
        request.plain
        and request.normalize == "softmax"
        and request.edge_sum is None
        and not request.return_weights
    )
