"""The one operator: attention over the edges of a token graph, and what it will run on."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graphformer.backends import Attended, Operands, Request, dense
from graphformer.backends.request import innermost, prepare
from graphformer.graph import TokenGraph
from graphformer.planner import Plan, make_plan
from graphformer.refusals import (
    check_graph,
    check_kinds,
    check_made_for,
    check_operands,
    check_prepared,
    check_settings,
)
from graphformer.scores import Bias, BilinearScore, DotProduct, Pointwise, Score

# Plans that a graph keeps of those that nothing but calls asked for: more than a model has.
MOST_UNASKED = 256
_DOT_PRODUCT = DotProduct()


def attend(
    query: Float[Tensor, "query head dim"] | None,
    key: Float[Tensor, "key kv_head dim"] | None,
    value: Float[Tensor, "key kv_head value_dim"],
    graph: TokenGraph,
    score: Score = _DOT_PRODUCT,
    normalize: str = "softmax",
    dropout: float = 0.0,
    edge_sum: str | None = None,
    backend: str | None = None,
    return_weights: bool = False,
) -> Float[Tensor, "query head value_dim"] | Attended:
    """Each query receives the sum of its keys' values, weighted by normalized scores.

    out_i = sum_j a_ij v_j with a_i. = normalize_j f(<q~_i, k~_j> + s_i + t_j + b_ij), where j
    runs over the keys that the graph has for query i. A query without keys gets zero.

    Args:
        query: what the score reads of the queries; None, or left alone, where it reads no query.
        key: what the score reads of the keys; None, or left alone, where it reads no key. There
            may be fewer heads of keys and values than of queries: each then serves several.
        value: what is summed.
        graph: who attends to whom; its tokens are the rows of query, key and value.
        score: how strongly.
        normalize: "softmax", "sum" (weights divided by their sum) or "none".
        dropout: probability with which a weight is set to zero; 0 in evaluation.
        edge_sum: name of edge data whose sum, weighted as the values, is also returned.
        backend: the backend to run on; the planner picks where left out.
        return_weights: also return the weights, after dropout.

    Returns:
        The sums, or `Attended(out, edge_sum, weights)` where an extra is asked for.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit each other or the graph.
    """
    check_kinds(graph, score)
    heads = value.shape[1] if query is None else query.shape[1]
    check_operands(query, key, value, graph, score, heads)
    asked = (normalize, dropout, edge_sum, backend, return_weights)
    operands = prepare(score, query, key, value, graph)
    return attend_prepared(operands, graph, score, heads, *asked)


def attend_prepared(
    operands: Operands,
    graph: TokenGraph,
    score: Score,
    heads: int,
    normalize: str = "softmax",
    dropout: float = 0.0,
    edge_sum: str | None = None,
    backend: str | None = None,
    return_weights: bool = False,
) -> Tensor | Attended:
    """`attend` of a query and key that the score has prepared already, as a cache keeps them."""
    operands, autocast = _cast(operands)
    value = operands.value
    grad = torch.is_grad_enabled()
    dim = value.shape[2] if operands.query is None else operands.query.shape[2]
    kind = score if score.planned_as is None else score.planned_as
    key = _Key(
        kind, _pointwise(score), heads, value.shape[1], dim, value.shape[2], value.dtype,
        normalize, dropout, edge_sum, backend, return_weights, grad,
    )  # fmt: skip
    if type(innermost(score.core)) is not DotProduct:
        check_prepared(operands, graph, heads)
    found = graph.plans.get(key)
    if found is None:
        found = _called_plan(graph, key)
    request = found.request
    if request.graph is not graph or request.score is not score:
        # A graph with other edge data, or a score with other weights, shares plans and indexes.
        request = request.on(graph, score)
        if request.graph.edge_data and not torch.compiler.is_compiling():
            _check_edge_data(request)
    if not graph.queries.num_tokens or not graph.keys.num_tokens:
        attended = _nothing(request, operands)
    elif autocast:
        # What was cast stays so, and float32 terms are not cast again inside.
        with torch.autocast(value.device.type, enabled=False):
            attended = found.backend.run(request, operands)
    else:
        attended = found.backend.run(request, operands)
    return attended if return_weights or edge_sum is not None else attended.out


def plan(
    graph: TokenGraph,
    score: Score | nn.Module = _DOT_PRODUCT,
    heads: int | None = None,
    dim: int = 64,
    dtype: torch.dtype = torch.float32,
    training: bool = False,
    **settings: Any,
) -> Plan | list[Plan]:
    """Fixes backend and indexes of an attention ahead of its first call, as compiled code needs.

    Args:
        graph: the graph.
        score: a score, or a module: then one plan for each `Attention` in it, whose own heads,
            dimensions and score are taken.
        heads: number of heads; left out, those that the score was made for, or one.
        dim: dimension of a head, as the score prepares it.
        dtype: dtype of query, key and value (the autocast dtype under autocast).
        training: whether gradients will be wanted.
        settings: `normalize`, `dropout`, `edge_sum`, `backend`, `return_weights` as in `attend`;
            `kv_heads` and `value_dim` where they differ.

    Returns:
        The plan, or the plans of a module.
    """
    keys = _keys(graph, score, heads, dim, dtype, training, settings)
    plans = [_plan_one(graph, key) for key in keys]
    return plans[0] if isinstance(score, Score) else plans


class Plans(list[Plan]):
    """The plans of a module, or of an `edge_index`; print them.

    Args:
        plans: the plans.
        note: what is not among them, if anything.
    """

    def __init__(self, plans: Iterable[Plan], note: str = "") -> None:
        super().__init__(plans)
        self.note = note

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self), *filter(None, [self.note])])


def explain(
    graph: TokenGraph,
    score: Score | nn.Module = _DOT_PRODUCT,
    heads: int | None = None,
    dim: int = 64,
    dtype: torch.dtype = torch.float32,
    training: bool = False,
    **settings: Any,
) -> Any:
    """What an attention would run on and why, what else there is, edges, FLOPs and bytes.

    Takes what `plan` takes, and measures and prepares nothing.

    Returns:
        The `Plan`, to print; of a module `Plans`, one for each `Attention` in it. The drop-ins of
        `graphformer.nn` plan when they are called: see `graphformer.nn.plans_of` then.
    """
    keys = _keys(graph, score, heads, dim, dtype, training, settings)
    plans = [graph.plans.get(key) or make_plan(_request(graph, key), key.backend) for key in keys]
    return plans[0] if isinstance(score, Score) else Plans(plans, _note(score, plans))


def _note(module: nn.Module, plans: list[Plan]) -> str:
    """What of a module the plans do not tell."""
    notes = [] if plans else ["no Attention in this module"]
    # The drop-ins are above this module: they say by themselves what they know their graphs by.
    for by in ("edge_index", "mask"):
        parts = module.named_modules()
        names = [
            name or "the module" for name, part in parts if getattr(part, "plans_by", "") == by
        ]
        if names:
            notes.append(
                f"drop-ins ({', '.join(names)}) plan when they are called: see "
                f"graphformer.nn.plans_of({by}) then"
            )
    return "; ".join(notes)


class _Key(NamedTuple):
    """What the plans of a graph are found by."""

    score: Score
    pointwise: Pointwise | None
    heads: int
    kv_heads: int
    dim: int
    value_dim: int
    dtype: torch.dtype
    normalize: str
    dropout: float
    edge_sum: str | None
    backend: str | None
    return_weights: bool
    grad: bool


def _pointwise(score: Score) -> Pointwise | None:
    """The function of a finished score, which may be another than when it was planned."""
    core = score.core
    return core.pointwise if isinstance(core, BilinearScore) else None


def _key(
    graph: TokenGraph,
    score: Score,
    heads: int | None,
    dim: int,
    dtype: torch.dtype,
    training: bool,
    **settings: Any,
) -> _Key:
    check_kinds(graph, score)
    if heads is None:
        made_for: list[Any] = [part.heads for part in (score.core, *score.biases)]
        heads = next((number for number in made_for if number is not None), 1)
    if heads < 1 or dim < 1:
        raise ValueError(f"{heads} heads of {dim} are none: write at least 1 of each")
    if not dtype.is_floating_point:
        raise ValueError(f"attention computes in floating point, and dtype is {dtype}")
    check_made_for(heads, score)
    asked: dict[str, Any] = {
        "normalize": "softmax", "dropout": 0.0, "edge_sum": None, "backend": None,
        "return_weights": False, "kv_heads": heads, "value_dim": dim,
    }  # fmt: skip
    for name in settings:
        if name not in asked:
            raise TypeError(f"a plan has no setting {name!r}; known are {', '.join(asked)}")
    asked |= settings
    kind = score if score.planned_as is None else score.planned_as
    if asked["kv_heads"] < 1 or heads % asked["kv_heads"]:
        raise ValueError(
            f"{heads} heads of queries cannot share {asked['kv_heads']} of keys and values evenly: "
            "write a number that divides the first"
        )
    numbers: dict[str, Any] = {"heads": heads, "dim": dim, "dtype": dtype, "grad": training}
    return _Key(score=kind, pointwise=_pointwise(score), **numbers, **asked)


def _keys(
    graph: TokenGraph,
    score: Score | nn.Module,
    heads: int | None,
    dim: int,
    dtype: torch.dtype,
    training: bool,
    settings: dict[str, Any],
) -> list[_Key]:
    """The key of a score, or those of every `Attention` in a module."""
    check_graph(graph)
    if isinstance(score, Score) or not isinstance(score, nn.Module):
        return [_key(graph, score, heads, dim, dtype, training, **settings)]
    modules: list[Any] = [part for part in score.modules() if hasattr(part, "attention_settings")]
    return [
        _key(graph, dtype=dtype, training=training, **module.attention_settings(training))
        for module in modules
    ]


def _called_plan(graph: TokenGraph, key: _Key) -> Plan:
    """The plan of a first call; one of the earliest such is let go where there are many.

    A score that is made anew in each call is another one each time, and would stay for ever.
    """
    made = graph.plans[key] = _new_plan(graph, key)
    graph.unasked.append(key)
    if len(graph.unasked) > MOST_UNASKED:
        graph.plans.pop(graph.unasked.popleft(), None)
    return made


def _plan_one(graph: TokenGraph, key: _Key) -> Plan:
    made = graph.plans.get(key)
    if made is None:
        made = graph.plans[key] = _new_plan(graph, key)
    with suppress(ValueError):
        graph.unasked.remove(key)
    if made.backend is dense and graph.queries.num_tokens and graph.keys.num_tokens:
        dense.prepare_compiled(made.request)
    return made


def _new_plan(graph: TokenGraph, key: _Key) -> Plan:
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "nothing was planned for this graph: compiled code only reads plans; call "
            f"plan(graph, score or model, training={key.grad}, ...) before, for gradients are "
            f"{'on' if key.grad else 'off'}, or the uncompiled model once"
        )
    request = _request(graph, key)
    if torch._C._are_functorch_transforms_active():
        # To plan is to look into tensors, which transforms of functions hide from their own thread.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(_prepared_plan, request, key.backend).result()
    return _prepared_plan(request, key.backend)


def _request(graph: TokenGraph, key: _Key) -> Request:
    check_settings(key.normalize, key.dropout)
    settings = key._asdict()
    del settings["backend"], settings["pointwise"]
    request = Request(graph, **settings)
    _check_edge_data(request)
    request.settle()
    return request


def _prepared_plan(request: Request, backend: str | None) -> Plan:
    graph, made = request.graph, make_plan(request, backend)
    # Compiled code only reads what the graph has made.
    bound, _ = graph.bound, graph.key_side
    if graph.queries.num_tokens and graph.keys.num_tokens:
        made.backend.prepare(request)
    # A plan outlives the edge data of one call, and all that they were computed from: it is kept
    # for the graph that was bound.
    return replace(made, request=request.on(bound))


def _check_edge_data(request: Request) -> None:
    for name in request.edge_names:
        request.graph.edge_values_of(name)
    readers: list[Score | Bias] = [innermost(request.score.core), *request.score.biases]
    for reader in readers:
        if reader.edge_data is None or reader.edge_dim is None:
            continue
        values = request.graph.edge_values_of(reader.edge_data).values
        if values is not None and values.shape[1] != reader.edge_dim:
            raise ValueError(
                f"{reader!r} reads {reader.edge_dim} numbers an edge, edge data "
                f"{reader.edge_data!r} has {values.shape[1]}; give one as many as the other"
            )


def _cast(operands: Operands) -> tuple[Operands, bool]:
    """Operands in one dtype: the autocast dtype where there is one; terms stay as they are."""
    value = operands.value
    autocast = torch.is_autocast_enabled(value.device.type)
    dtype = value.dtype
    if autocast and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(value.device.type)
    query, key = operands.query, operands.key
    if (
        value.dtype == dtype
        and (query is None or query.dtype == dtype)
        and (key is None or key.dtype == dtype)
    ):
        return operands, autocast
    query, key = (None if x is None else x.to(dtype) for x in (query, key))
    return operands._replace(query=query, key=key, value=value.to(dtype)), autocast


def _nothing(request: Request, operands: Operands) -> Attended:
    """The attention of a graph without queries or without keys: zeros."""
    graph, value = request.graph, operands.value
    num_queries = graph.queries.num_tokens
    out = value.new_zeros(num_queries, request.heads, request.value_dim)
    # The sum of nothing of them keeps the result in the autograd graph, with zero gradients.
    tied = [x for x in (operands.query, operands.key, value) if x is not None]
    out = out + sum(x[:0].sum() for x in tied)
    edge_sum = None
    if request.edge_sum is not None:
        edge_dim = graph.edge_values_of(request.edge_sum).known.shape[1]
        edge_sum = value.new_zeros(num_queries, request.heads, edge_dim)
    weights = value.new_zeros(0, request.heads) if request.return_weights else None
    return Attended(out, edge_sum, weights)
