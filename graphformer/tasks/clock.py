"""The time that training has taken, and may take."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Clock(Callback):
    """Seconds of training in all, those before an interruption included; stops when they are up.

    Args:
        minutes: of training, validation included; None sets no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.limit = float("inf") if minutes is None else 60.0 * minutes
        self._earlier = 0.0
        self._is_up = False
        self._asked = 0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds from the start of training."""
        now = 0.0 if self._started is None else time.monotonic() - self._started
        return self._earlier + now

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that the clock has stopped goes on if it was given more time since.
        was_up, self._is_up = self._is_up, self._earlier >= self.limit
        trainer.should_stop = self._is_up or (trainer.should_stop and not was_up)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._asked = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Between two updates gradients are under way, which a checkpoint has none of.
        if self.limit == float("inf") or trainer.global_step == self._asked:
            return
        self._asked = trainer.global_step
        if trainer.strategy.broadcast(self.seconds >= self.limit):
            self._is_up = trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._earlier, self._started = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "is_up": self._is_up}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier, self._is_up = state_dict["seconds"], state_dict["is_up"]
