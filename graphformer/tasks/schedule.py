"""A learning rate that fits the budget."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from graphformer.tasks.clock import Clock


class RiseAndFall(Callback):
    """The learning rate rises to its peak, and falls to zero by the end of the budget, linearly.

    No step is lost to a rate of zero: the rise counts the step that is about to be taken, the fall
    the steps before it.

    How much of the budget is used up is known from the number of steps and, where minutes are the
    limit, from the clock, both of which a checkpoint has: a training that is faster than another
    sees more data, and either ends near zero.

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
        rising, falling = (used_up(trainer, steps) for steps in (1, 0))
        rate = self.peak * min(rising / self.warmup, 1.0, (1 - falling) / (1 - self.warmup))
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate


def used_up(trainer: Trainer, num_more: int) -> float:
    """The share of the budget that is used up after `num_more` steps, at most 1.

    Of the time it is what is used up now.
    """
    num_steps = trainer.estimated_stepping_batches
    by_steps = (trainer.global_step + num_more) / (num_steps if num_steps > 0 else float("inf"))
    clocks = [each for each in trainer.callbacks if isinstance(each, Clock)]  # type: ignore[attr-defined]
    by_time = max((clock.seconds / clock.limit for clock in clocks), default=0.0)
    return min(max(by_steps, by_time), 1.0)
