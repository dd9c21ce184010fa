"""How far training has come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm  # type: ignore[import-untyped]

from graphformer.tasks.clock import Clock
from graphformer.tasks.history import History

HIDDEN = frozenset({"learning_rate"})


class Progress(Callback):
    """One bar for the whole training where somebody watches, else a line every so many seconds.

    Args:
        clock: of the training.
        history: whose latest values are shown.
        seconds: between two lines.
    """

    def __init__(self, clock: Clock, history: History, seconds: float = 30.0) -> None:
        self.clock = clock
        self.history = history
        self.seconds = seconds
        self._bar: tqdm[Any] | None = None
        self._step = 0
        self._line_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._step = trainer.global_step
        self._line_at = time.monotonic()
        if somebody_watches():
            self._bar = tqdm(
                total=num_steps(trainer),
                initial=self._step,
                unit="step",
                mininterval=0.5,
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        num_new = trainer.global_step - self._step
        self._step = trainer.global_step
        if self._bar is not None and self._bar.update(num_new):
            self._bar.set_description_str(self._epoch(trainer), refresh=False)
            self._bar.set_postfix_str(written(self.history.latest), refresh=False)
        elif self._bar is None and time.monotonic() - self._line_at >= self.seconds:
            self._print(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()
        self._print(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        self._line_at = time.monotonic()
        total = num_steps(trainer)
        of_total = "" if total is None else f"/{total}"
        steps = f"step {self._step}{of_total}"
        parts = [self._epoch(trainer), steps, written(self.history.latest)]
        print("  ".join([*parts, f"{self.clock.seconds:.0f} s"]), file=sys.stderr, flush=True)

    def _epoch(self, trainer: Trainer) -> str:
        of_all = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        return f"epoch {num_epochs(trainer):.1f}{of_all}"


def somebody_watches() -> bool:
    """Whether messages go to a terminal, and not to the log of an automatic run."""
    return sys.stderr.isatty() and not os.environ.get("CI")


def num_epochs(trainer: Trainer) -> float:
    """Passes through the training data, the present batch included."""
    num_batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
    return num_batches / trainer.num_training_batches


def num_steps(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole training, or None where its end is not known."""
    steps = trainer.estimated_stepping_batches
    return None if steps == float("inf") or steps < 0 else int(steps)


def written(values: Mapping[str, float]) -> str:
    """The values worth watching, to four digits."""
    shown = {name: value for name, value in values.items() if name not in HIDDEN}
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
