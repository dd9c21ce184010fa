"""Which examples make a batch, and how they are loaded: by seed and epoch alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import loader
from torch import Tensor

from graphformer.tasks.batches import BatchOrder, PlannedBatch
from graphformer.tasks.even_batches import EVEN
from graphformer.tasks.loader import Loader
from graphformer.tasks.randomness import (
    capture_random_state,
    restore_random_state,
    seed_everything,
    seeded,
)

CPU = torch.device("cpu")


def planned(order: BatchOrder, epoch: int = 0) -> list[PlannedBatch]:
    order.set_epoch(epoch)
    return list(order)


ragged = st.lists(st.integers(0, 90), min_size=1, max_size=60).map(torch.tensor)


@given(lengths=ragged, epoch=st.integers(0, 5), seed=st.integers(0, 3))
def test_every_example_is_in_one_batch_within_the_budget(
    lengths: Tensor, epoch: int, seed: int
) -> None:
    order = BatchOrder(lengths, 100, seed=seed)
    batches = planned(order, epoch)
    assert sorted(index for batch in batches for index in batch.examples) == [*range(len(lengths))]
    assert all(lengths[batch.examples].sum() <= 100 for batch in batches)
    assert len(batches) == len(order) == len(planned(order, epoch + 1))


@given(
    lengths=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=300),
    seed=st.integers(0, 3),
)
def test_examples_of_two_sides_are_in_one_batch_within_the_budget(
    lengths: list[tuple[int, int]], seed: int
) -> None:
    sizes = torch.tensor(lengths)
    batches = planned(BatchOrder(sizes, 1000, seed=seed))
    assert sorted(index for batch in batches for index in batch.examples) == [*range(len(sizes))]
    assert all((sizes[batch.examples].sum(0) <= 1000).all() for batch in batches)


def test_most_batches_have_multiples_of_tokens_on_each_side() -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(6, 30, (20_000,), generator=generator)
    target = source + torch.randint(-4, 5, (20_000,), generator=generator)
    sizes = torch.stack([source, target.clamp(min=1)], 1)
    order = BatchOrder(sizes, 4096)
    sums = torch.stack([sizes[batch.examples].sum(0) for batch in planned(order)])
    assert (sums % EVEN == 0).all(1).float().mean() > 0.75
    assert len(sums[:, 0].unique()) < len(sums) / 4
    by_length = BatchOrder(sizes, 4096, shuffle=False)
    sums = torch.stack([sizes[batch.examples].sum(0) for batch in planned(by_length)])
    assert (sums % EVEN == 0).all(1).float().mean() < 0.25, "only what is shuffled changes places"


@given(lengths=ragged, epoch=st.integers(0, 3), processes=st.integers(1, 4))
def test_processes_share_the_batches_equally(lengths: Tensor, epoch: int, processes: int) -> None:
    num_batches = BatchOrder(lengths, 100).count(1)
    if -(-num_batches // processes) * processes > len(lengths):
        return  # which is refused
    shares = [
        planned(BatchOrder(lengths, 100, process=(rank, processes)), epoch)
        for rank in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    assert all(batch.examples for share in shares for batch in share)
    examples = [index for share in shares for batch in share for index in batch.examples]
    assert sorted(examples) == [*range(len(lengths))]


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    lengths = torch.arange(1, 200) % 40 + 1
    order = BatchOrder(lengths, 200, seed=1)
    third = planned(order, 3)
    np.random.seed(9)  # noqa: NPY002
    planned(order, 7)
    assert planned(BatchOrder(lengths, 200, seed=1), 3) == third
    assert planned(order, 4) != third
    assert planned(BatchOrder(lengths, 200, seed=2), 3) != third


def test_examples_of_a_batch_are_of_like_length() -> None:
    lengths = torch.randint(1, 60, (2000,))
    batches = planned(BatchOrder(lengths, 600))
    spans = [lengths[batch.examples].max() - lengths[batch.examples].min() for batch in batches]
    assert torch.stack(spans).float().mean() <= 4
    filled = torch.stack([lengths[batch.examples].sum() for batch in batches]) / 600
    assert filled.float().mean() >= 0.9
    firsts = [float(lengths[batch.examples].float().mean()) for batch in batches]
    assert firsts != sorted(firsts)


def test_batches_of_a_size_have_that_size() -> None:
    order = BatchOrder.of_size(10, 4)
    assert sorted(len(batch.examples) for batch in planned(order)) == [2, 4, 4]
    in_order = BatchOrder.of_size(10, 4, shuffle=False)
    assert [batch.examples for batch in in_order] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_an_epoch_can_be_entered_at_any_batch() -> None:
    order = BatchOrder.of_size(20, 3, seed=4, process=(1, 2))
    whole = planned(order, 2)
    order.start_at(2, 1)
    assert planned(order, 2) == whole[1:]
    assert len(order) == len(whole)
    assert len(planned(order, 3)) == len(whole)


@pytest.mark.parametrize(
    ("lengths", "process", "message"),
    [
        ([], None, "there is no example to make batches of"),
        ([3, 12, 4], None, "example 1 has 12 tokens, but a batch holds at most max_tokens=10"),
    ],
)
def test_batches_refuse(lengths: list[int], process: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchOrder(torch.tensor(lengths, dtype=torch.int64), 10, process=process)


def test_batches_refuse_more_processes_than_examples() -> None:
    with pytest.raises(ValueError, match="2 examples cannot be shared among 3 processes"):
        len(BatchOrder.of_size(2, 1, process=(0, 3)))


def test_batches_refuse_processes_that_cannot_have_equally_many() -> None:
    order = BatchOrder(torch.full((3,), 6), 10)
    assert order.count(3) == 1
    with pytest.raises(ValueError, match="3 batches of one example each cannot be shared evenly"):
        order.count(2)


def loaded(batches: Loader, epoch: int) -> list[tuple[Tensor, Tensor]]:
    batches.sampler.set_epoch(epoch)
    return list(batches)


def test_workers_load_the_same_batches() -> None:
    alone, helped = loader(), loader(num_workers=2)
    for epoch in (0, 1):
        for one, other in zip(loaded(alone, epoch), loaded(helped, epoch), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    helped.close()


def test_loading_leaves_the_random_state_alone() -> None:
    first = loaded(loader(), 0)
    before = capture_random_state(CPU)
    second = loaded(loader(), 0)
    after = capture_random_state(CPU)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    for one, other in zip(before.values(), after.values(), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def draw() -> tuple[float, ...]:
    normal, numpy_normal = random.gauss(0, 1), float(np.random.normal())  # noqa: NPY002
    return random.random(), normal, float(np.random.rand()), numpy_normal, float(torch.rand(()))  # noqa: NPY002


def test_random_state_is_given_back() -> None:
    seed_everything(3, 1)
    draw()  # leaves half of a pair of normal numbers in Python and in numpy
    state = capture_random_state(CPU)
    drawn = [draw() for _ in range(3)]
    seed_everything(8)
    restore_random_state(state, CPU)
    with seeded(5, 2):
        inner = draw()
    assert [draw() for _ in range(3)] == drawn
    with seeded(5, 2):
        assert draw() == inner
