"""What is drawn is drawn from what the model says, and depends on seed and sentence alone."""

from __future__ import annotations

import pytest
import torch
from decoding_cases import (
    ENDS,
    VOCABULARY,
    examples_of,
    log_probability,
    make_translator,
    random_sentences,
)
from torch import Tensor

from graphformer.models.decode import Draw, Hypothesis, greedy, sample
from graphformer.models.decode.sampling import choose

MOST = 7


def ids_of(found: list[list[Hypothesis]]) -> list[list[list[int]]]:
    return [[one.ids.tolist() for one in each] for each in found]


@pytest.mark.parametrize("draw", [Draw(), Draw(1.5, top_k=4), Draw(0.7, top_p=0.8, seed=3)])
def test_what_is_drawn_does_not_depend_on_the_batch(draw: Draw) -> None:
    model = make_translator("rotary", seed=4)
    source = random_sentences(5, 1, 3, 8, 2, 6)
    limits = torch.tensor([3, 7, 5, 1, 7, 6])
    together = sample(model, source, draw=draw, count=3, max_length=limits, **ENDS)
    for number, one in enumerate(examples_of(source)):
        most = int(limits[number])
        settings = ENDS | {"draw": draw, "numbers": [number], "max_length": most}
        assert ids_of(sample(model, one, count=3, **settings)) == ids_of(
            together[number : number + 1]
        )
        # How many are drawn changes none of them either.
        (first,) = ids_of(sample(model, one, **settings))
        assert first == ids_of(together)[number][:1]
    assert any(len(set(map(str, each))) > 1 for each in ids_of(together)), "not all are alike"
    again = sample(model, source, draw=draw, count=3, max_length=limits, **ENDS)
    assert ids_of(again) == ids_of(together)
    assert ids_of(sample(model, source, draw=Draw(seed=9), max_length=limits, **ENDS)) != [
        each[:1] for each in ids_of(together)
    ]


def test_the_smallest_temperature_draws_the_likeliest() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, -1.0, 4.0]])
    drawn = choose(logits, torch.tensor([0.2, 0.9], dtype=torch.float64), Draw(1e-300))
    assert drawn.tolist() == [1, 0]


@torch.no_grad()
def test_scores_of_samples_are_the_models_own() -> None:
    model, source = make_translator(), random_sentences(5, 3)
    found = sample(model, source, draw=Draw(2.0), count=4, max_length=MOST, **ENDS)
    for ids, hypotheses in zip(source.unbatch(), found, strict=True):
        for one in hypotheses:
            count = min(len(one.ids) + 1, MOST)
            expected = log_probability(model, ids, one.ids, count) / count
            assert one.score == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("draw", [Draw(1e-6), Draw(top_k=1), Draw(top_p=1e-9)])
def test_the_likeliest_alone_is_greedy(draw: Draw) -> None:
    model, source = make_translator(), random_sentences(5, 1, 3)
    found = sample(model, source, draw=draw, max_length=MOST, **ENDS)
    expected = greedy(model, source, max_length=MOST, **ENDS)
    assert [each[0].ids.tolist() for each in found] == [ids.tolist() for ids in expected]


def shares_of(logits: Tensor, draw: Draw, count: int = 4001) -> Tensor:
    """How many of evenly spread chances lead to each id."""
    chances = torch.linspace(0, 1, count + 1, dtype=torch.float64)[:-1]
    ids = choose(logits.expand(count, -1), chances, draw)
    return torch.bincount(ids, minlength=logits.shape[1]) / count


def test_ids_are_drawn_by_their_probabilities() -> None:
    logits = torch.randn(1, VOCABULARY, dtype=torch.float64)
    for temperature in (0.5, 1.0, 3.0):
        found = shares_of(logits, Draw(temperature))
        torch.testing.assert_close(
            found.double(), (logits[0] / temperature).softmax(0), atol=1e-3, rtol=0
        )
    order = logits[0].argsort(descending=True)
    few = shares_of(logits, Draw(top_k=3))
    assert set(few.nonzero().flatten().tolist()) == set(order[:3].tolist())
    summed = logits[0].softmax(0)[order].cumsum(0)
    for top_p in (0.2, 0.6, 0.95):
        needed = int((summed < top_p).sum()) + 1
        kept = shares_of(logits, Draw(top_p=top_p))
        assert set(kept.nonzero().flatten().tolist()) == set(order[:needed].tolist())


def test_no_chance_leads_beyond_what_may_be_drawn() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]], dtype=torch.float64)
    highest = torch.tensor([1.0 - 2**-53], dtype=torch.float64)
    for draw in (Draw(), Draw(top_k=3), Draw(top_p=0.9)):
        assert int(choose(logits, highest, draw)) in {0, 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0: write a number above 0, or decode greedily"),
        ({"top_k": 0}, "top_k is 0: write a whole number of at least 1"),
        ({"top_p": 0.0}, "top_p is 0.0: write a probability above 0"),
        ({"top_p": 1.5}, "top_p is 1.5: write a probability above 0"),
        ({"seed": -1}, "seed is -1: write a number of at least 0"),
    ],
)
def test_draws_that_make_no_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Draw(**settings)
