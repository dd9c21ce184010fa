"""Resuming that goes on bit for bit: what Lightning's checkpoints lack, and when they are taken.

A checkpoint is taken when a batch begins that is the first of its update: everything before it
(steps, schedules, validation, the end of an epoch) is done, nothing of it has happened. Lightning
comes back to that very hook with the same batch, and there its counters and all random states
become what they were.
"""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

import graphformer
from graphformer.planner import constants, use_constants
from graphformer.tasks.checkpoints import FORMAT, KEY, checkpoint_path, prune, remove_unfinished
from graphformer.tasks.counters import (
    BATCH,
    begin_batch_again,
    begin_next_batch,
    forget_last_batch,
)
from graphformer.tasks.interruption import Interrupted, Interruption
from graphformer.tasks.randomness import (
    RandomState,
    capture_random_state,
    restore_random_state,
    seed_everything,
)


@dataclass(frozen=True)
class Saving:
    """When the state of training is saved; besides, it always is at the end and at a signal.

    Attributes:
        seconds: saves at the first update after so many seconds.
        steps: saves every so many optimizer steps.
        epochs: saves at the end of every so many epochs.
        keep: number of checkpoints that are kept.
    """

    seconds: float | None = 60.0
    steps: int | None = None
    epochs: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("seconds", "steps", "epochs", "keep"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"saving {name} must be positive, not {value}")


class ExactResume(Callback):
    """Saves and restores the whole state of training; the first of the callbacks.

    At the end of training `SaveAtEnd`, the last of them, saves.

    Args:
        folder: of the checkpoints.
        seed: of all random numbers, together with the rank of the process.
        saving: when to save.
        hint: how to resume, told to whoever interrupts the run.
    """

    def __init__(self, folder: Path, seed: int, saving: Saving, hint: str) -> None:
        self.folder = folder
        self.seed = seed
        self.saving = saving
        self.hint = hint
        self._interruption = Interruption()
        self._resumed: dict[str, Any] | None = None
        self._ended = False
        self._saved_step = -1
        self._saved_at = 0.0

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._resumed = {**checkpoint[KEY], "counters": checkpoint["loops"]["fit_loop"]}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = {
            "format": FORMAT,
            "version": graphformer.__version__,
            "random": gather(trainer, capture_random_state(trainer.strategy.root_device)),
            "constants": constants(),
            "metrics": dict(trainer.callback_metrics),
            "stopped": self._ended and trainer.should_stop,
        }
        counters = checkpoint["loops"]["fit_loop"]
        forget_last_batch(counters)
        if self._ended:
            begin_next_batch(
                counters, int(trainer.num_training_batches), trainer.accumulate_grad_batches
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed is not None:
            use_constants(self._resumed["constants"])
            trainer.should_stop = self._resumed["stopped"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interruption.watch()
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            remove_unfinished(self.folder)
        if self._resumed is None:
            device = trainer.strategy.root_device
            seed_everything(self.seed, trainer.global_rank, device=device)
            return
        check_processes(len(self._resumed["random"]), trainer.world_size)
        position = self._resumed["counters"][BATCH]["current"]["completed"]
        loader: Any = trainer.train_dataloader
        loader.sampler.start_at(trainer.current_epoch, position)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._resumed is not None:
            self._restore(trainer, self._resumed)
            self._resumed = None
        if batch_idx % trainer.accumulate_grad_batches:
            return
        if any_process(trainer, self._interrupted or self._is_due(trainer, batch_idx)):
            self._save(trainer)
        self._exit_if_interrupted(trainer)

    def finish(self, trainer: Trainer) -> None:
        """Saves the state at the end of training.

        Raises:
            Interrupted: SIGINT or SIGTERM came since the last update.
        """
        self._interruption.release()
        self._ended = True
        self._save(trainer)
        self._exit_if_interrupted(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._interruption.release()

    def _restore(self, trainer: Trainer, resumed: dict[str, Any]) -> None:
        begin_batch_again(trainer.fit_loop, resumed["counters"])
        trainer.callback_metrics.update(resumed["metrics"])
        device = trainer.strategy.root_device
        restore_random_state(resumed["random"][trainer.global_rank], device)
        self._saved_step = trainer.global_step

    def _is_due(self, trainer: Trainer, batch_idx: int) -> bool:
        saving = self.saving
        num_steps = trainer.global_step - max(self._saved_step, 0)
        if not num_steps:
            return False
        by_steps = saving.steps is not None and num_steps >= saving.steps
        by_epochs = (
            saving.epochs is not None
            and batch_idx == 0
            and trainer.current_epoch % saving.epochs == 0
        )
        seconds = time.monotonic() - self._saved_at
        return by_steps or by_epochs or (saving.seconds is not None and seconds >= saving.seconds)

    def _save(self, trainer: Trainer) -> None:
        if self._saved_step == trainer.global_step:
            return
        if any_process(trainer, not is_finite(trainer.lightning_module)):
            raise ValueError(self._diverged(trainer.global_step))
        path = checkpoint_path(self.folder, trainer.global_step)
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            prune(self.folder, path, self.saving.keep)
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()

    def _diverged(self, step: int) -> str:
        """What to do when weights are no numbers any more."""
        before = "no checkpoint was written"
        if self._saved_step > 0:
            before = f"{checkpoint_path(self.folder, self._saved_step)}, of before, is kept"
        return (
            f"training diverged: after step {step:,} some weights are infinite or not a number "
            f"({before}); train into another folder with a lower learning_rate, or with clip=1"
        )

    @property
    def _interrupted(self) -> bool:
        return self._interruption.received is not None

    def _exit_if_interrupted(self, trainer: Trainer) -> None:
        # One that came while the others saved is answered by all at the next update.
        if not any_process(trainer, self._interrupted) or self._saved_step != trainer.global_step:
            return
        if trainer.is_global_zero:
            path = checkpoint_path(self.folder, trainer.global_step)
            print(f"stopped after step {trainer.global_step}, saved in {path}", file=sys.stderr)
            print(self.hint, file=sys.stderr)
        raise Interrupted(128 + (self._interruption.received or signal.SIGTERM))


class SaveAtEnd(Callback):
    """Saves when the other callbacks have ended; the last of them.

    Before them, what they do at the end would be missing for good after an interruption: a training
    that is over is only loaded.

    Args:
        saving: what saves.
    """

    def __init__(self, saving: ExactResume) -> None:
        self.saving = saving

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saving.finish(trainer)


def any_process(trainer: Trainer, decision: bool) -> bool:
    """Whether `decision` holds in one of the processes, which all learn of it."""
    if trainer.world_size == 1:
        return decision
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))


def is_finite(module: LightningModule) -> bool:
    """Whether all weights are numbers."""
    return all(bool(each.isfinite().all()) for each in module.parameters())


def gather(trainer: Trainer, state: RandomState) -> list[RandomState]:
    """The states of all processes, by rank."""
    if trainer.world_size == 1:
        return [state]
    states: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(states, state)
    return states


def check_processes(saved: int, present: int) -> None:
    """Does nothing where as many processes resume as have saved.

    Raises:
        ValueError: they differ, so that neither batches nor random numbers could go on.
    """
    if saved != present:
        raise ValueError(
            f"the checkpoint was saved by {saved} processes and cannot go on with {present}: "
            f"resume it with {saved} devices in all"
        )
