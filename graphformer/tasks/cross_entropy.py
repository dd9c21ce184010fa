"""Cross-entropy of a large vocabulary, without a table of tokens x vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphformer.backends import kernels

# Tokens whose logits are in memory at a time: their few megabytes stay in the cache of a core.
CHUNK = 1024


def summed_cross_entropy(
    hidden: Float[Tensor, "token dim"],
    weight: Float[Tensor, "vocabulary dim"],
    target: Int[Tensor, " token"],
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Minus the log-likelihood of the targets under softmax(weight @ hidden), summed, in nats.

    The gradients are computed with the loss, chunk by chunk, while the logits of a chunk are
    there; the backward only scales them. Under autocast the products run in its dtype.

    Args:
        hidden: what the output layer maps to logits.
        weight: of the output layer.
        target: the right ids.
        label_smoothing: probability that is spread evenly over the vocabulary instead of given to
            the right id.

    Raises:
        ValueError: if there is not one target a token.

    Source: label smoothing, Szegedy et al. 2016 (1512.00567), section 7.
    """
    check_targets(hidden, target)
    dtype, wanted = product_dtype(hidden, weight), wants_gradients(hidden, weight)
    total: Tensor = _CrossEntropy.apply(hidden, weight, target, label_smoothing, dtype, wanted)
    return total


def check_targets(hidden: Tensor, target: Tensor) -> None:
    """Does nothing where there is a target a token.

    Raises:
        ValueError: there is not.
    """
    if target.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden has {hidden.shape[0]} tokens and target has shape {tuple(target.shape)}: "
            "give one id a token"
        )


def product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """What the products with the weight run in: under autocast its dtype."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(hidden.dtype, weight.dtype)


def wants_gradients(*inputs: Tensor) -> bool:
    """Whether gradients are computed with the loss."""
    return torch.is_grad_enabled() and any(each.requires_grad for each in inputs)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        smoothing: float,
        dtype: torch.dtype,
        wanted: bool,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            chunks = Chunks(hidden.to(dtype), weight, target, smoothing)
            total = chunks.run(wanted)
        if wanted:
            ctx.save_for_backward(
                chunks.grad_hidden.to(hidden.dtype), chunks.grad_weight.to(weight.dtype)
            )
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad, grad_weight * grad, None, None, None, None


class Chunks:
    """The loss and its gradients, in buffers that every chunk uses again."""

    def __init__(self, hidden: Tensor, weight: Tensor, target: Tensor, smoothing: float) -> None:
        self.hidden, self.target, self.smoothing = hidden, target, smoothing
        self.weight = weight.to(hidden.dtype)
        precision = torch.promote_types(hidden.dtype, torch.float32)
        self.mean_weight = weight.mean(0).to(precision)
        self.total = torch.zeros((), dtype=precision, device=hidden.device)
        size = min(CHUNK, hidden.shape[0])
        self.logits = kernels.expect_writes(hidden.new_empty(size, weight.shape[0]))
        self.probabilities = kernels.expect_writes(torch.empty_like(self.logits))

    def run(self, wanted: bool) -> Tensor:
        """The summed loss; gradients too, where they are wanted."""
        if wanted:
            self.grad_hidden = torch.empty_like(self.hidden)
            self.grad_weight = torch.zeros_like(self.weight, dtype=self.total.dtype)
            self._product = torch.empty_like(self.weight)
        for start in range(0, self.hidden.shape[0], CHUNK):
            rows = slice(start, start + CHUNK)
            difference = self.add_loss(rows)
            if wanted:
                self._add_gradients(rows, difference)
        if wanted and self.smoothing:
            self._add_smoothing()
        return self.total

    def add_loss(self, rows: slice) -> Tensor:
        """Adds the loss of these tokens; returns its gradient by their logits."""
        hidden, target = self.hidden[rows], self.target[rows].unsqueeze(1)
        logits, probabilities = (
            buffer[: hidden.shape[0]] for buffer in (self.logits, self.probabilities)
        )
        torch.mm(hidden, self.weight.T, out=logits)
        torch.softmax(logits, -1, out=probabilities)
        likelihood = probabilities.gather(1, target)
        self.add_cross_entropy(hidden, logits.gather(1, target), likelihood)
        # The gradient of the logits: softmax minus the right id, but for what smoothing adds.
        row = torch.arange(hidden.shape[0], device=hidden.device)
        # Not by scatter_, which copies the table.
        probabilities[row, target[:, 0]] = (likelihood - (1.0 - self.smoothing))[:, 0]
        return probabilities

    def add_cross_entropy(self, hidden: Tensor, right: Tensor, likelihood: Tensor) -> None:
        """Adds the loss of tokens, of whose right ids the logits and probabilities are given."""
        precise = self.total.dtype
        self.total -= likelihood.to(precise).clamp(min=torch.finfo(precise).tiny).log().sum()
        if self.smoothing:
            # The mean of the logits over the vocabulary is a product with the mean vector.
            difference = right.to(precise).squeeze(1) - hidden.to(precise) @ self.mean_weight
            self.total += self.smoothing * difference.sum()

    def _add_gradients(self, rows: slice, difference: Tensor) -> None:
        torch.mm(difference, self.weight, out=self.grad_hidden[rows])
        torch.mm(difference.T, self.hidden[rows], out=self._product)
        self.grad_weight += self._product

    def _add_smoothing(self) -> None:
        self.grad_hidden -= (self.smoothing * self.mean_weight).to(self.grad_hidden.dtype)
        share = self.smoothing / self.weight.shape[0]
        self.grad_weight -= share * self.hidden.to(self.total.dtype).sum(0)
