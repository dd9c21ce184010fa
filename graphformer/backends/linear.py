"""Linear attention: products without a softmax may be summed over the keys first.

sum_j <q, k_j> v_j = q (sum_j k_j v_j^T): a matrix for each example and head stands for all of its
keys, or, on causal graphs, for those before a block of queries.

Source: Katharopoulos et al. 2020 (2006.16236), equations 5, 6 and 10 to 12.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from graphformer.backends.calibration import factor
from graphformer.backends.request import Attended, Cost, Operands, Request
from graphformer.backends.windows import power_of_two
from graphformer.graph import TokenGraph
from graphformer.padding import all_heads, from_rectangle, make_slots, to_rectangle

# FLOPs and bytes that two CPU cores compute and move in a second; products are small here.
FLOPS = 5.2e10
BYTES = 2.1e10


def why_not(request: Request) -> str | None:
    """Products alone, summed over complete or causal graphs."""
    graph, topology = request.graph, request.graph.topology
    if request.normalize == "softmax":
        return "a softmax looks at each score: it needs normalize='sum' or 'none'"
    if not request.plain:
        return f"{request.score!r} is more than a product of query and key"
    if request.dropout:
        return "weights are never made, so that none can be dropped"
    if request.edge_sum is not None or request.return_weights:
        return "weights are never made; for extras use dense or reference"
    if graph.repeats or not (topology.is_complete or topology.is_causal):
        return f"it runs complete() and causal() only, not {topology!r}"
    if topology.is_causal and (graph.bipartite or not graph.queries.contiguous):
        return "what is before a query is known only where queries are the keys, in their order"
    return None


def cost(request: Request) -> Cost:
    """A matrix dim x value_dim for each example, or for each block of a causal one."""
    graph, passes = request.graph, 3 if request.grad else 1
    examples, length = graph.queries.num_examples, graph.queries.max_length
    tokens = examples * (length + graph.keys.max_length)
    numbers = request.dim * (request.value_dim + 1)
    flops, held = 2.0 * tokens * numbers, 4.0 * examples * numbers
    if graph.topology.is_causal:
        block = block_size(request.dim, request.value_dim)
        flops += 2.0 * examples * length * block * (request.dim + request.value_dim)
        held += 4.0 * examples * length * (3 * block + 2 * numbers / block)
    flops, held = flops * request.heads * passes, held * request.heads
    moved = 4.0 * tokens * request.heads * (request.dim + request.value_dim) + held
    seconds = (flops / FLOPS + passes * moved / BYTES) * max(request.dtype.itemsize / 4, 1)
    return Cost(flops, held, seconds * factor("linear", request))


def prepare(request: Request) -> None:
    """Makes the slots of padded examples."""
    for heads in {1, request.heads, request.kv_heads}:
        make_slots(request.graph, "query", heads)
        make_slots(request.graph, "key", heads)


def run(request: Request, operands: Operands) -> Attended:
    """Sums keys times values in float32 or float64, and gives every query its share."""
    graph, dtype = request.graph, operands.value.dtype
    operands = operands.scaled()
    precise = torch.promote_types(dtype, torch.float32)
    assert operands.query is not None
    assert operands.key is not None
    query = to_rectangle(operands.query, graph, "query").to(precise)
    key = all_heads(to_rectangle(operands.key, graph, "key").to(precise), request.heads)
    value = all_heads(to_rectangle(operands.value, graph, "key").to(precise), request.heads)
    if request.normalize == "sum":
        # What is summed with weights and is one everywhere is the sum of the weights.
        value = F.pad(value, (0, 1), value=1.0)
    if graph.topology.is_causal:
        out = _causal(query, key, value)
    else:
        out = _complete(graph, query, key, value)
    if request.normalize == "sum":
        norm = out[..., -1:]
        out = out[..., :-1] / torch.where(norm == 0, 1.0, norm)
    if graph.rectangle.empty is not None:
        out = out.masked_fill(graph.rectangle.empty[:, None, :, None], 0.0)
    out = out.to(dtype).expand(-1, request.heads, -1, -1)
    return Attended(from_rectangle(out, graph))


def block_size(dim: int, value_dim: int) -> int:
    """Queries of a block: where their scores and the matrix before them take the same memory."""
    return max(16, power_of_two(round((dim * value_dim) ** 0.5)))


def _complete(
    graph: TokenGraph,
    query: Float[Tensor, "example _ query width"],
    key: Float[Tensor, "example _ key width"],
    value: Float[Tensor, "example _ key value_dim"],
) -> Float[Tensor, "example _ query value_dim"]:
    mask = graph.rectangle.mask
    if mask is not None:
        key = key * mask.transpose(-1, -2)
    return query @ (key.transpose(-1, -2) @ value)


def _causal(
    query: Float[Tensor, "example _ token width"],
    key: Float[Tensor, "example _ token width"],
    value: Float[Tensor, "example _ token value_dim"],
) -> Float[Tensor, "example _ token value_dim"]:
    # Padding comes last in its example, where nobody looks.
    length, block = query.shape[2], block_size(query.shape[3], value.shape[3])
    # One more where the length is a multiple, so that compiled code sees one case, not two.
    blocks = length // block + 1
    query, key, value = (
        F.pad(x.contiguous(), (0, 0, 0, blocks * block - length)).unflatten(2, (blocks, block))
        for x in (query, key, value)
    )
    sums = (key.transpose(-1, -2) @ value).cumsum(2)
    before = F.pad(sums, (0, 0, 0, 0, 1, 0))[:, :, :-1]
    inside = (query @ key.transpose(-1, -2)).tril()
    out = query @ before + inside @ value
    return out.flatten(2, 3)[:, :, :length]
