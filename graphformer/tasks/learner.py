"""What is trained: a module whose loss is a mean over all tokens of an update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import Optimizer


class SummedLoss(NamedTuple):
    """The loss of a batch.

    Attributes:
        total: sum over the tokens that count.
        num_tokens: number of these tokens.
    """

    total: Float[Tensor, ""]
    num_tokens: int | Int[Tensor, ""]


class Learner(LightningModule, ABC):
    """A module that says its loss as a sum and a count; updates follow the mean over all tokens.

    The gradient of an update is that of (sum of the losses) / (number of tokens), over all its
    accumulated batches and all processes, however many tokens each of them has. To keep gradients
    of the size of a mean, each batch is divided by the tokens of the update's first batch; what is
    left to divide by is known at the step, and is 1 where nothing is accumulated.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first_count: int | Tensor = 1
        self._update_count: int | Tensor = 0

    @abstractmethod
    def compute_loss(self, batch: Any) -> SummedLoss:
        """The summed loss of `batch` and its number of tokens."""

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """The scaled loss for the backward, and the summed one to report."""
        loss = self.compute_loss(batch)
        count = self._over_processes(loss)
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._first_count, self._update_count = at_least_one(count), 0
        self._update_count = self._update_count + count
        # Distributed training averages over processes, where a sum is wanted.
        scale = self.trainer.world_size / self._first_count
        summed = {"total": loss.total.detach(), "num_tokens": loss.num_tokens}
        return {"loss": loss.total * scale, **summed}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Makes of a division by the first batch's tokens one by those of the whole update."""
        accumulated = self.trainer.accumulate_grad_batches
        if accumulated == 1:
            return
        # Lightning has divided each batch by their number.
        scale = accumulated * self._first_count / at_least_one(self._update_count)
        gradients = [each.grad for each in self.parameters() if each.grad is not None]
        torch._foreach_mul_(gradients, scale)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs `validation_loss`, the mean over the tokens of all batches."""
        loss = self.compute_loss(batch)
        size = int(loss.num_tokens)
        mean = loss.total / max(size, 1)
        self.log("validation_loss", mean, batch_size=size, on_epoch=True, sync_dist=True)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips as Lightning does, and in bfloat16 with a fused optimizer too, which it refuses."""
        if gradient_clip_val and self.trainer.precision == "bf16-mixed":
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(
                self.trainer.precision_plugin, optimizer, gradient_clip_val, algorithm
            )
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _over_processes(self, loss: SummedLoss) -> int | Tensor:
        """The tokens of the batch in all processes; a tensor only where it would have to wait."""
        if isinstance(loss.num_tokens, int) and self.trainer.world_size == 1:
            return loss.num_tokens
        dtype = torch.promote_types(loss.total.dtype, torch.float32)
        count = torch.as_tensor(loss.num_tokens, dtype=dtype, device=self.device)
        reduced: Tensor = self.trainer.strategy.reduce(count, reduce_op="sum")
        return reduced


def at_least_one(count: int | Tensor) -> int | Tensor:
    """The count, or 1 where no token counts and the loss is zero."""
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
