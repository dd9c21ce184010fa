"""Topologies as text: what `repr` writes, `parse` reads."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

from graphformer.topology.algebra import Topology
from graphformer.topology.band import Band, causal, complete, self_loops, strided, window
from graphformer.topology.block import global_tokens
from graphformer.topology.edge_list import edges
from graphformer.topology.lattice import grid
from graphformer.topology.operators import Difference, Intersection, Joined, Union
from graphformer.topology.paths import hops
from graphformer.topology.powers import log_sparse
from graphformer.topology.random_regular import expander

KNOWN: dict[str, Callable[..., Topology]] = {
    "complete": complete,
    "causal": causal,
    "window": window,
    "strided": strided,
    "log_sparse": log_sparse,
    "global_tokens": global_tokens,
    "self_loops": self_loops,
    "grid": grid,
    "expander": expander,
    "edges": edges,
    "hops": hops,
    "Band": Band,
}
HOLD_DATA = {
    "nearest": "features",
    "where": "a function",
    "from_networkx": "a graph",
    "Edges": "edges",
}
OPERATORS: dict[type[ast.operator], Callable[[Topology, Topology], Joined]] = {
    ast.BitOr: Union,
    ast.BitAnd: Intersection,
    ast.Sub: Difference,
}


def parse(text: str) -> Topology:
    """The topology that `text` writes. See `Topology.parse`."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        where = f" at column {error.offset}" if isinstance(error, SyntaxError) else ""
        raise ValueError(
            f"cannot read the topology {text!r}{where}: write it as in Python, such as "
            "'window(8) | global_tokens(1)'"
        ) from None
    return _topology(tree, text)


def _topology(node: ast.expr, text: str) -> Topology:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_topology(node.left, text), _topology(node.right, text))
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return _topology(node.value, text).T
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call(node.func.id, node, text)
    if isinstance(node, ast.Name) and (node.id in KNOWN or node.id in HOLD_DATA):
        raise ValueError(f"in the topology {text!r}, {node.id} is a function: write {node.id}(...)")
    if isinstance(node, ast.Name):
        raise _unknown(node.id, text)
    raise ValueError(
        f"cannot read {ast.unparse(node)!r} in the topology {text!r}: it is written with the names "
        "of topologies, calls with numbers and strings, the operators | & - and .T"
    )


def _call(name: str, node: ast.Call, text: str) -> Topology:
    if name in HOLD_DATA:
        raise _holds_data(f"{name}()", HOLD_DATA[name], text)
    if name not in KNOWN:
        raise _unknown(name, text)
    function = KNOWN[name]
    arguments = [_literal(argument, text) for argument in node.args]
    named = {word.arg or "**": _literal(word.value, text) for word in node.keywords}
    if function in (edges, hops) and ... in (*arguments, *named.values()):
        raise _holds_data(f"{name}(...)", "edges", text)
    try:
        bound = inspect.signature(function).bind(*arguments, **named)
        return function(*bound.args, **bound.kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"in the topology {text!r}, {name}: {error}") from None


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ValueError(
            f"in the topology {text!r}, the argument {ast.unparse(node)!r} is no number, string or "
            "tuple of them: write it out"
        ) from None


def _unknown(name: str, text: str) -> ValueError:
    # A band is what other names stand for, and is written out only where none of them does.
    known = ", ".join(each for each in KNOWN if each != "Band")
    return ValueError(f"unknown name {name!r} in the topology {text!r}; known are {known}")


def _holds_data(name: str, what: str, text: str) -> ValueError:
    return ValueError(
        f"cannot read {name} in the topology {text!r}: it holds {what}, which text cannot; write "
        'edges("name"), and bring the edges of each batch to bind(tokens, name=EdgeValues(...))'
    )
