"""What training measured on its way, in a table that an interruption does not spoil."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from graphformer.files import write_text
from graphformer.tasks.clock import Clock


class Measurement(NamedTuple):
    """One value at one step: a row of the table.

    Attributes:
        step: optimizer steps done.
        epoch: whole epochs done.
        seconds: of training.
        name: what was measured, such as `train_loss`.
        value: of it.
    """

    step: int
    epoch: int
    seconds: float
    name: str
    value: float


class History(Callback):
    """Writes losses and metrics to a CSV file, a row each; goes on with the table when resumed.

    `train_loss` is the mean over the tokens since the row before. Whatever the module logs at a
    validation gets a row after it.

    Args:
        file: the table.
        clock: of the training.
        every: steps between two rows of `train_loss`.
    """

    def __init__(self, file: Path, clock: Clock, every: int = 50) -> None:
        self.file = file
        self.clock = clock
        self.every = every
        self.latest: dict[str, float] = {}
        self._total: float | Tensor = 0.0
        self._count: float | Tensor = 0
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if not trainer.is_global_zero:
            self._total, self._count = 0.0, 0  # the checkpoint has the sums of the first process
        else:
            rows = read_history(self.file) if self.file.exists() else []
            kept = [row for row in rows if row.step <= self._step]
            write_history(self.file, kept)
            self.latest = latest_values(kept)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._total = self._total + outputs["total"]
        self._count = self._count + outputs["num_tokens"]
        stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        if stepped and self._step % self.every == 0:
            self._write_loss(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_loss(trainer)
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self._write(trainer, metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_loss(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"total": float(self._total), "count": float(self._count)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._total, self._count = state_dict["total"], state_dict["count"]

    def _write_loss(self, trainer: Trainer) -> None:
        total, count = float(self._total), float(self._count)
        if trainer.world_size > 1:
            sums = torch.tensor([total, count], device=trainer.strategy.root_device)
            total, count = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        self._total, self._count = 0.0, 0
        if not count:
            return
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._write(trainer, {"train_loss": total / count, "learning_rate": float(rate)})

    def _write(self, trainer: Trainer, values: dict[str, float]) -> None:
        self.latest.update(values)
        if trainer.is_global_zero:
            seconds = round(self.clock.seconds, 3)
            position = trainer.global_step, trainer.current_epoch, seconds
            rows = [Measurement(*position, name, value) for name, value in values.items()]
            with self.file.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)


def read_history(file: Path) -> list[Measurement]:
    """The rows of a table, but for a last one that was cut off.

    Raises:
        ValueError: the table is damaged.
    """
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [row for row in csv.reader(lines) if len(row) == len(Measurement._fields)]
        return [
            Measurement(int(step), int(epoch), float(seconds), name, float(value))
            for step, epoch, seconds, name, value in rows[1:]
        ]
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{file} is damaged ({error}): remove it to go on without what it held"
        ) from error


def latest_values(rows: list[Measurement]) -> dict[str, float]:
    """The last value of each name."""
    return {row.name: row.value for row in rows}


def write_history(file: Path, rows: list[Measurement]) -> None:
    """A table of these rows, under the names of their columns."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([Measurement._fields, *rows])
    write_text(file, text.getvalue())
