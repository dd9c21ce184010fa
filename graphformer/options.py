"""The options of a command: one for each argument of a function, or for each of its settings.

An argument that is a dataclass of settings gives an option for each of its fields, so that
`settings.yaml`, which has the same names, is read back with `--config`. Help is the docstrings'.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable
from inspect import signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from graphformer.cli import first_line

# How each type is written on the command line.
WRITTEN: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    list[int]: 'whole numbers in brackets, such as "[64, 128]"',
    list[float]: 'numbers in brackets, such as "[0.1, 0.5]"',
    list[str]: 'texts in brackets, such as \'["one", "two"]\'',
}


class Options(ArgumentParser):
    """A parser that says in a line what is wrong, in the words of the command line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises `message`, reworded.

        Raises:
            ValueError: always.
        """
        raise ValueError(self._reworded(message)) from ex

    def _reworded(self, message: str) -> str:
        name, _, details = message.partition(": ")
        if name == "the following arguments are required":
            return f"{' and '.join(map(option, details.split(', ')))} must be given"
        if name == "unrecognized arguments":
            return self._unknown(details)
        if (found := re.match(r"argument (--\w+): expected", message)) is not None:
            return f"{found[1]} needs a value: write {self._how(found[1])}"
        if (found := re.match(r'Parser key "([\w.]+)"', message)) is not None:
            return self._refused(found[1], message)
        if (found := re.match(r"Option '([\w.]+)' is not accepted", message)) is not None:
            return self._unknown(option(found[1]))
        return " ".join(message.split())

    def _refused(self, name: str, message: str) -> str:
        value = re.search(r"(?:Got value|Given value): (.*)", message)
        how = self._how(option(name))
        if value is None or not how:
            return f"{option(name)}: {' '.join(message.partition(':')[2].split())}"
        return f"{option(name)} is {value[1]!r}: write {how}"

    def _how(self, name: str) -> str:
        action = next((each for each in self._actions if name in each.option_strings), None)
        return written(getattr(action, "_typehint", None))

    def _unknown(self, words: str) -> str:
        word = words.split()[0]
        if not word.startswith("--"):
            return f"{word!r} belongs to no option: an option is written --name value"
        name = word.partition("=")[0]
        known = [each for action in self._actions for each in action.option_strings]
        near = [each for each in known if each.startswith(name)]
        near = near or difflib.get_close_matches(name, known, 1, 0.7)
        meant = f"did you mean {' or '.join(near)}?" if near else "--help lists those there are"
        return f"there is no option {name}: {meant}"


def option(name: str) -> str:
    """The option of an argument."""
    return f"--{name}"


def written(kind: object) -> str:
    """How a value of this type is written on the command line."""
    if get_origin(kind) is Literal:
        return alternatives(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        parts = [each for each in get_args(kind) if each is not NoneType]
        return alternatives(filter(None, map(written, parts)))
    return WRITTEN.get(kind, "")


def alternatives(words: Iterable[str]) -> str:
    """The words, with commas and an or."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def make_parser(name: str, function: Callable[..., Any]) -> Options:
    """A parser with an option for each argument of the function, or for each of its fields."""
    parser = Options(
        prog=name, description=first_line(function), usage=f"{name} [options]", allow_abbrev=False
    )
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


def names_of(function: Callable[..., Any]) -> list[str]:
    """The names of all options of the function."""
    settings = settings_of(function)
    plain = [name for name in signature(function).parameters if name not in settings]
    fields = [field.name for kind in settings.values() for field in dataclasses.fields(kind)]
    return plain + fields


def arguments_of(function: Callable[..., Any], given: Namespace) -> dict[str, Any]:
    """The arguments to call the function with."""
    settings = settings_of(function)
    built = {
        name: kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})
        for name, kind in settings.items()
    }
    plain = [name for name in signature(function).parameters if name not in settings]
    return built | {name: given[name] for name in plain}


def as_options(message: str, names: Iterable[str]) -> str:
    """A message in which arguments are called as the options are that one has typed.

    Only where a word can be nothing else: in front of the sentence, in brackets, with its value,
    or with an underscore in it.
    """
    for name in sorted(names, key=len, reverse=True):
        message = re.sub(rf"(?<![\w\-./'\"]){name}=True\b", f"--{name}", message)
        message = re.sub(rf"(?<![\w\-./'\"]){name}=None\b", f"--{name} null", message)
        message = re.sub(rf"(?<![\w\-./'\"]){name}=(?=[^\s=])", f"--{name} ", message)
        message = re.sub(rf"^{name}(?= )|(?<=\(){name}(?=\))", f"--{name}", message)
        if "_" in name:
            message = re.sub(rf"(?<![\w\-./'\"]){name}(?![\w./'\"])", f"--{name}", message)
    return message
