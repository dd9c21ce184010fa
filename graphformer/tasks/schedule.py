"""A learning rate that fits the budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer

from graphformer.tasks.clock import Clock

Schedule = Literal["linear", "inverse_sqrt", "cosine"]


def linear(used: float, warmup: float) -> float:
    """Falls from 1, where the warmup ends, by as much in every step, to 0 at the end."""
    return (1 - used) / (1 - warmup)


def inverse_sqrt(used: float, warmup: float) -> float:
    """Falls from 1, where the warmup ends, with the root of what was used: never to 0.

    Source: Vaswani et al. 2017 (1706.03762), equation 3.
    """
    return math.sqrt(warmup / used)


def cosine(used: float, warmup: float) -> float:
    """Falls from 1, where the warmup ends, as half a wave of a cosine, to 0 at the end.

    Source: Loshchilov and Hutter 2017 (1608.03983), equation 5, without restarts.
    """
    return (1 + math.cos(math.pi * (used - warmup) / (1 - warmup))) / 2


FALLS: dict[Schedule, Callable[[float, float], float]] = {
    "linear": linear,
    "inverse_sqrt": inverse_sqrt,
    "cosine": cosine,
}


class RiseAndFall(Callback):
    """The learning rate rises to its peak, linearly, and falls until the budget is used up.

    No step is lost to a rate of zero: the rise counts the step that is about to be taken, the fall
    the steps before it.

    How much of the budget is used up is known from the number of steps and, where minutes are the
    limit, from the clock, both of which a checkpoint has: a training that is faster than another
    sees more data, and either ends near zero.

    Args:
        peak: the highest learning rate.
        warmup: share of the budget in which it rises, between 0 and 1.
        fall: the share of the peak by the shares of the budget that are used up and of the warmup.
        warmup_steps: the steps in which it rises, in place of a share of the budget.

    Raises:
        ValueError: `warmup` is no such share, or `warmup_steps` is not positive.
    """

    def __init__(
        self,
        peak: float,
        warmup: float = 0.1,
        fall: Callable[[float, float], float] = linear,
        warmup_steps: int | None = None,
    ) -> None:
        if not 0 < warmup < 1:
            raise ValueError(f"warmup is a share of the training between 0 and 1, not {warmup}")
        if warmup_steps is not None and warmup_steps < 1:
            raise ValueError(f"warmup_steps must be positive, not {warmup_steps}")
        self.peak = peak
        self.warmup = warmup
        self.fall = fall
        self.warmup_steps = warmup_steps

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        rate = self.peak * self._factor(used_up(trainer), trainer.global_step)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def _factor(self, used: Used, num_done: int) -> float:
        warmup = self.warmup
        if self.warmup_steps is not None:
            if num_done < self.warmup_steps:
                return (num_done + 1) / self.warmup_steps
            # What share of the budget they took is known from the steps so far.
            warmup = used.before * self.warmup_steps / num_done
        if used.after < warmup:
            return used.after / warmup
        return self.fall(max(used.before, warmup), warmup) if warmup < 1 else 1.0


class Used(NamedTuple):
    """The shares of the budget that are used up, at most 1.

    Attributes:
        before: the step that is about to be taken.
        after: it; of the time it is what is used up now.
    """

    before: float
    after: float


def used_up(trainer: Trainer) -> Used:
    """How much of the budget is used up, in all processes by the clock of the first."""
    num_steps = trainer.estimated_stepping_batches
    by_step = 1 / num_steps if num_steps > 0 else 0.0
    clocks = [each for each in trainer.callbacks if isinstance(each, Clock)]  # type: ignore[attr-defined]
    by_time = max((clock.seconds / clock.limit for clock in clocks), default=0.0)
    if by_time and trainer.world_size > 1:
        by_time = trainer.strategy.broadcast(by_time)
    num_done = trainer.global_step
    before, after = (max(steps * by_step, by_time) for steps in (num_done, num_done + 1))
    return Used(min(before, 1.0), min(after, 1.0))
