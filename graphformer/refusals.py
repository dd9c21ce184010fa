"""What the operator refuses before any work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphformer.backends import Operands
from graphformer.graph import TokenGraph
from graphformer.scores import Score
from graphformer.scores.score import misshapen
from graphformer.topology import Topology

NORMALIZERS = ("softmax", "sum", "none")


def check_operands(
    query: Tensor | None,
    key: Tensor | None,
    value: Tensor,
    graph: TokenGraph,
    score: Score,
    heads: int,
) -> None:
    """Raises what is wrong before any work; in the common case a handful of comparisons."""
    if not value.is_floating_point():
        raise ValueError(f"value is {value.dtype}; attention needs floating point: value.float()")
    if query is not None:
        _check_operand("query", query, graph.queries.num_tokens, value)
    if key is not None:
        _check_operand("key", key, graph.keys.num_tokens, value)
    _check_operand("value", value, graph.keys.num_tokens, value)
    if value.device != graph.device:
        raise ValueError(
            f"value is on {value.device}, the graph on {graph.device}; move it with "
            "graph.to(device)"
        )
    for name in score.reads:
        if (query if name == "query" else key) is None:
            raise ValueError(f"{score!r} reads the {name}, which is None; pass a tensor")
    if query is not None and key is not None and query.shape[2] != key.shape[2]:
        raise ValueError(
            f"query has {query.shape[2]} numbers a head, key {key.shape[2]}; project both to one "
            "dimension"
        )
    _check_heads(heads, key, value, score)


def check_prepared(operands: Operands, graph: TokenGraph, heads: int) -> None:
    """Raises an error where a score has made of query and key what no backend could multiply.

    Kernels would read past the end of what is too small.
    """
    query, key, value, query_term, key_term, edge_query, _ = operands
    queries, keys, kv_heads = graph.queries.num_tokens, graph.keys.num_tokens, value.shape[1]
    product = query if query is not None else key
    dim = () if product is None else product.shape[2:3]
    edge_dim = () if edge_query is None else edge_query.shape[2:3]
    for name, part, wanted in (
        ("query", query, (queries, heads, *dim)),
        ("key", key, (keys, kv_heads, *dim)),
        ("query term", query_term, (queries, heads)),
        ("key term", key_term, (keys, kv_heads)),
        ("edge query", edge_query, (queries, heads, *edge_dim)),
    ):
        if part is None or part.shape == wanted:
            continue
        fits = part.dim() == len(wanted) and part.shape[1] in (1, wanted[1], heads)
        if not fits or (part.shape[0], *part.shape[2:]) != (wanted[0], *wanted[2:]):
            raise ValueError(misshapen(name, part, wanted, heads))


def check_settings(normalize: str, dropout: float) -> None:
    """Raises an error where weights can be neither normalized nor dropped so."""
    if normalize not in NORMALIZERS:
        raise ValueError(f"unknown normalize={normalize!r}; known are {', '.join(NORMALIZERS)}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is a probability below 1, it is {dropout}")


def check_kinds(graph: TokenGraph, score: Score) -> None:
    """Raises an error where the one is no bound graph, or the other no score."""
    check_graph(graph)
    if not isinstance(score, Score):
        raise TypeError(
            f"attention needs a score, it got {_shown(score)}; write DotProduct(), or read a text "
            "with Score.parse(...)"
        )


def check_graph(graph: TokenGraph) -> None:
    """Raises an error where it is no bound graph."""
    if isinstance(graph, TokenGraph):
        return
    given: Any = graph
    remedy = "bind a topology to tokens: complete().bind(tokens)"
    if isinstance(given, nn.Module):
        remedy = "the graph comes first, score or model follow"
    elif isinstance(given, Tensor):
        remedy = "bind edges to tokens: edges(edge_index).bind(tokens)"
    raise TypeError(f"attention needs a TokenGraph, it got {_shown(given)}; {remedy}")


def _shown(given: Any) -> str:
    """What was given, without all its numbers or parts."""
    if isinstance(given, Tensor):
        return f"a tensor of shape {list(given.shape)}"
    if isinstance(given, Topology | Score | str | type):
        return repr(given)
    return (
        f"the module {type(given).__name__}"
        if isinstance(given, nn.Module)
        else (f"a {type(given).__name__}")
    )


def _check_operand(name: str, x: Tensor, num_tokens: int, value: Tensor) -> None:
    if x.dim() != 3:
        raise ValueError(
            f"{name} has shape {list(x.shape)}; it must be [token, head, dim]: write "
            f"{name}.unflatten(-1, (heads, dim))"
        )
    if x.shape[0] != num_tokens:
        raise ValueError(
            f"{name} has {x.shape[0]} tokens, the graph was bound to {num_tokens}; bind the "
            "topology to these tokens"
        )
    if x.dtype != value.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"{name} is {x.dtype}, value is {value.dtype}; cast them to one dtype, or run under "
            "torch.autocast"
        )
    if x.device != value.device:
        raise ValueError(
            f"{name} is on {x.device}, value on {value.device}; move both to one device"
        )


def _check_heads(heads: int, key: Tensor | None, value: Tensor, score: Score) -> None:
    if key is not None and key.shape[1] != value.shape[1]:
        raise ValueError(
            f"key has {key.shape[1]} heads, value {value.shape[1]}; project both to as many"
        )
    if not value.shape[1] or not value.shape[2]:
        raise ValueError(
            f"value has {value.shape[1]} heads of {value.shape[2]} numbers; it must be "
            "[token, head, dim] with at least one of each"
        )
    if key is not None and not key.shape[2]:
        raise ValueError("key has no numbers; it must be [token, head, dim] with dim at least 1")
    if heads % value.shape[1]:
        raise ValueError(
            f"{heads} query heads cannot share {value.shape[1]} heads of keys and values evenly; "
            "make one a multiple of the other"
        )
    check_made_for(heads, score)


def check_made_for(heads: int, score: Score) -> None:
    """Raises an error where the score, or a bias, was made for another number of heads."""
    for part in (score.core, *score.biases):
        if part.heads is not None and part.heads != heads:
            raise ValueError(
                f"{part!r} was made for {part.heads} heads, query and value have {heads}; make it "
                f"with heads={heads}"
            )
