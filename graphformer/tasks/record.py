"""What a run leaves behind, besides its table and its checkpoints: settings and figures."""

from __future__ import annotations

import json
import platform
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import torch

import graphformer
from graphformer.backends.executors import constants
from graphformer.files import write_json
from graphformer.tasks.device import device_name

PACKAGES = ("torch", "torch-geometric", "lightning", "numpy")
METRICS = "metrics.json"


class Summary(TypedDict):
    """What several runs give for one figure: mean, standard deviation (of a sample), and each."""

    mean: float
    std: float | None
    values: list[float]


def command_line() -> str:
    """The command that runs, as one would type it."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        start = ["python", "-m", program.parent.name]
    else:
        start = ["python", sys.argv[0]] if program.suffix == ".py" else [program.name]
    return shlex.join([*start, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of what a figure may depend on, and the machine's kind."""
    found = {"graphformer": graphformer.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine(device: torch.device, precision: str) -> dict[str, object]:
    """What figures of time, and the last digits of others, depend on."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "precision": precision,
    }


def write_metrics(
    out: Path,
    figures: Mapping[str, object],
    *,
    seeds: Sequence[int],
    data: str,
    split: str,
    protocol: str,
    device: torch.device,
    precision: str,
) -> None:
    """`metrics.json` in the folder `out` says what was measured, and how to measure it again.

    Args:
        out: folder of the run.
        figures: by name.
        seeds: of the runs that the figures are from.
        data: name of the data set.
        split: name of its split, with sizes.
        protocol: how the figures are computed: metric, tokenization, which checkpoint.
        device: that computed them.
        precision: that it computed in.
    """
    described = {"data": data, "split": split, "protocol": protocol, "command": command_line()}
    measured = {"figures": dict(figures), "seeds": list(seeds), **described}
    # What the planner has measured in this process decides which plans it made.
    on = {"machine": machine(device, precision), "planner": constants()}
    write_json(out / METRICS, {**measured, "versions": versions(), **on})


def read_figures(out: Path) -> dict[str, Any]:
    """The figures in the `metrics.json` of the folder `out`: numbers, or summaries over seeds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    file = out / METRICS
    try:
        figures: dict[str, Any] = json.loads(file.read_text("utf-8"))["figures"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged: remove it, and it is written anew by --resume"
        ) from error
    return figures


def summarize(figures: Sequence[Mapping[str, float]]) -> dict[str, Summary]:
    """Of each figure that all runs have: mean, standard deviation, and the values.

    Args:
        figures: of each run, at least one.
    """
    names = [name for name in figures[0] if all(name in each for each in figures)]
    summary: dict[str, Summary] = {}
    for name in names:
        values = [float(each[name]) for each in figures]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        summary[name] = {"mean": statistics.fmean(values), "std": deviation, "values": values}
    return summary
