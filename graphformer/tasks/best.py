"""The weights of the epoch that validated best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

Rank = Callable[[Mapping[str, float]], tuple[float, ...]]


class BestWeights(Callback):
    """Keeps a copy of the weights whenever a validation outranks all before; resumes with it.

    Args:
        rank: of what a validation measured, by name; of two tuples the larger is better.

    Attributes:
        weights: the state of the module; empty before the first validation.
        epoch: number of the epoch that they are from, counted from 1.
        values: what its validation measured.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.weights: dict[str, Tensor] = {}
        self.epoch = 0
        self.values: dict[str, float] = {}

    def restore(self, module: LightningModule) -> None:
        """Gives `module` the best weights.

        Raises:
            ValueError: there are none, since no validation has measured a number.
        """
        if not self.weights:
            raise ValueError(
                "no validation has measured a number, and so no weights are the best: where they "
                "have become NaN, write a smaller learning rate"
            )
        module.load_state_dict(self.weights)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        rank = self.rank(values)
        if any(map(math.isnan, rank)) or (self.weights and rank <= self.rank(self.values)):
            return
        state = pl_module.state_dict()
        self.weights = {name: tensor.detach().clone() for name, tensor in state.items()}
        self.epoch, self.values = trainer.current_epoch + 1, values

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "epoch": self.epoch, "values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights, self.epoch = state_dict["weights"], state_dict["epoch"]
        self.values = state_dict["values"]
