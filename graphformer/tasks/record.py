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
from graphformer.tasks.files import write_json

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


def machine() -> dict[str, object]:
    """The device and the threads that figures of time depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {"device": device, "threads": torch.get_num_threads(), "system": platform.system()}


def cpu_name() -> str:
    """The processor as its maker calls it, and the instruction set that torch uses of it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def write_metrics(
    out: Path,
    figures: Mapping[str, object],
    *,
    seeds: Sequence[int],
    data: str,
    split: str,
    protocol: str,
) -> None:
    """`metrics.json` in the folder `out` says what was measured, and how to measure it again.

    Args:
        out: folder of the run.
        figures: by name.
        seeds: of the runs that the figures are from.
        data: name of the data set.
        split: name of its split, with sizes.
        protocol: how the figures are computed: metric, tokenization, which checkpoint.
    """
    described = {"data": data, "split": split, "protocol": protocol, "command": command_line()}
    measured = {"figures": dict(figures), "seeds": list(seeds), **described}
    write_json(out / METRICS, {**measured, "versions": versions(), "machine": machine()})


def read_figures(out: Path) -> dict[str, Any]:
    """The figures in the `metrics.json` of the folder `out`: numbers, or summaries over seeds."""
    figures: dict[str, Any] = json.loads((out / METRICS).read_text("utf-8"))["figures"]
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
