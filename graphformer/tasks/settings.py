"""What a command was asked for, in a file that asks for it again."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml  # type: ignore[import-untyped]

from graphformer.files import write_text
from graphformer.tasks.device import Accelerator, check_accelerator, find_device
from graphformer.tasks.record import METRICS
from graphformer.tasks.run import check_new, progress_in, seed_folders

SETTINGS = "settings.yaml"

# What may differ when a run is resumed.
_BUDGET = ("epochs", "steps", "minutes")
_FREE = ("out", "seeds", "resume", *_BUDGET)

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Job:
    """Where a command leaves its files, and how often it is repeated.

    Attributes:
        out: folder for settings, figures, plots and checkpoints.
        seeds: number of repetitions, each with a seed and, if several, a folder of its own.
        seed: the first seed; the others follow it.
        resume: go on with what is in the folder.
        accelerator: what to compute on: cpu, gpu, or auto, which is a GPU where there is one.
    """

    out: Path
    seeds: int = 1
    seed: int = 0
    resume: bool = False
    accelerator: Accelerator = "auto"

    def __post_init__(self) -> None:
        check_accelerator(self.accelerator)
        check_least(self, seeds=1, seed=0)
        check_folder(self.out)

    @property
    def all_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.seeds))

    def check_unused(self) -> None:
        """Does nothing where the folder is free, or is to be gone on with.

        Raises:
            ValueError: a run has left its checkpoints there.
        """
        if not self.resume:
            check_new(self.out)

    @property
    def device(self) -> torch.device:
        """What to compute on.

        Raises:
            ValueError: there is no such device.
        """
        return find_device(self.accelerator)


def check_folder(out: Path) -> None:
    """Does nothing where files can be left in the folder `out`, which need not be there yet.

    Raises:
        ValueError: it is a file.
    """
    if out.is_file():
        raise ValueError(f"out is {out}, which is a file: write a folder")


def check_least(settings: object, **least: float) -> None:
    """Does nothing where the settings that are given are large enough.

    Raises:
        ValueError: one is smaller.
    """
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and not value >= smallest:
            raise ValueError(f"{name} is {value}: write a number of at least {smallest}")


def check_positive(settings: object, *names: str) -> None:
    """Does nothing where the settings that are given are above zero.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}: write a number above 0")


def check_probabilities(settings: object, *names: str) -> None:
    """Does nothing where the settings that are given are probabilities below 1.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name} is {value}: write a probability of at least 0 and below 1")


def fill(settings: Settings, suiting: Mapping[str, Any]) -> Settings:
    """The settings, and of what is left out in them the suiting ones that they have a field for."""
    missing = {
        name: suiting[name]
        for name, value in vars(settings).items()
        if value is None and name in suiting
    }
    return replace(settings, **missing)  # type: ignore[type-var]


def flatten(parts: Iterable[object]) -> dict[str, Any]:
    """The fields of dataclasses in one dictionary, of what YAML knows; `part.field` of a part."""
    fields: dict[str, Any] = {}
    for name, value in (field for part in parts for field in vars(part).items()):
        if is_dataclass(value):
            fields |= {f"{name}.{inner}": each for inner, each in flatten([value]).items()}
        else:
            fields[name] = str(value) if isinstance(value, Path) else value
    return fields


def keep_settings(out: Path, parts: Iterable[object], resume: bool) -> None:
    """`settings.yaml` in the folder `out` has all fields, as `--config` takes them.

    Where a run is resumed with another budget, the figures of the former one are removed; where
    there is nothing to resume, that is said.

    Raises:
        ValueError: a run is resumed whose settings were others or which is past its new budget, or
            is there and not resumed.
    """
    settings = flatten(parts)
    file = out / SETTINGS
    if not resume:
        check_new(out)
    elif file.exists():
        before = read_settings(file)
        check_same(file, before, settings)
        changed = [name for name in _BUDGET if before.get(name) != settings.get(name)]
        if changed:
            seeds = seed_folders(out)
            check_budget(seeds or [out], {name: settings.get(name) for name in changed})
            for each in [out, *seeds]:
                (each / METRICS).unlink(missing_ok=True)
    else:
        print(f"nothing to resume in {out}: it begins from the start", file=sys.stderr)
    kept = {name: value for name, value in settings.items() if name != "resume"}
    write_text(file, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def check_budget(folders: Iterable[Path], budget: Mapping[str, float | None]) -> None:
    """Does nothing where each run in the folders can go on, and is not past its new limits.

    Raises:
        ValueError: one is, so that its record would say less than its weights have seen; or it is
            finished, and its checkpoints are gone.
    """
    for folder in folders:
        so_far = progress_in(folder)
        for name, limit in budget.items():
            if limit is not None and so_far.get(name, 0) > limit:
                raise ValueError(
                    f"{name} is {limit:,.10g}, and the run in {folder} has trained for "
                    f"{so_far[name]:,.10g} already: write as many or more, or choose another folder"
                )


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        settings = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(
            f"{file} is damaged: choose another folder, or remove it and write the settings that "
            "the run began with"
        )
    return settings


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
