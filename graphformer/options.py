"""The options of a command: one for each argument of a function, or for each of its settings.

An argument that is a dataclass of settings gives an option for each of its fields, so that
`settings.yaml`, which has the same names, is read back with `--config`; a field that is a dataclass
too gives one for each of its own, such as `--encoder.score`. Help is the docstrings'.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from argparse import SUPPRESS
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


# Options that are taken as they are typed: YAML would read null, or what follows a #, as nothing.
AS_TYPED = ("text",)


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
        if (found := re.match(r"argument (--[\w.]+): expected", message)) is not None:
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
    if recipes := recipes_of(function):
        parser.add_argument(
            "--recipe",
            type=Literal[*sorted(recipes)],
            help="settings that were found to suit; any option that is given beside it wins",
        )
    for prefix, kind in groups_of(function):
        parts = set(parts_of(kind))
        parser.add_class_arguments(kind, prefix or None, skip=parts)
        if prefix:  # a file of its own for a part would be one more thing to know
            parser._option_string_actions[option(prefix)].help = SUPPRESS
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if bool in (hint, *get_args(hint)):
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


def parts_of(kind: type) -> dict[str, type]:
    """The fields of a dataclass that are dataclasses too, and their types."""
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: hints[name] for name in names if dataclasses.is_dataclass(hints[name])}


def groups_of(function: Callable[..., Any]) -> list[tuple[str, type]]:
    """All dataclasses that give options, and what stands before the names of their fields."""
    groups: list[tuple[str, type]] = []
    for kind in settings_of(function).values():
        groups += [("", kind), *parts_of(kind).items()]
    return groups


def recipes_of(function: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """The named sets of options that the settings of the function have."""
    return {
        name: dict(options)
        for kind in settings_of(function).values()
        for name, options in getattr(kind, "recipes", {}).items()
    }


def parse(parser: Options, function: Callable[..., Any], words: list[str]) -> Namespace:
    """What the words give; the rest is that of the recipe they name, or the default."""
    recipes = recipes_of(function)
    if recipes and any(word.startswith(("--recipe", "--config")) for word in words):
        given = parser.parse_args(words, defaults=False)
        if given.get("recipe") is not None:
            options = recipes[given["recipe"]]
            for kind in settings_of(function).values():
                alone = getattr(kind, "alone", ())
                if any(given.get(name) is not None for name in alone):
                    options = {name: options[name] for name in options if name not in alone}
            parser.set_defaults(options)
    given = parser.parse_args(words)
    for name in signature(function).parameters:
        if name in AS_TYPED and (word := typed(name, words)) is not None:
            given[name] = word
    return given


def typed(name: str, words: list[str]) -> str | None:
    """The word that stands behind the last option of this name, or None where there is none."""
    found = None
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == option(name):
            found = following
        elif word.startswith(f"{option(name)}="):
            found = word.partition("=")[2]
    return found


def names_of(function: Callable[..., Any]) -> list[str]:
    """The names of all options of the function."""
    settings = settings_of(function)
    names = [name for name in signature(function).parameters if name not in settings]
    for prefix, kind in groups_of(function):
        fields = [each.name for each in dataclasses.fields(kind) if each.name not in parts_of(kind)]
        names += [f"{prefix}.{name}" if prefix else name for name in fields]
    return names


def arguments_of(function: Callable[..., Any], given: Namespace) -> dict[str, Any]:
    """The arguments to call the function with."""
    settings = settings_of(function)
    built = {name: build(kind, given) for name, kind in settings.items()}
    plain = [name for name in signature(function).parameters if name not in settings]
    return built | {name: given[name] for name in plain}


def build(kind: type, given: Namespace) -> Any:
    """The settings of this kind that were given."""
    parts = parts_of(kind)
    values = {field.name: given[field.name] for field in dataclasses.fields(kind)}
    return kind(**values | {name: build(part, values[name]) for name, part in parts.items()})


def as_options(message: str, names: Iterable[str]) -> str:
    """A message in which arguments are called as the options are that one has typed.

    Only where a word can be nothing else: in front of the sentence, in brackets, with its value,
    or with an underscore or a point in it.
    """
    for written_name in sorted(names, key=len, reverse=True):
        name = re.escape(written_name)
        typed = option(written_name)
        message = re.sub(rf"(?<![\w\-./'\"]){name}=True\b", typed, message)
        message = re.sub(rf"(?<![\w\-./'\"]){name}=None\b", f"{typed} null", message)
        message = re.sub(rf"(?<![\w\-./'\"]){name}=(?=[^\s=])", f"{typed} ", message)
        message = re.sub(rf"^{name}(?=:? )|(?<=\(){name}(?=\))", typed, message)
        if "_" in written_name or "." in written_name:
            message = re.sub(rf"(?<![\w\-./'\"]){name}(?![\w./'\"])", typed, message)
    return message
