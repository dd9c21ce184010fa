"""How much slower or faster this machine computes than the costs of the backends assume.

The costs are formulas with rates of one machine with two cores. `graphformer calibrate` measures
here what each way of computing takes, and keeps a factor for each in the user's cache folder.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from graphformer.backends.request import Request
from graphformer.files import write_json
from graphformer.machine import cache_folder, cpu_name

FILE = "calibration.json"

# What a resumed run planned with, in place of what this machine has measured since.
_given: dict[str, float] | None = None


def factor(way: str, request: Request) -> float:
    """What the time that a formula predicts is multiplied with: 1 where nothing was measured.

    Args:
        way: how the request is computed, such as "dense, fused".
        request: whose dtype and direction count.
    """
    if request.graph.device.type != "cpu":
        return 1.0
    return factors().get(name_of(way, request.dtype, request.grad), 1.0)


def name_of(way: str, dtype: torch.dtype, grad: bool) -> str:
    """The name of a factor."""
    passes = "forward and backward" if grad else "forward"
    return f"{way}, {str(dtype).removeprefix('torch.')}, {passes}"


def factors() -> dict[str, float]:
    """The factors of this machine and number of threads by name; none where not calibrated."""
    if _given is not None:
        return _given
    return _read(cache_folder() / FILE).get(this_machine(), {})


def use(factors: Mapping[str, float]) -> None:
    """Plans with these factors from now on, so that a resumed run goes on with the same plans."""
    global _given
    _given = dict(factors)


@contextmanager
def built_in() -> Iterator[None]:
    """Costs are those of the formulas alone in the block."""
    global _given
    before, _given = _given, {}
    try:
        yield
    finally:
        _given = before


def keep(factors: Mapping[str, float]) -> Path:
    """The file that has the factors from now on, beside those of other machines."""
    path = cache_folder() / FILE
    write_json(path, {**_read(path), this_machine(): dict(factors)})
    _read.cache_clear()
    return path


def this_machine() -> str:
    """What the factors depend on."""
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


@cache
def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        if not path.is_file():
            return {}
        found = json.loads(path.read_text("utf-8"))
        return {
            str(machine): {str(name): _checked(value) for name, value in factors.items()}
            for machine, factors in found.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        warnings.warn(
            f"{path} is damaged ({error}), so built-in costs are used: write graphformer calibrate",
            stacklevel=2,
        )
        return {}


def _checked(value: object) -> float:
    """A factor of a file.

    Raises:
        ValueError: it is none.
    """
    factor = float(value)  # type: ignore[arg-type]  # what is no number has an error of its own
    if not 0 < factor < float("inf"):
        raise ValueError(f"a factor is {factor}")
    return factor
