"""The kernels as operators of torch, and what is differentiable of them.

An `autograd.Function` around operators, since `register_autograd` costs about 25 microseconds a
call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graphformer.backends import kernels
from graphformer.columns import cut, has_whole_rows, side_by_side
from graphformer.scores.score import misshapen

_SETTINGS = (
    "int heads, int pointwise, int pair, int normalize, float scale, float constant, float dropout"
)
_GIVEN = ", ".join(f"Tensor? {name}" for name in kernels.INPUTS)
_EDGES = ", ".join(f"Tensor {name}" for name in kernels.EDGES)
_INPUTS = f"{_GIVEN}, {_EDGES}, Tensor? seed, {_SETTINGS}, bool weighs, bool exact"
_OUTPUTS = ", ".join(f"Tensor {name}" for name in kernels.OUTPUTS)
_OUTSIDE = "Tensor? grad_out, Tensor? grad_edge_sum, Tensor? grad_weights"
# What the kernels read, and write the gradients of, row by row, with other things between rows.
ROWS = ("query", "key", "value")
NUM_INPUTS = len(kernels.INPUTS)
NUM_OUTPUTS = len(kernels.OUTPUTS)
NUM_SETTINGS = 9
NUM_ARGUMENTS = NUM_INPUTS + len(kernels.EDGES) + 1 + NUM_SETTINGS

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

LIBRARY = torch.library.Library("graphformer", "DEF")
LIBRARY.define(f"sparse_forward({_INPUTS}) -> ({', '.join(['Tensor'] * NUM_OUTPUTS)})")
LIBRARY.define(f"sparse_backward({_INPUTS}, {_OUTPUTS}, {_OUTSIDE}, bool[] wanted) -> Tensor[]")


class Arguments(NamedTuple):
    """What both operators are given, in the order of their schema; None where a part is absent.

    Query, key and value have one dtype and all heads. The other numbers are float64 where that is,
    float32 elsewhere. All that is given for edges stands in their order by query.

    Attributes:
        ptr: offsets of the edges of each query.
        key_of: the keys of these edges.
        key_ptr: offsets of the edges of each key.
        query_of: the queries of these.
        place: where each of these is among those by query, in rising order for a key.
        seed: what dropout draws from, an integer in a tensor; None without dropout.
        pointwise: 0 for none, 1 for LeakyReLU, 2 for SoftCap.
        pair: 0 for products, 1 for GATv2's pairwise score, 2 for Bahdanau's.
        normalize: index in `kernels.NORMALIZE`.
        scale: what multiplies the product of query and key.
        constant: slope or cap of the function.
        weighs: whether weights [edge, head] are wanted; always where only scores are.
        exact: whether what `out` was rounded by is kept for a backward.
    """

    query: Tensor | None
    key: Tensor | None
    value: Tensor | None
    query_term: Tensor | None
    key_term: Tensor | None
    bias: Tensor | None
    edge_query: Tensor | None
    edge_data: Tensor | None
    sum_data: Tensor | None
    pair_weight: Tensor | None
    pair_map: Tensor | None
    pair_data: Tensor | None
    ptr: Tensor
    key_of: Tensor
    key_ptr: Tensor
    query_of: Tensor
    place: Tensor
    seed: Tensor | None
    heads: int
    pointwise: int
    pair: int
    normalize: int
    scale: float
    constant: float
    dropout: float
    weighs: bool
    exact: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of query, key and value, and of what is summed."""
        for x in (self.value, self.query, self.key):
            if x is not None:
                return x.dtype
        return self.precision

    @property
    def precision(self) -> torch.dtype:
        """Of all other numbers."""
        for x in (self.value, self.query, self.key):
            if x is not None:
                return torch.promote_types(x.dtype, torch.float32)
        parts = (self.query_term, self.key_term, self.bias, self.edge_query)
        return next((x.dtype for x in parts if x is not None), torch.float32)


