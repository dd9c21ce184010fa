"""The command line: a command is a function, its options are its arguments.

An argument that is a dataclass of settings gives an option for each of its fields, so that
`settings.yaml`, which has the same names, is read back with `--config`. Help is the docstrings'.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from inspect import getdoc, signature
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

# What each command does, and the functions that do it; modules are imported when they are named.
TASKS = "graphformer.tasks"
COMMANDS: dict[str, tuple[str, dict[str, str]]] = {
    "translate": (
        "sequence to sequence: train a translator, translate, score translations",
        {name: f"{TASKS}.translate:{name}" for name in ("fit", "predict", "score")},
    ),
    "nodes": (
        "classify the nodes of a graph: train on some of them, predict the others",
        {name: f"{TASKS}.nodes:{name}" for name in ("fit", "predict")},
    ),
    "compare": (
        "dense against sparse attention: time, memory and what is lost, measured here",
        {"": f"{TASKS}.compare:compare"},
    ),
    "demo": (
        "all three on embedded data, with a report",
        {"": f"{TASKS}.demo:demo"},
    ),
    "info": (
        "versions, device, instruction set, backends, and what is missing",
        {"": f"{TASKS}.info:info"},
    ),
}
DEBUG = "GRAPHFORMER_DEBUG"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name; says what is wrong with them in a line."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        function, given = parse(arguments)
        function(**arguments_of(function, given))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        ours = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("graphformer")
        if ours or os.environ.get(DEBUG):
            raise
        print(f"error: {explained(error)}", file=sys.stderr)
        sys.exit(2)


def parse(arguments: list[str]) -> tuple[Callable[..., Any], Namespace]:
    """The function of the named command, and what is given for its arguments.

    Raises:
        ModuleNotFoundError: a package is missing that the command needs.
    """
    from jsonargparse import ArgumentParser

    named = next((each for each in arguments if each in COMMANDS), None)
    parser = ArgumentParser(
        prog="graphformer", description="Attention is message passing.", usage="%(prog)s COMMAND"
    )
    commands = parser.add_subcommands(metavar="COMMAND")
    functions: dict[str, Callable[..., Any]] = {}
    for name, (summary, actions) in COMMANDS.items():
        # Only what is asked for is imported: the others are listed.
        chosen = actions if name == named else {}
        functions |= {f"{name} {each}".strip(): load(path) for each, path in chosen.items()}
        if "" in actions:
            inner = make_parser(f"graphformer {name}", functions.get(name))
            commands.add_subcommand(name, inner, help=summary)
            continue
        inner = ArgumentParser(description=summary, usage=f"graphformer {name} COMMAND")
        commands.add_subcommand(name, inner, help=summary)
        verbs = inner.add_subcommands(metavar="COMMAND", prog=f"graphformer {name}")
        for verb in chosen:
            function = functions[f"{name} {verb}"]
            verb_parser = make_parser(f"graphformer {name} {verb}", function)
            verbs.add_subcommand(verb, verb_parser, help=first_line(function))
    given = parser.parse_args(arguments)
    name, given = given.subcommand, given[given.subcommand]
    if "" in COMMANDS[name][1]:
        return functions[name], given
    return functions[f"{name} {given.subcommand}"], given[given.subcommand]


def make_parser(name: str, function: Callable[..., Any] | None) -> ArgumentParser:
    """A parser with an option for each argument of the function, or for each of its fields."""
    from jsonargparse import ArgumentParser

    if function is None:
        return ArgumentParser()
    parser = ArgumentParser(description=first_line(function), usage=f"{name} [options]")
    settings = settings_of(function)
    parser.add_argument("--config", action="config", help="settings.yaml of a run, to do it again")
    parser.add_function_arguments(function, skip=set(settings))
    for kind in settings.values():
        parser.add_class_arguments(kind)
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:
            action.nargs, action.const = "?", True  # `--resume` alone means yes
    return parser


def settings_of(function: Callable[..., Any]) -> dict[str, type]:
    """The arguments that are dataclasses of settings, and their types."""
    hints = get_type_hints(function)
    return {
        name: hints[name]
        for name in signature(function).parameters
        if dataclasses.is_dataclass(hints[name])
    }


def arguments_of(function: Callable[..., Any], given: Namespace) -> dict[str, Any]:
    """The arguments to call the function with."""
    settings = settings_of(function)
    built = {
        name: kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})
        for name, kind in settings.items()
    }
    plain = [name for name in signature(function).parameters if name not in settings]
    return built | {name: given[name] for name in plain}


def load(path: str) -> Callable[..., Any]:
    """The function at `package.module:function`."""
    module, name = path.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def first_line(function: Callable[..., Any]) -> str:
    """The first line of the function's docstring."""
    return (getdoc(function) or "").partition("\n")[0]


def explained(error: Exception) -> str:
    """What is wrong and, where a package is missing, how to get it."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed, and this command needs it: pip install " + (
            "'graphformer[all]'"
        )
    return str(error)
