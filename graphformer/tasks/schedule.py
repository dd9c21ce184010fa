"""A learning rate that fits the budget."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from graphformer.tasks.clock import Clock


class RiseAndFall(Callback):
    """The learning rate rises to its peak, and falls to zero by the end of the budget, linearly.

    How much of the budget is used up is known from the number of steps and, where minutes are the
    limit, from the clock, both of which a checkpoint has: a training that is faster than another
    sees more data, and either ends at zero.

    Args:
        peak: the highest learning rate.
        warmup: share of the budget in which it rises, between 0 and 1.

    Raises:
        ValueError: `warmup` is no such share.
    """

    def __init__(self, peak: float, warmup: float = 0.1) -> None:
        if not 0 < warmup < 1:
            raise ValueError(f"warmup is a share of the training between 0 and 1, not {warmup}")
        self.peak = peak
        self.warmup = warmup

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        used = used_up(trainer)
        rate = self.peak * min(used / self.warmup, (1 - used) / (1 - self.warmup))
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate


def used_up(trainer: Trainer) -> float:
    """The share of the budget that is used up when the present step has been taken, at most 1."""
    num_steps = trainer.estimated_stepping_batches
    by_steps = (trainer.global_step + 1) / (num_steps if num_steps > 0 else float("inf"))
    clocks = [each for each in trainer.callbacks if isinstance(each, Clock)]  # type: ignore[attr-defined]
    by_time = max((clock.seconds / clock.limit for clock in clocks), default=0.0)
    return min(max(by_steps, by_time), 1.0)
