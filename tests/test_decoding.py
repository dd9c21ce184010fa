"""However a sequence is found, it is that which the model gives without a cache, and alone."""

from __future__ import annotations

import re

import pytest
import torch
from decoding_cases import (
    ENDS,
    SCORES,
    VOCABULARY,
    cases,
    examples_of,
    log_probability,
    make_translator,
    random_sentences,
)

import graphformer as gf
from graphformer.models.decode import Hypothesis, beam_search, greedy, sample
from graphformer.models.decode.top import find_best
from graphformer.models.sequence import Transformer

MOST = 6


def ids_of(hypotheses: list[Hypothesis]) -> list[list[int]]:
    return [one.ids.tolist() for one in hypotheses]


@pytest.mark.parametrize(("score", "topology"), cases())
@torch.no_grad()
def test_what_is_found_is_what_the_model_gives_without_a_cache(score: str, topology: str) -> None:
    model = make_translator(score, topology)
    source = random_sentences(5, 1, 3, 8)
    settings = ENDS | {"max_length": MOST}
    likeliest = greedy(model, source, **settings)
    alone = beam_search(model, source, beam=1, **settings)
    assert [ids_of(each) for each in alone] == [[ids.tolist()] for ids in likeliest]
    together = beam_search(model, source, beam=4, **settings)
    for number, one in enumerate(examples_of(source)):
        (found,) = beam_search(model, one, beam=4, **settings)
        assert ids_of(found) == ids_of(together[number])
        for ids, value in together[number]:
            count = min(len(ids) + 1, MOST)
            expected = log_probability(model, one.x, ids, count) / count
            assert value == pytest.approx(expected, abs=1e-9)


def test_every_score_of_the_notation_is_decoded_or_refused() -> None:
    named = {
        name
        for name in gf.scores.__all__
        if isinstance(made := getattr(gf.scores, name), type)
        and issubclass(made, (gf.scores.Score, gf.scores.Bias))
    }
    abstract = {"Score", "Bias", "Biased", "BilinearScore", "PairwiseScore"}
    # Of edges, which text has none of; and of degrees, which change: tests/test_cache.py.
    refused = {"EdgeDot", "EdgeBias", "HopBias", "SymmetricDegree"}
    decoded = {name for score in SCORES.values() for name in re.findall(r"(\w+)\(", score)}
    assert named - abstract - refused == decoded


@torch.no_grad()
def test_scores_of_edges_are_refused_by_name() -> None:
    model = Transformer(VOCABULARY, score="DotProduct() + HopBias('hops', 4)").eval()
    with pytest.raises(ValueError, match="hops"):
        greedy(model, random_sentences(3), **ENDS)


@pytest.mark.parametrize(("score", "topology"), cases())
def test_a_batch_of_64_gives_the_tokens_of_one_at_a_time(score: str, topology: str) -> None:
    model = make_translator(score, topology)
    torch.manual_seed(0)
    lengths = torch.randint(1, 12, (64,))
    source = random_sentences(*lengths.tolist())
    limits = torch.randint(1, 9, (64,))
    together = beam_search(model, source, beam=3, max_length=limits, **ENDS)
    likeliest = greedy(model, source, max_length=limits, **ENDS)
    for number, one in list(enumerate(examples_of(source)))[:: 1 if score == "rotary" else 4]:
        most = int(limits[number])
        (alone,) = beam_search(model, one, beam=3, max_length=most, **ENDS)
        assert ids_of(alone) == ids_of(together[number])
        assert torch.equal(greedy(model, one, max_length=most, **ENDS)[0], likeliest[number])


def test_how_many_logits_are_made_at_a_time_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, source = make_translator(), random_sentences(5, 1, 3, 8, 2, 6)
    settings = ENDS | {"max_length": MOST}

    def found() -> list[list[list[int]]]:
        ways = (
            [[ids.tolist() for ids in greedy(model, source, **settings)]],
            map(ids_of, beam_search(model, source, beam=4, **settings)),
            map(ids_of, sample(model, source, count=3, **settings)),
        )
        return [each for way in ways for each in way]

    together = found()
    # Neither the sequences of an example nor all of them are a multiple of it.
    monkeypatch.setattr("graphformer.models.decode.state.ROWS", 5)
    assert found() == together


def test_numbers_that_make_no_sense_are_refused() -> None:
    model, source = make_translator(), random_sentences(3, 2)
    with pytest.raises(ValueError, match="beam is 0: write a whole number of at least 1"):
        beam_search(model, source, beam=0, **ENDS)
    with pytest.raises(ValueError, match="count is 0: write"):
        sample(model, source, count=0, **ENDS)
    with pytest.raises(ValueError, match="3 numbers for 2 examples: give one each"):
        sample(model, source, numbers=[1, 2, 3], **ENDS)
    for limits in (torch.tensor([3, 3, 3]), torch.tensor([2.7, 3.0])):
        with pytest.raises(ValueError, match=r"max_length is .*: give whole numbers, one or \[2\]"):
            greedy(model, source, max_length=limits, **ENDS)
    with pytest.raises(ValueError, match="count is 0, of rows of 3: ask for one"):
        find_best(torch.zeros(2, 3), 0)
