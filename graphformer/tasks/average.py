"""The mean of the weights over the last part of training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from graphformer.tasks.schedule import used_up
from graphformer.tasks.weights import copy_weights, mean_weights, put_weights

# Share of the budget over which the points are spread.
LAST = 0.2


class AverageWeights(Callback):
    """Keeps the weights of points of training; resumes with them.

    The points are as far apart as spreads them over the last fifth of the budget, the end being
    the last of them. They are kept from the start, so that a training that stops early has as many
    before its stop, as far apart. The budget, not the epochs, says where they are: an epoch may
    take the whole training or a second.

    Args:
        number: of points, the end included; at least 2.

    Attributes:
        points: the weights at those before the end, the latest last.

    Source: Vaswani et al. 2017 (1706.03762), section 6.1; Izmailov et al. 2018 (1803.05407).
    """

    def __init__(self, number: int) -> None:
        if number < 2:
            raise ValueError(f"a mean of weights takes at least 2 points, not {number}")
        self.number = number
        self.points: list[dict[str, Tensor]] = []
        self._passed = 0

    def restore(self, module: LightningModule) -> None:
        """Gives `module`, which has the weights of the end, the mean over all points."""
        put_weights(module, mean_weights([*self.points, copy_weights(module)]))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Before an update, and so never at the end, which is a point of its own.
        if batch_idx % trainer.accumulate_grad_batches:
            return
        # A little more, or the share of a step that is exactly at a point rounds to one before it.
        passed = int(used_up(trainer).before * self.number / LAST + 1e-6)
        if passed > self._passed:
            self.points = [*self.points, copy_weights(pl_module)][1 - self.number :]
        self._passed = passed  # fewer than before where the budget has grown

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points, "passed": self._passed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points, self._passed = state_dict["points"], state_dict["passed"]
