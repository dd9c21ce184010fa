"""Training a module: one call from data to checkpoints, table and figures."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from graphformer.machine import keep_few_products
from graphformer.models.pretrained import CONFIG
from graphformer.tasks.checkpoints import (
    WholeCheckpoints,
    list_checkpoints,
    newest_intact,
    progress_of,
)
from graphformer.tasks.clock import Clock
from graphformer.tasks.history import History, latest_values, read_history
from graphformer.tasks.learner import Learner
from graphformer.tasks.loader import Loader
from graphformer.tasks.progress import Progress
from graphformer.tasks.quiet import quiet
from graphformer.tasks.record import METRICS, Summary, command_line, read_figures, summarize
from graphformer.tasks.resume import ExactResume, SaveAtEnd, Saving

CHECKPOINTS = "checkpoints"
HISTORY = "history.csv"


@dataclass(frozen=True)
class Budget:
    """How long to train: until the first of these is reached.

    Attributes:
        epochs: passes through the training data.
        steps: optimizer steps.
        minutes: of training, validation included.
    """

    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if not given:
            raise ValueError("training needs a budget: give epochs, steps or minutes")
        for name, value in given.items():
            if value <= 0:
                raise ValueError(f"a budget of {name} must be positive, not {value}")


@dataclass(frozen=True)
class Machine:
    """What to train on, in Lightning's words.

    Attributes:
        accelerator: "auto", "cpu", "gpu", "mps".
        devices: how many of them on each node.
        num_nodes: how many nodes.
        strategy: how several devices share the work: "auto", "ddp", "fsdp".
        precision: "32-true", "bf16-mixed", "16-mixed", "64-true".
    """

    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    @classmethod
    def of(cls, device: torch.device, precision: str = "32-true") -> Machine:
        """One device, whatever Lightning would take by itself."""
        return cls("gpu" if device.type == "cuda" else "cpu", precision=precision)


@dataclass(frozen=True)
class Run:
    """One training: where it leaves its files, and all that its course depends on.

    Attributes:
        out: folder of the run.
        budget: how long to train.
        seed: of all random numbers.
        resume: whether to go on with the run that is in `out`, if there is one.
        saving: when to save the state.
        machine: what to train on.
        name: of what is trained, for the reader of the progress.
    """

    out: Path
    budget: Budget
    seed: int = 0
    resume: bool = False
    saving: Saving = field(default_factory=Saving)
    machine: Machine = field(default_factory=Machine)
    name: str = ""


def train(
    learner: Learner,
    batches: Loader,
    validation: Iterable[Any] | None,
    run: Run,
    *,
    callbacks: Sequence[Callback] = (),
    **trainer_options: Any,
) -> dict[str, float]:
    """Trains `learner` in place; returns the last values measured, steps and seconds.

    In `run.out` it leaves `history.csv` and the checkpoints, from which it goes on to the same
    weights when interrupted. A run that has reached its budget is only loaded.

    Args:
        learner: the module and its loss.
        batches: of the training data.
        validation: batches, after each epoch if nothing else is asked for, or None.
        run: where, how long, on what.
        callbacks: of Lightning; their state is saved too.
        trainer_options: of Lightning's Trainer, such as `accumulate_grad_batches`.

    Raises:
        TypeError: `batches` is no `Loader`, whose order an interruption does not change.
        ValueError: there is a run in `out` that is not to be resumed, or cannot be.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    if not isinstance(batches, Loader):
        raise TypeError(
            f"training takes a graphformer.tasks.loader.Loader, not {type(batches).__name__}: "
            "its order of batches is what makes an interrupted run go on unchanged"
        )
    keep_few_products()
    checkpoint = find_checkpoint(run)
    clock = Clock(run.budget.minutes)
    history = History(run.out / HISTORY, clock)
    saving = ExactResume(run.out / CHECKPOINTS, run.seed, run.saving, resume_hint())
    # ExactResume comes first: what the others do when a batch begins is done after a resume, too.
    own = [saving, clock, history, Progress(clock, history)]
    with quiet():
        trainer = make_trainer(run, [*own, *callbacks, SaveAtEnd(saving)], trainer_options)
        announce(learner, batches, trainer, run, checkpoint)
        try:
            trainer.fit(learner, batches, validation, ckpt_path=checkpoint)
        finally:
            for each in (batches, validation):
                if isinstance(each, Loader):
                    each.close()
    rows = read_history(history.file)
    counts = {"steps": rows[-1].step, "seconds": rows[-1].seconds} if rows else {}
    return {**latest_values(rows), **counts}


def validate(learner: Learner, batches: Loader, run: Run) -> dict[str, float]:
    """What a validation measures of the learner as it is, on the machine of the run."""
    with quiet():
        trainer = make_trainer(run, [], {})
        try:
            trainer.validate(learner, batches, verbose=False)
        finally:
            batches.close()
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def is_first_process(machine: Machine) -> bool:
    """Whether this process writes files and prints, of those that share a training."""
    if (machine.devices, machine.num_nodes) == (1, 1):
        return True  # whatever a cluster calls it
    node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0")))
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank == 0 and node == 0


