"""The command `graphformer info`: what is installed, what it runs on, what is missing."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

import torch

import graphformer
from graphformer.backends import BACKENDS, kernels, name_of
from graphformer.tasks.device import cpu_name

# Extras that users install; the others are for work on the package itself.
EXTRAS = ("training", "text", "plots")


class Requirement(NamedTuple):
    """A package that this one builds on.

    Attributes:
        name: of the package.
        extra: that asks for it, or None where it is always there.
    """

    name: str
    extra: str | None


def info() -> None:
    """Prints versions, device, instruction set, kernels, and what is missing and how to get it."""
    print("\n".join([*describe(), *missing(requirements())]))


def describe() -> list[str]:
    """What is there, a line each."""
    number = torch.get_num_threads()
    threads = f"{number} thread{'s' * (number > 1)}"
    lines = [
        f"graphformer  {graphformer.__version__}",
        f"python       {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"cpu          {cpu_name()}, {threads}",
        f"gpu          {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}",
        f"backends     {', '.join(map(name_of, BACKENDS))}",
        f"kernels      {kernels.instruction_set() or f'none: {kernels.why_missing()}'}",
    ]
    found = {name: installed(name) for name, _ in requirements()}
    packages = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    return [*lines, f"packages     {packages}"]


def missing(needed: list[Requirement]) -> list[str]:
    """What is not there and how to get it, a line each; one line where nothing is missing."""
    lines = [
        f"missing      {name}: pip install 'graphformer{'' if extra is None else f'[{extra}]'}'"
        for name, extra in needed
        if installed(name) is None
    ]
    return lines or ["missing      nothing"]


def requirements() -> list[Requirement]:
    """The packages of the core and of the extras, as the installed metadata has them."""
    found = []
    for line in requires("graphformer") or []:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"](\w+)['\"]", line)
        if name is not None and (extra is None or extra[1] in EXTRAS):
            found.append(Requirement(name[0], None if extra is None else extra[1]))
    return found


def installed(package: str) -> str | None:
    """The version of a package, or None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
