"""Scores as text: `write` gives the constructor call that `read` reads back."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from torch import Tensor, nn

from graphformer.scores.score import Bias, Biased, Score


def write(module: nn.Module) -> str:
    """The constructor call that makes `module`; what it cannot write is `...`."""
    if isinstance(module, Biased):
        return " + ".join(write(part) for part in (module.core, *module.biases))
    arguments = []
    for parameter in inspect.signature(type(module)).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = getattr(module, parameter.name, ...)
        if value is parameter.default or (
            not isinstance(value, Tensor | nn.Module) and value == parameter.default
        ):
            continue
        required = parameter.default is inspect.Parameter.empty
        # `Score.heads` is None where a subclass keeps its argument to itself.
        text = "..." if required and value is None else _literal(value)
        arguments.append(text if required else f"{parameter.name}={text}")
    return f"{type(module).__name__}({', '.join(arguments)})"


def read(text: str) -> Score:
    """The score that `text` writes. See `Score.parse`."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(
            f"cannot read the score {text!r}: {error.msg} at column {error.offset}; "
            "write it as in Python, such as 'DotProduct() + ALiBi(8)'"
        ) from None
    result = _read_node(tree, text)
    if not isinstance(result, Score):
        raise ValueError(
            f"{text!r} is no score; write a score, such as 'DotProduct()', and add biases to it: "
            "'DotProduct() + ALiBi(8)'"
        )
    return result


def _read_node(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _read_node(node.left, text), _read_node(node.right, text)
        if not isinstance(left, Score) or not isinstance(right, Bias):
            raise ValueError(f"in {text!r}, '+' takes a score on its left and a bias on its right")
        return left + right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        known = _known()
        if node.func.id not in known:
            raise ValueError(
                f"unknown name {node.func.id!r} in the score {text!r}; known are "
                f"{', '.join(sorted(known))}"
            )
        positional = [_read_node(argument, text) for argument in node.args]
        named = {word.arg: _read_node(word.value, text) for word in node.keywords if word.arg}
        try:
            return known[node.func.id](*positional, **named)
        except (TypeError, ValueError) as error:
            raise ValueError(f"in the score {text!r}: {error}") from None
    if isinstance(node, ast.Constant) and node.value is ...:
        raise ValueError(
            f"cannot read ... in the score {text!r}: it stands for what text cannot hold, such as "
            "weights; give the score itself"
        )
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(
            f"cannot read {ast.unparse(node)!r} in the score {text!r}; a score is written with "
            "the names of scores and biases, calls, numbers, strings and '+'"
        ) from None


def _literal(value: Any) -> str:
    if isinstance(value, Score | Bias):
        return write(value)
    if isinstance(value, bool | int | float | str | None | tuple):
        return repr(value)
    return "..."


def _known() -> dict[str, type]:
    import graphformer.scores as scores

    members = vars(scores).values()
    return {
        member.__name__: member
        for member in members
        if inspect.isclass(member)
        and issubclass(member, Score | Bias)
        and not inspect.isabstract(member)
        and member.__module__ != Score.__module__
    }
