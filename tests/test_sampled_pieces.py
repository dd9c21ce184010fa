"""BPE-dropout: other pieces each time, as often as the paper has them, and always the same text."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_data_text import BPE, CHARACTERS, LINES, UNIGRAM

from graphformer.data import sampled_pieces
from graphformer.data.sampled_pieces import NUM_WAYS, SampledPieces, mean_length

PLAIN = SampledPieces(BPE, 0.0)
OFTEN = SampledPieces(BPE, 0.3)
MODEL = json.loads(BPE.to_str())["model"]
RANKS = {tuple(pair): rank for rank, pair in enumerate(MODEL["merges"])}


def draw(count: int) -> list[int]:
    drawn: list[int] = torch.randint(NUM_WAYS, (count,)).tolist()
    return drawn


def merge_with_dropout(word: str, probability: float, generator: random.Random) -> tuple[str, ...]:
    """Algorithm 1 of Provilkov et al., word for word."""
    pieces = list(word)
    while True:
        merges = [
            (RANKS[pair], place) for place, pair in enumerate(pairwise(pieces)) if pair in RANKS
        ]
        left = [merge for merge in merges if generator.random() >= probability]
        if not left:
            return tuple(pieces)
        _, place = min(left)
        pieces[place : place + 2] = ["".join(pieces[place : place + 2])]


@given(st.text())
def test_without_dropout_the_pieces_are_those_of_the_tokenizer(text: str) -> None:
    lines = [text, *LINES[:4], f"{text}{LINES[2]} {text}"]
    expected = [each.ids for each in BPE.encode_batch(lines)]
    assert PLAIN.encode(lines, draw) == expected
    assert [mean_length(PLAIN.split(line)) for line in lines] == list(map(len, expected))


@given(st.text())
def test_sampled_pieces_are_the_same_text(text: str) -> None:
    torch.manual_seed(len(text))
    for line, ids in zip([text, LINES[0]], OFTEN.encode([text, LINES[0]], draw), strict=True):
        assert BPE.decode(ids) == line


def test_pieces_are_those_of_the_algorithm_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    number = 8_000
    monkeypatch.setattr(sampled_pieces, "NUM_WAYS", number)
    pieces = SampledPieces(BPE, 0.25)
    for word in ("Straße", " stehen", "aaa"):
        (encoded,), generator = BPE.pre_tokenizer.pre_tokenize_str(word), random.Random(1)
        expected = Counter(merge_with_dropout(encoded[0], 0.25, generator) for _ in range(number))
        ways = pieces.split(word)[0]
        found = Counter(tuple(map(BPE.id_to_token, way)) for way in ways)
        for way in expected | found:
            # Four standard deviations of the difference between two such counts.
            allowed = 4 * (2 * max(expected[way], found[way], 4)) ** 0.5
            assert abs(expected[way] - found[way]) <= allowed, way
        assert mean_length(pieces.split(word)) == sum(map(len, ways)) / number


def test_the_caller_draws_which_way_a_word_is_written() -> None:
    line = LINES[0]
    ways = [OFTEN.encode([line], lambda count, way=way: [way] * count)[0] for way in range(32)]
    assert len(set(map(tuple, ways))) > 10
    assert mean_length(OFTEN.split(line)) == pytest.approx(sum(map(len, ways)) / 32)
    both = OFTEN.encode([line, line], lambda count: [3] * (count // 2) + [5] * (count // 2))
    assert both == [ways[3], ways[5]]


def test_ways_depend_on_the_word_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = OFTEN.encode(LINES, lambda count: [7] * count)
    backwards = SampledPieces(BPE, 0.3)
    random.seed(5)
    for line in reversed(LINES):
        backwards.split(line)
    assert backwards.encode(LINES, lambda count: [7] * count) == expected
    monkeypatch.setattr(sampled_pieces, "MOST_WORDS", 3)
    forgetful = SampledPieces(BPE, 0.3)
    assert forgetful.encode(LINES, lambda count: [7] * count) == expected
    assert len(forgetful._ways) <= 3


def test_a_word_of_endless_length_is_written_in_one_way() -> None:
    word = "stehen" * 2_000
    assert OFTEN.encode([word], draw)[0] == BPE.encode(word).ids
    assert OFTEN.encode([""], draw) == [[]]


@pytest.mark.parametrize("tokenizer", [UNIGRAM, CHARACTERS], ids=["Unigram", "WordLevel"])
def test_what_merges_nothing_is_refused(tokenizer: object, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    with pytest.raises(ValueError, match=f"this vocabulary is a {name}: train it with train_bpe"):
        SampledPieces(tokenizer, 0.1)
