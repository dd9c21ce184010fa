"""A training of seconds with all that makes resuming hard: run by tests, here or as a process.

Ragged batches in accumulated updates, dropout, augmentation from Python's and numpy's random
numbers, a validation within the epoch that draws random numbers too, schedules by step and by
metric, tied weights, clipped gradients, two passes that are to agree, an average of weights, the
best of them, and patience.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.tasks.average import AverageWeights
from graphformer.tasks.batches import BatchOrder
from graphformer.tasks.best import BestWeights
from graphformer.tasks.learner import Learner, SummedLoss
from graphformer.tasks.loader import Loader
from graphformer.tasks.optimizers import fused_optimizer
from graphformer.tasks.r_drop import summed_r_drop
from graphformer.tasks.resume import Saving
from graphformer.tasks.run import Budget, Machine, Run, train

NUM_WORDS = 7
LENGTHS = torch.tensor([3, 5, 2, 4, 6, 3, 5, 4, 2, 6, 3, 4, 5, 2, 6, 4, 3, 5, 6, 2])
SENTENCES = [torch.arange(start, start + n) % NUM_WORDS for start, n in enumerate(LENGTHS)]
NUM_STEPS = 20
EVERY_THIRD = Saving(steps=3)


class NextWord(Learner):
    """Guesses the next word from the last; calls `at` with each place that training comes to."""

    def __init__(self, at: Callable[[str, int], None] = lambda place, number: None) -> None:
        super().__init__()
        self.at = at
        self.embedding = nn.Embedding(NUM_WORDS, 8)
        self.inner = nn.Linear(8, 8)
        self.output = nn.Linear(8, NUM_WORDS, bias=False)
        self.output.weight = self.embedding.weight

    def compute_loss(self, batch: tuple[Tensor, Tensor]) -> SummedLoss:
        words, following = batch
        passes = self._hidden(words), self._hidden(words)
        total = summed_r_drop(*passes, self.output.weight, following, 0.1)
        return SummedLoss(total, len(following))

    def _hidden(self, words: Tensor) -> Tensor:
        x = F.dropout(torch.tanh(self.inner(self.embedding(words))), 0.3)
        return x * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))  # noqa: NPY002

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        self.at("batch", self.trainer.fit_loop.total_batch_idx)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.at("validation", self.trainer.global_step)
        super().validation_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.at("epoch end", self.trainer.current_epoch)

    def configure_optimizers(self) -> dict[str, Any] | tuple[list[Any], list[Any]]:
        optimizer = fused_optimizer(torch.optim.AdamW, self.parameters(), lr=0.05)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        by_step = {"scheduler": decay, "interval": "step"}
        by_metric = {"scheduler": plateau, "interval": "epoch", "monitor": "validation_loss"}
        return [optimizer], [by_step, by_metric]


def collate(sentences: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Words and those that follow, some of them replaced at random."""
    words = torch.cat([sentence[:-1] for sentence in sentences])
    following = torch.cat([sentence[1:] for sentence in sentences])
    words[torch.rand(len(words)) < 0.1] = random.randrange(NUM_WORDS)
    return words.roll(int(np.random.rand() < 0.1)), following  # noqa: NPY002


def loader(num_workers: int = 0, max_tokens: int = 10) -> Loader:
    """Eleven ragged batches an epoch."""
    order = BatchOrder(LENGTHS, max_tokens, seed=3)
    return Loader(SENTENCES, collate, order, num_workers=num_workers)


def train_tiny(
    out: Path,
    at: Callable[[str, int], None] = lambda place, number: None,
    *,
    resume: bool = False,
    steps: int = NUM_STEPS,
    num_workers: int = 0,
    saving: Saving = EVERY_THIRD,
) -> NextWord:
    """The trained module; six updates an epoch, the last of one batch."""
    torch.manual_seed(5)
    learner = NextWord(at)
    machine = Machine(accelerator="cpu")
    run = Run(out, Budget(steps=steps), seed=11, resume=resume, saving=saving, machine=machine)
    batches, validation = loader(num_workers=num_workers), loader(max_tokens=40)
    callbacks = [
        AverageWeights(3),
        BestWeights(lambda values: (-values["validation_loss"],), keep=2),
        # No improvement is as large: it waits from the first validation on.
        EarlyStopping("validation_loss", 1e3, patience=NUM_STEPS, check_on_train_epoch_end=False),
    ]
    options = {"accumulate_grad_batches": 2, "val_check_interval": 4, "gradient_clip_val": 1.0}
    train(learner, batches, validation, run, callbacks=callbacks, **options)
    return learner


def signal_at(number: int, send: Callable[[], None]) -> Callable[[str, int], None]:
    """Sends a signal when training comes to that batch."""

    def at(place: str, reached: int) -> None:
        if (place, reached) == ("batch", number):
            send()

    return at


if __name__ == "__main__":
    folder, batch, name = sys.argv[1:]
    torch.set_num_threads(1)
    # To the whole group, its worker included, as a terminal does.
    at = signal_at(int(batch), lambda: os.killpg(os.getpgrp(), signal.Signals[name]))
    train_tiny(Path(folder), at, num_workers=1)
