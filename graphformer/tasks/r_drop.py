"""Two passes of one batch with different dropout that are to agree, without large tables."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphformer.tasks import cross_entropy
from graphformer.tasks.cross_entropy import Chunks, check_targets, product_dtype, wants_gradients

# Entries of each table that are worked on at a time, so that several passes find them in the cache.
BLOCK = 2**17


def summed_r_drop(
    first: Float[Tensor, "token dim"],
    second: Float[Tensor, "token dim"],
    weight: Float[Tensor, "vocabulary dim"],
    target: Int[Tensor, " token"],
    label_smoothing: float = 0.0,
    alpha: float = 5.0,
) -> Float[Tensor, ""]:
    """The mean cross-entropy of two passes, and how far they are apart, summed over tokens.

    With P and Q for the probabilities of the passes, a token's loss is

        (CE(P) + CE(Q)) / 2 + alpha * (KL(P, Q) + KL(Q, P)) / 4

    which is half of the paper's, whose alpha it takes: so it is a mean where both agree. As in
    `summed_cross_entropy`, gradients are computed with the loss, chunk by chunk.

    Args:
        first: what the output layer maps to logits, in the first pass.
        second: the same in the second.
        weight: of the output layer.
        target: the right ids.
        label_smoothing: probability that is spread evenly over the vocabulary instead of given to
            the right id.
        alpha: how much it counts that the passes differ.

    Raises:
        ValueError: if there is not one target a token.

    Source: Liang et al. 2021, R-Drop (2106.14448), equations 1 to 4.
    """
    check_targets(first, target)
    check_targets(second, target)
    dtype, wanted = product_dtype(first, weight), wants_gradients(first, second, weight)
    settings = _Settings(label_smoothing, alpha / 2, dtype, wanted)
    total: Tensor = _TwoPasses.apply(first, second, weight, target, settings)
    return total / 2


class _Settings(NamedTuple):
    smoothing: float
    strength: float
    dtype: torch.dtype
    wanted: bool


class _TwoPasses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor,
        weight: Tensor,
        target: Tensor,
        settings: _Settings,
    ) -> Tensor:
        size = cross_entropy.CHUNK // 2
        with torch.autocast(first.device.type, enabled=False):
            hidden = interleave(first.to(settings.dtype), second.to(settings.dtype), size)
            targets = interleave(target, target, size)
            chunks = _PairedChunks(hidden, weight, targets, settings.smoothing)
            chunks.strength = settings.strength
            total = chunks.run(settings.wanted)
        if settings.wanted:
            passes = separate(chunks.grad_hidden, size)
            ctx.save_for_backward(
                *(each.to(first.dtype) for each in passes), chunks.grad_weight.to(weight.dtype)
            )
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(each * grad for each in ctx.saved_tensors), None, None


class _PairedChunks(Chunks):
    """Chunks of which each has as many tokens of the first pass as, behind them, of the second.

    With e = z' - z for the difference of the logits and E_P, E_Q for means under P and Q,
    KL(P, Q) + KL(Q, P) = E_Q e - E_P e: normalizers cancel. Its gradients are
    Q (e - E_Q e) + Q - P by z', and P (E_P e - e) + P - Q by z.
    """

    strength: float

    def add_loss(self, rows: slice) -> Tensor:
        hidden, target = self.hidden[rows], self.target[rows].unsqueeze(1)
        logits, probabilities = (
            buffer[: hidden.shape[0]] for buffer in (self.logits, self.probabilities)
        )
        torch.mm(hidden, self.weight.T, out=logits)
        torch.softmax(logits, -1, out=probabilities)
        right, likelihood = logits.gather(1, target), probabilities.gather(1, target)
        self.add_cross_entropy(hidden, right, likelihood)
        size = hidden.shape[0] // 2
        step = max(BLOCK // logits.shape[1], 1)
        parts = [each.split(step) for half in (logits, probabilities) for each in half.split(size)]
        means = [self._differentiate(*block) for block in zip(*parts, strict=True)]
        by_first, by_second = (torch.cat(each) for each in zip(*means, strict=True))
        self.total += self.strength * (by_second - by_first).sum()
        # The right ids once more: little of their gradients is left of much.
        p, q = likelihood.to(self.total.dtype).split(size)
        z, other_z = right.to(self.total.dtype).split(size)
        e, w = other_z - z, self.strength
        by_logits = torch.cat(
            [
                p * (1 + w * (by_first - e)) + w * (p - q),
                q * (1 + w * (e - by_second)) + w * (q - p),
            ]
        )
        row = torch.arange(hidden.shape[0], device=hidden.device)
        given = by_logits[:, 0] - (1.0 - self.smoothing)
        probabilities[row, target[:, 0]] = given.to(probabilities.dtype)
        return probabilities

    def _differentiate(
        self, z: Tensor, other_z: Tensor, p: Tensor, q: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Makes of P and Q the gradients, but for the right ids; returns E_P e and E_Q e."""
        w, precise = self.strength, self.total.dtype
        e = other_z.sub_(z)
        by_first = torch.mul(p, e, out=z).sum(-1, keepdim=True).to(precise)
        by_second = torch.mul(q, e, out=z).sum(-1, keepdim=True).to(precise)
        difference = torch.sub(q, p, out=z)  # exact where they are near, as 1 + w would not be
        factor = torch.add((1 + w * by_first).to(e.dtype), e, alpha=-w, out=e)
        p.mul_(factor).sub_(difference, alpha=w)
        other_factor = torch.sub((2 + w * (by_first - by_second)).to(e.dtype), factor, out=e)
        q.mul_(other_factor).add_(difference, alpha=w)
        return by_first, by_second


def interleave(first: Tensor, second: Tensor, size: int) -> Tensor:
    """Rows of both, in turn `size` of the one and as many of the other."""
    parts = zip(first.split(size), second.split(size), strict=True)
    return torch.cat([each for pair in parts for each in pair])


def separate(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What `interleave` joined."""
    pairs = [each.chunk(2) for each in rows.split(2 * size)]
    first, second = (torch.cat(each) for each in zip(*pairs, strict=True))
    return first, second