def sparse_attention(arguments: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of values, sums of edge data and weights, differentiable; empty where not wanted."""
    given: tuple[Any, ...] = arguments
    if torch.compiler.is_compiling():
        given = _told_apart(given)
    out, edge_sum, weights, *_ = _Attention.apply(*given)
    return out, edge_sum, weights


def _told_apart(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same, but no tensor twice, which the compiler does not take."""
    found: list[Any] = []
    for x in given:
        twice = isinstance(x, Tensor) and any(x is other for other in found)
        found.append(x.view_as(x) if twice else x)
    return tuple(found)


def _forward(*arguments: Any) -> Outputs:
    given = _contiguous(Arguments(*arguments))
    _check(given)
    outputs = _make_outputs(given)
    written = {
        name: kernels.expect_writes(tensor) if tensor.numel() else None
        for name, tensor in zip(kernels.OUTPUTS, outputs, strict=True)
    }
    kernels.call("forward", _numbers(given), {**_tensors(given), **written})
    return outputs


def _backward(*arguments: Any) -> list[Tensor]:
    return _run_backward(arguments, _make_gradients)


def _run_backward(
    arguments: tuple[Any, ...], make: Callable[[Arguments, list[bool]], list[Tensor]]
) -> list[Tensor]:
    given = _contiguous(Arguments(*arguments[:NUM_ARGUMENTS]))
    outputs = arguments[NUM_ARGUMENTS : NUM_ARGUMENTS + NUM_OUTPUTS]
    outside = [None if x is None else x.contiguous() for x in arguments[-4:-1]]
    gradients = make(given, arguments[-1])
    tensors = _tensors(given)
    for name, tensor in zip(kernels.OUTPUTS, outputs, strict=True):
        tensors[name] = tensor if tensor.numel() else None
    # What is not asked for must not be read as if it had been.
    tensors["edge_sum"] = tensors["edge_sum"] if outside[1] is not None else None
    tensors["weights"] = tensors["weights"] if outside[2] is not None else None
    tensors |= dict(zip(("grad_out", "grad_edge_sum", "grad_weights"), outside, strict=True))
    for name, tensor in zip(kernels.GRADIENTS, gradients, strict=True):
        tensors[name] = kernels.expect_writes(tensor) if tensor.numel() else None
    numbers = _numbers(given)
    for name, tensor in zip(ROWS, gradients, strict=False):
        numbers[f"grad_{name}_stride"] = tensor.stride(0)
    kernels.call("backward", numbers, tensors)
    return gradients


def _check(given: Arguments) -> None:
    """Raises an error where a tensor is not what the kernels will read: they look at no shape."""
    queries, keys = given.ptr.shape[0] - 1, given.key_ptr.shape[0] - 1
    edges, heads = given.key_of.shape[0], given.heads
    dim = _dim(given)
    value_dim = 0 if given.value is None else given.value.shape[2]
    edge_dim = 0 if given.edge_data is None else given.edge_data.shape[1]
    sum_dim = 0 if given.sum_data is None else given.sum_data.shape[1]
    pair_dim = heads * dim if given.pair_map is None else given.pair_map.shape[0]
    bias_heads = heads if given.bias is None or given.bias.shape[1] != 1 else 1
    wanted = (
        (queries, heads, dim), (keys, heads, dim), (keys, heads, value_dim), (queries, heads),
        (keys, heads), (edges, bias_heads), (queries, heads, edge_dim), (edges, edge_dim),
        (edges, sum_dim), (heads, dim), (pair_dim, heads * dim), (edges, pair_dim),
    )  # fmt: skip
    parts: tuple[Any, ...] = given[:NUM_INPUTS]
    for name in ("ptr", "key_of", "key_ptr", "query_of", "place"):
        indexes = getattr(given, name)
        if indexes.dtype != torch.int32 or not indexes.is_contiguous():
            raise ValueError(f"{name} is {indexes.dtype}: make it contiguous int32")
        if indexes.device != given.ptr.device:
            raise ValueError(f"{name} is on {indexes.device}, ptr on {given.ptr.device}")
    for name, part, shape in zip(kernels.INPUTS, parts, wanted, strict=True):
        if part is None:
            continue
        words = name.replace("_", " ")
        dtype = given.dtype if name in ("query", "key", "value") else given.precision
        if part.dtype != dtype:
            raise ValueError(f"the score's {words} is {part.dtype}, not {dtype}")
        if part.device != given.ptr.device:
            raise ValueError(
                f"the score's {words} is on {part.device}, and the graph on {given.ptr.device}: "
                "move both to one device"
            )
        if part.shape != shape:
            raise ValueError(misshapen(words, part, shape, heads))


def _dim(given: Arguments) -> int:
    product = given.query if given.query is not None else given.key
    return 0 if product is None else product.shape[2]


def _make_outputs(given: Arguments) -> Outputs:
    num_queries, num_edges = given.ptr.shape[0] - 1, given.key_of.shape[0]
    heads, device = given.heads, given.ptr.device

    def empty(*size: int | torch.SymInt, dtype: torch.dtype = given.precision) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    out, edge_sum = empty(0), empty(0)
    if given.value is not None:
        out = empty(num_queries, heads, given.value.shape[2], dtype=given.dtype)
    if given.sum_data is not None:
        edge_sum = empty(num_queries, heads, given.sum_data.shape[1])
    weights = empty(num_edges, heads) if given.weighs else empty(0)
    stat = empty(num_queries, heads) if given.normalize < 2 else empty(0)
    rest = torch.empty_like(out) if given.exact else empty(0, dtype=given.dtype)
    return out, edge_sum, weights, stat, rest


def _make_gradients(given: Arguments, wanted: list[bool]) -> list[Tensor]:
    parts: tuple[Any, ...] = given[:NUM_INPUTS]
    return [
        torch.empty_like(x, memory_format=torch.contiguous_format)
        if x is not None and wants
        else torch.empty(0, dtype=given.precision, device=given.ptr.device)
        for x, wants in zip(parts, wanted, strict=True)
    ]


def _make_joined_gradients(given: Arguments, wanted: list[bool]) -> list[Tensor]:
    """The same, but columns of one tensor where query, key and value are."""
    parts: Any = given[: len(ROWS)]
    whole = side_by_side(parts) if all(wanted[: len(ROWS)]) else None
    if whole is None:
        return _make_gradients(given, wanted)
    columns = cut(kernels.expect_writes(whole.new_empty(whole.shape)), parts)
    others = _make_gradients(given, [False] * len(ROWS) + wanted[len(ROWS) :])
    return columns + others[len(ROWS) :]


def _contiguous(given: Arguments) -> Arguments:
    found: dict[str, Any] = dict(zip(kernels.INPUTS, given, strict=False))
    return given._replace(
        **{
            name: x if name in ROWS and has_whole_rows(x) else x.contiguous()
            for name, x in found.items()
            if x is not None
        }
    )


def _tensors(given: Arguments) -> dict[str, Tensor | None]:
    names = (*kernels.INPUTS, *kernels.EDGES)
    parts: tuple[Any, ...] = given
    return dict(zip(names, parts[: len(names)], strict=True))


def _numbers(given: Arguments) -> dict[str, Any]:
    return {
        "num_queries": given.ptr.shape[0] - 1,
        "num_keys": given.key_ptr.shape[0] - 1,
        "num_edges": given.key_of.shape[0],
        "heads": given.heads,
        "dim": _dim(given),
        "value_dim": 0 if given.value is None else given.value.shape[2],
        "edge_dim": 0 if given.edge_data is None else given.edge_data.shape[1],
        "sum_dim": 0 if given.sum_data is None else given.sum_data.shape[1],
        "bias_heads": 0 if given.bias is None else given.bias.shape[1],
        "pair_dim": 0 if given.pair_map is None else given.pair_map.shape[0],
        "dtype": kernels.DTYPES[given.dtype],
        "pointwise": given.pointwise,
        "pair": given.pair,
        "normalize": given.normalize,
        "scale": given.scale,
        "constant": given.constant,
        "dropout": given.dropout,
        "seed": 0 if given.seed is None else int(given.seed),
        "query_stride": 0 if given.query is None else given.query.stride(0),
        "key_stride": 0 if given.key is None else given.key.stride(0),
        "value_stride": 0 if given.value is None else given.value.stride(0),
    }


LIBRARY.impl("sparse_forward", _forward, "CPU")
LIBRARY.impl("sparse_backward", _backward, "CPU")


@torch.library.register_fake("graphformer::sparse_forward", lib=LIBRARY)
def _fake_forward(*arguments: Any) -> Outputs:
    return _make_outputs(Arguments(*arguments))


@torch.library.register_fake("graphformer::sparse_backward", lib=LIBRARY)
def _fake_backward(*arguments: Any) -> list[Tensor]:
    return _make_gradients(Arguments(*arguments[:NUM_ARGUMENTS]), arguments[-1])


def is_unseen(given: tuple[Any, ...]) -> bool:
    """Whether nobody looks at torch's operators, so that the kernels may be called without one.

    One takes about 50 microseconds a call, and may not give columns of one tensor.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and all(type(x) in (Tensor, nn.Parameter) for x in given if isinstance(x, Tensor))
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Outputs:
        run = _forward if is_unseen(arguments) else torch.ops.graphformer.sparse_forward
        outputs: Outputs = run(*arguments)
        ctx.save_for_backward(*arguments[:-NUM_SETTINGS], *outputs)
        ctx.settings = arguments[-NUM_SETTINGS:]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*outputs[3:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "the sparse backend has no double backward; write attend(..., "
                "backend='reference'), and in place of a drop-in keep PyG's layer"
            )
        saved = ctx.saved_tensors
        outputs, tensors = saved[-NUM_OUTPUTS:], saved[:-NUM_OUTPUTS]
        wanted = list(ctx.needs_input_grad[:NUM_INPUTS])
        outside = [
            grad if part.numel() else None for grad, part in zip(grads, outputs, strict=True)
        ]
        if not any(grad is not None for grad in outside):
            return (None,) * NUM_ARGUMENTS  # what follows is no function of the outputs
        if outside[0] is None and outputs[0].numel():
            outside[0] = torch.zeros_like(outputs[0])
        given = *tensors, *ctx.settings, *outputs, *outside[:3], wanted
        if is_unseen(tensors):
            gradients = _run_backward(given, _make_joined_gradients)
        else:
            gradients = torch.ops.graphformer.sparse_backward(*given)
        found = [
            gradient if wants else None for gradient, wants in zip(gradients, wanted, strict=True)
        ]
        return (*found, *[None] * (NUM_ARGUMENTS - NUM_INPUTS))
