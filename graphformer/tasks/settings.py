"""What a command was asked for, in a file that asks for it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from graphformer.tasks.files import write_yaml
from graphformer.tasks.record import METRICS
from graphformer.tasks.run import check_new

SETTINGS = "settings.yaml"

# What may differ when a run is resumed.
_BUDGET = ("epochs", "steps", "minutes")
_FREE = ("out", "seeds", "resume", *_BUDGET)


@dataclass(frozen=True)
class Job:
    """Where a command leaves its files, and how often it is repeated.

    Attributes:
        out: folder for settings, figures, plots and checkpoints.
        seeds: number of repetitions, each with a seed and, if several, a folder of its own.
        seed: the first seed; the others follow it.
        resume: go on with what is in the folder.
        accelerator: what to train on: auto, cpu, gpu, mps.
    """

    out: Path
    seeds: int = 1
    seed: int = 0
    resume: bool = False
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}: write the number of repetitions, at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: write a number of at least 0")

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))


def flatten(parts: Iterable[object]) -> dict[str, Any]:
    """The fields of dataclasses in one dictionary, of what YAML knows."""
    fields = {name: value for part in parts for name, value in vars(part).items()}
    return {name: str(each) if isinstance(each, Path) else each for name, each in fields.items()}


def keep_settings(out: Path, parts: Iterable[object], resume: bool) -> None:
    """`settings.yaml` in the folder `out` has all fields, as `--config` takes them.

    Where a run is resumed with another budget, the figures of the former one are removed.

    Raises:
        ValueError: a run is resumed whose settings were others, or is there and not resumed.
    """
    settings = flatten(parts)
    file, folders = out / SETTINGS, [out, *out.glob("seed-*")]
    if not resume:
        for each in folders:
            check_new(each)
    elif file.exists():
        before = yaml.safe_load(file.read_text("utf-8"))
        check_same(file, before, settings)
        if any(before.get(name) != settings.get(name) for name in _BUDGET):
            for each in folders:
                (each / METRICS).unlink(missing_ok=True)
    write_yaml(file, {name: value for name, value in settings.items() if name != "resume"})


def check_same(file: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Does nothing where both would give the same training, up to its length.

    Raises:
        ValueError: they differ, naming what differs.
    """
    differing = [name for name in now if name not in _FREE and before.get(name) != now[name]]
    if differing:
        changes = ", ".join(f"{name} {before.get(name)} (now {now[name]})" for name in differing)
        raise ValueError(
            f"{file} has {changes}: a run is resumed with the settings that it began with; write "
            f"them again (--config {file}), or choose another folder"
        )
