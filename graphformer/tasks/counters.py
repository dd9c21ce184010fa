"""Lightning's counters of epochs and batches, as they are when a batch begins.

They are what `trainer.fit_loop.state_dict()` returns. When a batch begins, it is counted as ready
but not as started, and its epoch as started but not as processed. Resumed from these counters,
Lightning begins with that batch.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop

Counters = dict[str, Any]
BATCH = "epoch_loop.batch_progress"


def forget_last_batch(counters: Counters) -> None:
    """The batch that begins is not known to be the last of its epoch, or Lightning skips it."""
    counters[BATCH]["is_last_batch"] = False


def begin_next_batch(counters: Counters, num_batches: int, accumulated: int) -> None:
    """Counters of a training that ended become those of the batch that would have followed.

    An epoch that was cut short goes on, at the first batch of the update it was in; after a whole
    one, the next epoch begins.

    Args:
        counters: of the end of training; changed in place.
        num_batches: batches of an epoch.
        accumulated: batches of an update.
    """
    epoch, batch = counters["epoch_progress"], counters[BATCH]
    num_done = batch["current"]["completed"]
    if num_done < num_batches:
        add(epoch, -1, "processed", "completed")
        add(batch, -(num_done % accumulated), "ready", "started", "processed", "completed")
    else:
        add(epoch, 1, "ready", "started")
        optimizer = counters["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
        scheduler = counters["epoch_loop.scheduler_progress"]
        for progress in (batch, scheduler, optimizer["step"], optimizer["zero_grad"]):
            progress["current"] = dict.fromkeys(progress["current"], 0)
        validation = counters["epoch_loop.val_loop.batch_progress"]
        validation["total"] = dict.fromkeys(validation["total"], 0)
    add(batch, 1, "ready")


def add(progress: Counters, number: int, *stages: str) -> None:
    """Adds `number` to the stages of what was done in all and of what is done now."""
    for scope in ("total", "current"):
        for stage in stages:
            progress[scope][stage] += number


def begin_batch_again(loop: _FitLoop, counters: Counters) -> None:
    """The fit loop, at the beginning of the resumed batch, counts as when the checkpoint was taken.

    On the way there Lightning counts some things twice, and it remembers to the end of the epoch
    that it was resumed, and leaves out what it does otherwise.
    """
    progress = loop.epoch_loop.batch_progress
    is_last_batch = progress.is_last_batch
    loop.load_state_dict(counters)
    progress.is_last_batch = is_last_batch
    forget_restart(loop)


def forget_restart(loop: _Loop) -> None:
    """The loop and those in it are no longer restarting."""
    loop.on_iteration_done()
    for inner in vars(loop).values():
        if isinstance(inner, _Loop):
            forget_restart(inner)