def make_trainer(run: Run, callbacks: list[Callback], options: Mapping[str, Any]) -> Trainer:
    """Lightning's Trainer without what this package does itself."""
    budget, machine = run.budget, run.machine
    settings: dict[str, Any] = {
        "max_epochs": -1 if budget.epochs is None else budget.epochs,
        "max_steps": -1 if budget.steps is None else budget.steps,
        "default_root_dir": run.out,
        "plugins": [WholeCheckpoints()],
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        **vars(machine),
    }
    return Trainer(callbacks=callbacks, **(settings | dict(options)))


def find_checkpoint(run: Run) -> Path | None:
    """The checkpoint to go on from, or None to start.

    Raises:
        ValueError: there is a run that is not to be resumed, or cannot be.
    """
    if not run.resume:
        check_new(run.out)
        return None
    check_goes_on(run.out)
    return newest_intact(run.out / CHECKPOINTS)


def check_goes_on(out: Path) -> None:
    """Does nothing where the run in `out` is not finished, or still has its checkpoints.

    Raises:
        ValueError: what it has cannot be gone on with.
    """
    if (out / METRICS).exists() and not list_checkpoints(out / CHECKPOINTS):
        raise ValueError(
            f"{out} has a finished run without its checkpoints, which cannot be gone on with: "
            "choose another folder"
        )


def check_new(out: Path) -> None:
    """Does nothing where `out` and its folders of seeds have no run and no saved model.

    Raises:
        ValueError: one has, which would be overwritten.
    """
    folders = [out, *seed_folders(out)]
    where = {each: "" if each == out else f" (in {each.name})" for each in folders}
    for folder in folders:
        if list_checkpoints(folder / CHECKPOINTS):
            raise ValueError(
                f"{out} has the checkpoints of a run{where[folder]}: resume it (resume=True), or "
                "choose another folder"
            )
    for folder in folders:
        if (folder / METRICS).exists():
            raise ValueError(f"{out} has a finished run{where[folder]}: choose another folder")
        if (folder / CONFIG).exists():
            raise ValueError(f"{out} has a saved model{where[folder]}: choose another folder")


def seed_folders(out: Path) -> list[Path]:
    """The folders of the seeds of a repeated run, in their order."""
    found = [each for each in out.glob("seed-*") if each.name.removeprefix("seed-").isdecimal()]
    return sorted(found, key=lambda each: int(each.name.removeprefix("seed-")))


def progress_in(out: Path) -> dict[str, float]:
    """How far the run in `out` was at its newest intact checkpoint, by the names of limits.

    Raises:
        ValueError: none of its checkpoints can be read, or it is finished and they are gone.
    """
    check_goes_on(out)
    with warnings.catch_warnings(action="ignore"):  # who resumes from it warns of damaged ones
        newest = newest_intact(out / CHECKPOINTS)
    return {} if newest is None else progress_of(newest)


def announce(
    learner: Learner, batches: Loader, trainer: Trainer, run: Run, checkpoint: Path | None
) -> None:
    """One line on what is trained, on what, and from where."""
    if not trainer.is_global_zero:
        return
    num_parameters = sum(each.numel() for each in learner.parameters())
    device, threads = trainer.strategy.root_device, torch.get_num_threads()
    where = (
        f"{device} ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else f"{device}"
    )
    count = batches.sampler.count(trainer.world_size)
    parts = [
        f"{num_parameters:,} parameters",
        f"{count} {'batch' if count == 1 else 'batches'} an epoch",
        f"{where} in {trainer.precision}",
        "from the start" if checkpoint is None else f"from {checkpoint}",
    ]
    name = f"training {run.name}".strip()
    print(f"{name} with seed {run.seed}: {', '.join(parts)}", file=sys.stderr, flush=True)


def resume_hint() -> str:
    """How to go on with an interrupted run."""
    command = command_line()
    if not command.startswith(("graphformer ", "python -m graphformer ")):
        return "go on with it by the same call with resume=True"
    # The demo has no such option: it always goes on.
    goes_on = "--resume" in command or "graphformer demo" in command
    # Called by its path, as by `make demo`, it may be none that the shell finds.
    folder = os.path.dirname(sys.argv[0]) if command.startswith("graphformer ") else ""
    command = command if shutil.which("graphformer") else os.path.join(folder, command)
    return f"go on with it by: {command}" + ("" if goes_on else " --resume")


def repeat(
    job: Callable[[Run], Mapping[str, float]], run: Run, seeds: Sequence[int]
) -> dict[str, Summary]:
    """Mean and standard deviation of the figures of `job`, over a run for each seed.

    Each run has a folder of its own in `run.out`. If `run.resume` is set, runs that have left
    their `metrics.json` are not repeated.

    Args:
        job: trains, measures, writes `metrics.json` into the folder of the run, returns figures.
        run: what the runs share.
        seeds: one for each run, at least one.

    Raises:
        ValueError: there is no seed.
    """
    if not seeds:
        raise ValueError("repeating a run needs at least one seed")
    figures = []
    for seed in seeds:
        each = replace(run, out=run.out / f"seed-{seed}", seed=seed)
        done = run.resume and (each.out / METRICS).exists()
        figures.append(read_figures(each.out) if done else job(each))
    return summarize(figures)
