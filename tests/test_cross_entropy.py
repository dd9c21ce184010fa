"""The loss over a large vocabulary, of one pass and of two that are to agree, in chunks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from graphformer.tasks import cross_entropy, r_drop
from graphformer.tasks.cross_entropy import summed_cross_entropy
from graphformer.tasks.r_drop import summed_r_drop

DIM, VOCABULARY = 6, 11
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}
# Parts of the gradient of two passes cancel, and leave what each was rounded by.
LOOSER = {torch.bfloat16: 0.1}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", 8)
    monkeypatch.setattr(r_drop, "BLOCK", 3 * VOCABULARY)


def plain_cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor, smoothing: float) -> Tensor:
    logits = hidden @ weight.T
    return F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)


def plain_r_drop(
    first: Tensor, second: Tensor, weight: Tensor, target: Tensor, smoothing: float, alpha: float
) -> Tensor:
    """As the paper has it, divided by two."""
    loss = sum(plain_cross_entropy(each, weight, target, smoothing) for each in (first, second))
    p, q = ((each @ weight.T).log_softmax(-1) for each in (first, second))
    apart = F.kl_div(p, q, reduction="sum", log_target=True)
    apart = apart + F.kl_div(q, p, reduction="sum", log_target=True)
    return (loss + alpha * apart / 2) / 2


def inputs(num_tokens: int, num_passes: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(num_tokens)
    first = torch.randn(num_tokens, DIM, dtype=torch.float64)
    passes = [first + 0.3 * torch.randn_like(first) for _ in range(num_passes)]
    weight = torch.randn(VOCABULARY, DIM, dtype=torch.float64)
    leaves = [each.to(dtype).requires_grad_() for each in (*passes, weight)]
    return leaves, torch.randint(VOCABULARY, (num_tokens,))


def compare(
    ours: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    leaves: list[Tensor],
    target: Tensor,
) -> None:
    """Loss and gradients are those of the plain formula in double precision."""
    tolerance = (TOLERANCE | LOOSER if len(leaves) == 3 else TOLERANCE)[leaves[0].dtype]
    exact = [each.detach().double().requires_grad_() for each in leaves]
    expected, found = plain(*exact, target), ours(*leaves, target)
    assert found.item() == pytest.approx(expected.item(), rel=tolerance)
    gradients = torch.autograd.grad(3 * found, leaves)
    for one, other in zip(gradients, torch.autograd.grad(3 * expected, exact), strict=True):
        assert (one.double() - other).norm() <= tolerance * other.norm()
    assert ours(*(each.detach() for each in leaves), target).item() == found.item()


numbers = st.integers(1, 21)
dtypes = st.sampled_from(list(TOLERANCE))
smoothings = st.sampled_from([0.0, 0.1])


@given(num_tokens=numbers, dtype=dtypes, smoothing=smoothings)
def test_cross_entropy_is_that_of_the_whole_table(
    num_tokens: int, dtype: torch.dtype, smoothing: float
) -> None:
    compare(
        partial(summed_cross_entropy, label_smoothing=smoothing),
        partial(plain_cross_entropy, smoothing=smoothing),
        *inputs(num_tokens, 1, dtype),
    )


@given(num_tokens=numbers, dtype=dtypes, smoothing=smoothings, alpha=st.floats(0.1, 6.0))
def test_two_passes_lose_what_the_paper_says(
    num_tokens: int, dtype: torch.dtype, smoothing: float, alpha: float
) -> None:
    compare(
        partial(summed_r_drop, label_smoothing=smoothing, alpha=alpha),
        partial(plain_r_drop, smoothing=smoothing, alpha=alpha),
        *inputs(num_tokens, 2, dtype),
    )


@pytest.mark.parametrize(("loss", "num_passes"), [(summed_cross_entropy, 1), (summed_r_drop, 2)])
def test_gradients_are_those_of_the_loss(loss: Callable[..., Tensor], num_passes: int) -> None:
    leaves, target = inputs(9, num_passes, torch.float64)
    assert torch.autograd.gradcheck(partial(loss, target=target, label_smoothing=0.1), leaves)


def test_passes_that_agree_lose_their_cross_entropy() -> None:
    (hidden, weight), target = inputs(9, 1, torch.float64)
    both = summed_r_drop(hidden, hidden, weight, target, 0.1, 7.0)
    one = summed_cross_entropy(hidden, weight, target, 0.1)
    for found, expected in zip(
        torch.autograd.grad(both, [hidden, weight]),
        torch.autograd.grad(one, [hidden, weight]),
        strict=True,
    ):
        assert torch.allclose(found, expected)
    assert both.item() == pytest.approx(one.item())


class Largest(TorchDispatchMode):
    """Remembers the most bytes that a tensor had, and the types of large ones."""

    def __init__(self, large: int) -> None:
        super().__init__()
        self.large = large
        self.numel = 0
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self.numel = max(self.numel, each.numel())
                if each.numel() >= self.large:
                    self.dtypes.add(each.dtype)
        return result


@pytest.mark.parametrize(("loss", "num_passes"), [(summed_cross_entropy, 1), (summed_r_drop, 2)])
def test_no_table_is_larger_than_a_chunk(loss: Callable[..., Tensor], num_passes: int) -> None:
    num_tokens, vocabulary = 64, 400
    passes = [torch.randn(num_tokens, DIM, requires_grad=True) for _ in range(num_passes)]
    weight = torch.randn(vocabulary, DIM, requires_grad=True)
    target = torch.randint(vocabulary, (num_tokens,))
    with Largest(vocabulary * DIM + 1) as seen, torch.autocast("cpu", torch.bfloat16):
        loss(*passes, weight, target, 0.1).backward()
    assert seen.numel == cross_entropy.CHUNK * vocabulary
    assert seen.dtypes == {torch.bfloat16}


@pytest.mark.usefixtures("unchecked")
def test_losses_refuse_other_numbers_of_targets() -> None:
    (first, second, weight), target = inputs(5, 2, torch.float32)
    message = "hidden has 5 tokens and target has shape .4,.: give one id a token"
    with pytest.raises(ValueError, match=message):
        summed_cross_entropy(first, weight, target[:4])
    for passes in ((first, second[:4]), (first[:4], second)):
        with pytest.raises(ValueError, match=message):
            summed_r_drop(*passes, weight, target[:4])
