"""Dropout keeps at its rate, the same entries again for the same seed, and no mask."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.func import grad, jvp

from graphformer.backends import kernels
from graphformer.layers import Dropout
from graphformer.layers.dropout import drop, has_kernel

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(
    kernels.why_missing() is not None, reason=f"{kernels.why_missing()}"
)


def seeded(x: Tensor, p: float = 0.5, seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    return drop(x, p)


@pytest.mark.parametrize("p", [0.003, 0.1, 0.3, 0.5, 0.9])
def test_dropout_keeps_at_its_rate_and_keeps_the_mean(p: float) -> None:
    count = 1 << 20
    out = drop(torch.ones(count), p)
    deviation = (p * (1 - p) / count) ** 0.5
    assert abs(float((out == 0).float().mean()) - p) < 4 * deviation
    assert out.unique().tolist() == [0.0, pytest.approx(1 / (1 - p))]
    assert abs(float(out.mean()) - 1) < 4 * deviation / (1 - p)


def test_neighbors_and_seeds_are_independent() -> None:
    count = 1 << 17
    keep, spread = 0.7, (0.7 * 0.3) ** 0.5
    ones = torch.ones(8 * count)
    lanes = drop(ones, 0.3).ne(0).double().view(count, 8)
    more = torch.stack([drop(ones, 0.3)[:count].ne(0).double() for _ in range(8)], 1)
    for table in (lanes, more, torch.cat([lanes, more], 1)):
        assert (table.mean(0) - keep).abs().max() < 5 * spread / count**0.5
        correlation = torch.corrcoef(table.T).fill_diagonal_(0)
        assert correlation.abs().max() < 5 / count**0.5


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 3 * 2**14 + 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set_drops_the_same(
    size: int, dtype: torch.dtype, instruction_set: str
) -> None:
    x = torch.randn(size, dtype=dtype)
    found = kernels.drop(x, 0.3, 2**63 + 11)
    kernels.use_instruction_set("portable")
    kept = kernels.drop(torch.ones(size), 0.3, 2**63 + 11).ne(0)
    precise = torch.promote_types(dtype, torch.float32)
    expected = (x.to(precise) * (1 / 0.7)).to(dtype).where(kept, torch.zeros((), dtype=dtype))
    torch.testing.assert_close(found, expected)


def test_threads_do_not_matter() -> None:
    x, before = torch.randn(100_000), torch.get_num_threads()
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(seeded(x))
    torch.set_num_threads(before)
    assert all(torch.equal(each, found[0]) for each in found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_dropout_is_what_was_kept(dtype: torch.dtype) -> None:
    x = torch.randn(7, 9, dtype=dtype).requires_grad_()
    out = Dropout(0.4)(x)
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert out.dtype == dtype
    torch.testing.assert_close(gradient * x, out)
    assert 0 < int((gradient == 0).sum()) < x.numel()


def test_gradients_in_another_memory_order_are_those_of_their_entries() -> None:
    x = torch.randn(6, 5).T.requires_grad_()
    out = drop(x, 0.5)
    (gradient,) = torch.autograd.grad(out, x, torch.ones(()).expand(5, 6))
    torch.testing.assert_close(gradient * x, out)


def test_dropout_repeats_with_the_seed_of_torch_and_is_differentiable_twice() -> None:
    x = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
    assert torch.equal(seeded(x), seeded(x))
    assert not torch.equal(seeded(x), seeded(x, seed=6))
    assert torch.autograd.gradgradcheck(lambda x: seeded(x).pow(3), x)


def test_dropout_is_transformed() -> None:
    x, tangent = torch.randn(9), torch.randn(9)
    torch.testing.assert_close(grad(lambda x: seeded(x).sum())(x) * x, seeded(x))
    torch.testing.assert_close(jvp(seeded, (x,), (tangent,))[1], seeded(tangent))


def test_dropout_saves_nothing() -> None:
    saved: list[Tensor] = []
    with saved_tensors_hooks(saved.append, lambda x: x):
        drop(torch.randn(5).requires_grad_(), 0.5)
    assert saved == []


def test_dropout_is_an_operator() -> None:
    x = torch.randn(3, 4).requires_grad_()
    torch.library.opcheck(torch.ops.graphformer.drop.default, (x.detach().T, 0.3, 7))


def test_dropout_of_nothing_and_in_evaluation_is_the_identity() -> None:
    x = torch.randn(4)
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5).eval()(x) is x
    assert drop(torch.ones(1 << 12), 1e-12).ne(0).all()


def test_what_has_no_kernel_is_dropped_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    half = torch.ones(1 << 12, dtype=torch.float16)
    assert not has_kernel(half)
    assert 0 < int(Dropout(0.25)(half).eq(0).sum()) < half.numel()
    monkeypatch.setattr(kernels, "why_missing", lambda: "none")
    one = torch.ones(1 << 12)
    torch.manual_seed(3)
    found = Dropout(0.25)(one)
    torch.manual_seed(3)
    assert torch.equal(found, torch.nn.functional.dropout(one, 0.25))


def test_dropout_of_compressed_rows_draws_for_what_they_store() -> None:
    dense = torch.where(torch.rand(60, 40) < 0.2, torch.rand(60, 40) + 1, 0.0).requires_grad_()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        x = dense.to_sparse_csr()
    torch.manual_seed(2)
    out = Dropout(0.25)(x)
    torch.manual_seed(2)
    assert out.layout is torch.sparse_csr
    assert torch.equal(out.values(), drop(x.values(), 0.25))
    torch.testing.assert_close(out.to_dense(), torch.where(out.to_dense() != 0, dense / 0.75, 0.0))
    (gradient,) = torch.autograd.grad((out @ torch.ones(40, 1)).sum(), dense)
    assert torch.equal(gradient != 0, out.to_dense() != 0)
    assert Dropout(0.25).eval()(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(ValueError, match=f"at least 0 and below 1, it got {p}"):
        Dropout(p)
