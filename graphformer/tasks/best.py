"""The weights of the validations that went best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from graphformer.tasks.weights import copy_weights, put_weights

Rank = Callable[[Mapping[str, float]], tuple[float, ...]]


class Validated(NamedTuple):
    """The weights of a validation.

    Attributes:
        weights: of the module, each tied weight once.
        epoch: number of the epoch that they are from, counted from 1.
        values: what the validation measured, by name.
    """

    weights: dict[str, Tensor]
    epoch: int
    values: dict[str, float]


Write = Callable[[LightningModule, Sequence[Validated]], None]


class BestWeights(Callback):
    """Keeps a copy of the weights of the best validations; resumes with them.

    Args:
        rank: of what a validation measured; of two tuples the larger is better, of equal ones the
            earlier.
        keep: how many of the best are kept.
        write: brings into files which are kept, when they change and when training starts, in the
            first process.

    Attributes:
        kept: the best first; empty before the first validation.
    """

    def __init__(self, rank: Rank, keep: int = 1, write: Write | None = None) -> None:
        self.rank = rank
        self.keep = keep
        self.write = write
        self.kept: list[Validated] = []

    @property
    def best(self) -> Validated:
        """The best of all.

        Raises:
            ValueError: there is none, since no validation has measured a number.
        """
        if not self.kept:
            raise ValueError(
                "no validation has measured a number, and so no weights are the best: where they "
                "have become NaN, write a smaller learning rate"
            )
        return self.kept[0]

    def restore(self, module: LightningModule) -> None:
        """Gives `module` the best weights.

        Raises:
            ValueError: there are none, since no validation has measured a number.
        """
        put_weights(module, self.best.weights)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        rank = self.rank(values)
        ranks = [self.rank(each.values) for each in self.kept]
        place = sum(each >= rank for each in ranks)
        if any(map(math.isnan, rank)) or place >= self.keep:
            return
        found = Validated(copy_weights(pl_module), trainer.current_epoch + 1, values)
        self.kept = [*self.kept[:place], found, *self.kept[place:]][: self.keep]
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        if self.write is not None and trainer.is_global_zero:
            self.write(module, self.kept)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [each._asdict() for each in self.kept]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = [Validated(**each) for each in state_dict["kept"]]
