"""The largest entries of rows are those of a stable sort, whatever finds them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphformer.backends import kernels
from graphformer.models.decode.top import MOST, find_best


@given(
    rows=st.integers(0, 9),
    size=st.integers(1, 700),
    count=st.integers(1, 70),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_the_best_are_the_largest_and_of_equal_ones_the_first(
    rows: int, size: int, count: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(size)
    # Half of them are equal to others, and some are infinitely small.
    table = torch.randn(rows, size).mul(6).where(torch.rand(rows, size) < 0.9, -torch.inf)
    table = table.where(torch.rand(rows, size) < 0.5, table.round()).to(dtype)
    count = min(count, size)
    best = find_best(table, count)
    precise = table.to(torch.promote_types(dtype, torch.float32))
    expected = precise.sort(dim=1, descending=True, stable=True)
    assert torch.equal(best.values, expected.values[:, :count])
    if count <= MOST and kernels.why_missing() is None:
        assert torch.equal(best.columns, expected.indices[:, :count])
    assert torch.equal(precise.gather(1, best.columns), best.values)
    torch.testing.assert_close(best.log_sums, precise.logsumexp(1))


@pytest.mark.skipif(kernels.why_missing() is not None, reason="torch's topk begins with it")
def test_what_is_no_number_is_not_among_the_best() -> None:
    table = torch.randn(2, 300)
    table[0, 7] = torch.nan
    best = find_best(table, 4)
    assert torch.equal(best.values, table.nan_to_num(-9.0).topk(4).values)
    assert best.log_sums.isnan().tolist() == [True, False]


@pytest.mark.skipif(kernels.why_missing() is not None, reason="torch's topk begins with it")
def test_no_number_comes_before_a_later_infinitely_small_one(instruction_set: str) -> None:
    row = torch.full((1, 66), -torch.inf)
    row[0, 0] = row[0, 40] = torch.nan
    assert find_best(row, 3).columns.tolist() == [[0, 1, 2]]
    row[0, :32] = torch.nan
    row[0, 65] = 1.0
    assert find_best(row, 3).columns.tolist() == [[65, 0, 1]]


def test_sums_of_what_is_not_finite_are_those_of_torch(instruction_set: str) -> None:
    table = torch.randn(5, 70)
    table[0, 3] = torch.inf
    table[1] = torch.nan
    table[2, 68] = torch.nan
    table[3, 1], table[3, 69] = torch.inf, torch.nan
    table[4, :69] = -torch.inf
    best = find_best(table, 2)
    torch.testing.assert_close(best.log_sums, table.logsumexp(1), equal_nan=True)


@pytest.mark.parametrize("count", [0, 4])
def test_more_entries_than_there_are_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count is {count}, of rows of 3: ask for one entry at"):
        find_best(torch.tensor([[1.0, 2.0, 3.0]]), count)


def test_every_instruction_set_finds_the_same(instruction_set: str) -> None:
    table = torch.randn(5, 1029).round(decimals=1)
    best = find_best(table, 10)
    expected = table.sort(dim=1, descending=True, stable=True)
    assert torch.equal(best.columns, expected.indices[:, :10])
    torch.testing.assert_close(best.log_sums, table.logsumexp(1))


def test_torch_finds_them_where_no_kernel_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "why_missing", lambda: "none")
    table = torch.randn(3, 50).bfloat16()
    best = find_best(table, 50)
    assert torch.equal(best.values, table.float().sort(dim=1, descending=True).values)
    assert best.log_sums.dtype == torch.float32
