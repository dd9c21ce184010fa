"""The command line: a command is a function, its options are its arguments."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import getdoc, signature
from io import TextIOWrapper
from typing import Any, NoReturn

import graphformer

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
    "calibrate": (
        "how fast this machine runs each backend, for the planner to choose by",
        {"": f"{TASKS}.calibrate:calibrate"},
    ),
    "info": (
        "versions, device, instruction set, backends, and what is missing",
        {"": f"{TASKS}.info:info"},
    ),
}
HELP = ("-h", "--help")
VERSION = "--version"
DEBUG = "GRAPHFORMER_DEBUG"
# As shells say of a command that SIGINT, or SIGPIPE, has ended.
INTERRUPTED, UNHEARD = 130, 141


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name; says what is wrong with them in a line."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        # A letter that a terminal cannot show must not end a run.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings_in_a_line():
            run(arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Who read the output wants no more; what is still to be written must not fail once more.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(UNHEARD)
    except (ValueError, OSError, ModuleNotFoundError, MemoryError, RuntimeError) as error:
        if not is_expected(error) or os.environ.get(DEBUG):
            raise
        print(f"error: {explained(error)}", file=sys.stderr)
        sys.exit(2)


def run(arguments: list[str]) -> None:
    """Runs the command, or shows help for it.

    Raises:
        ValueError: there is no such command or option, or a value makes no sense; in the words of
            the command line.
        ModuleNotFoundError: a package is missing that the command needs.
    """
    if arguments and arguments[0] in HELP:
        rows = {name: summary for name, (summary, _) in COMMANDS.items()}
        show(listing("graphformer", rows | {VERSION: "which graphformer this is"}))
    if arguments and arguments[0] == VERSION:
        show(f"graphformer {graphformer.__version__}")
    name, *others = [choose("graphformer", arguments, COMMANDS), *arguments[1:]]
    actions = COMMANDS[name][1]
    command, path = f"graphformer {name}", actions.get("")
    if path is None:
        if others and others[0] in HELP:
            show(listing(command, {verb: first_line(load(at)) for verb, at in actions.items()}))
        verb, *others = [choose(command, others, actions), *others[1:]]
        command, path = f"{command} {verb}", actions[verb]
    function = load(path)
    if signature(function).parameters:
        call(function, command, others)
    elif others and others[0] in HELP:
        show(f"usage: {command}\n\n{first_line(function)}")
    elif others:
        raise ValueError(f"{command} has no options, and it got {others[0]}")
    else:
        function()


def choose(command: str, words: Sequence[str], known: Iterable[str]) -> str:
    """The first of the words, which is one of those known.

    Raises:
        ValueError: it is not, or there is none.
    """
    if not words:
        raise ValueError(f"what is {command} to do? Write one of: {', '.join(known)}")
    if words[0] not in known:
        raise ValueError(f"{command} knows no {words[0]!r}: write one of: {', '.join(known)}")
    return words[0]


def call(function: Callable[..., Any], command: str, words: list[str]) -> None:
    """Calls the function with the options that the words give."""
    # Imported late: the commands without options need none of the packages for them.
    from graphformer.options import arguments_of, as_options, make_parser, names_of, parse

    given = parse(make_parser(command, function), function, words)
    try:
        function(**arguments_of(function, given))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(as_options(str(error), names_of(function))) from error


def show(text: str) -> NoReturn:
    """Prints the help that was asked for, and ends."""
    print(text)
    sys.exit(0)


def listing(command: str, rows: dict[str, str]) -> str:
    """Help for a word that others follow."""
    width = max(map(len, rows))
    lines = [f"  {name.ljust(width)}  {summary}" for name, summary in rows.items()]
    head = [f"usage: {command} COMMAND [options]", "", f"{command} COMMAND --help has the options."]
    return "\n".join([*head, "", *lines])


def load(path: str) -> Callable[..., Any]:
    """The function at `package.module:function`."""
    module, name = path.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def first_line(function: Callable[..., Any]) -> str:
    """The first line of the function's docstring."""
    return (getdoc(function) or "").partition("\n")[0]


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """A warning is its message alone, as an error is, in the block."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def is_expected(error: Exception) -> bool:
    """Whether a line explains the error, which is then none of the program's own."""
    if isinstance(error, ModuleNotFoundError):
        return not str(error.name).startswith("graphformer")
    return not isinstance(error, RuntimeError) or lacks_memory(error)


def lacks_memory(error: Exception) -> bool:
    """Whether there was too little memory, which torch has no error of its own for on a CPU."""
    return isinstance(error, MemoryError) or "memory" in str(error)


def explained(error: Exception) -> str:
    """What is wrong and, where a package is missing, how to get it."""
    if isinstance(error, MemoryError | RuntimeError):
        first, *_ = str(error).splitlines() or [""]
        return f"there is too little memory, write smaller sizes: {first}"
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed, and this command needs it: pip install " + (
            "'graphformer[all]'"
        )
    return str(error)
