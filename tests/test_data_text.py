"""Text comes in whole: every date says what its source says, every line keeps its partner."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from graphformer.data.dates import dates
from graphformer.data.multi30k import multi30k
from graphformer.data.parallel import TextSplits, parallel
from graphformer.data.text_lines import read_lines
from graphformer.data.vocabulary import (
    END,
    PAD,
    SPECIAL_TOKENS,
    START,
    UNKNOWN,
    load,
    save,
    train_bpe,
    train_characters,
    train_pieces,
    train_unigram,
)

LINES = [
    "Zwei Männer stehen am Herd.",
    "Two men are at the stove.",
    "Ein Hund läuft über die Straße.",
    "A dog runs across the road.",
] * 5
BPE = train_bpe(LINES, vocab_size=320)
UNIGRAM = train_unigram(LINES, vocab_size=320)
CHARACTERS = train_characters(LINES)
ALL = [BPE, UNIGRAM, CHARACTERS]

WEEKDAYS = ("Mo", "Di", "Mi", "Do", "Fr", "Sa", "So")
MONTHS = ("Jan", "Feb", "Mär", "Apr", "Mai", "Jun", "Jul", "Aug", "Sep", "Okt", "Nov", "Dez")


@pytest.fixture(scope="module")
def corpus() -> TextSplits:
    return dates(num_train=5_000)


def year_of(source: str) -> str:
    return re.search(r"\d{4}", source).group()


def read_german(source: str) -> tuple[list[int], str]:
    """Year, month, day and parts of the time of a German source, and its weekday ("" if none)."""
    weekday = re.match(r"([A-Z][a-z])[a-z]*\.?, ", source)
    date = re.search(r"(\d+)\. ?(\w+)[. ]*(\d{4})", source)
    day, month, year = date.groups()
    number = int(month) if month.isdecimal() else MONTHS.index(month[:3]) + 1
    time = re.findall(r"\d+", source[date.end() :])
    return [int(year), number, int(day), *map(int, time)], weekday.group(1) if weekday else ""


def read_english(target: str) -> tuple[list[int], str]:
    """The same of an English target."""
    weekday = re.match(r"[A-Z]\w+day, ", target)
    rest = target.removeprefix(weekday.group()) if weekday else target
    layout = "%B %d, %Y" + {0: "", 1: " at %I:%M %p", 2: " at %I:%M:%S %p"}[rest.count(":")]
    if " at " in rest and ":" not in rest:
        layout += " at %I %p"
    moment = datetime.strptime(rest, layout)
    parts = [moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second]
    num_parts = 3 + layout.count("%I") + layout.count("%M") + layout.count("%S")
    if weekday:
        assert weekday.group() == f"{moment:%A}, "
    return parts[:num_parts], WEEKDAYS[moment.weekday()] if weekday else ""


def test_every_target_says_exactly_what_its_source_says(corpus: TextSplits) -> None:
    for source, target in [*corpus.train, *corpus.validation, *corpus.test]:
        assert read_german(source) == read_english(target), (source, target)


def test_years_of_the_test_set_occur_nowhere_else(corpus: TextSplits) -> None:
    train, validation, test = ({year_of(source) for source, _ in pairs} for pairs in corpus[1:])
    assert len(test) == 20
    assert len(validation) == 10
    assert len(train) == 170
    assert len(test | validation | train) == 200
    assert not any(year in target for _, target in corpus.train for year in test)


def test_dates_are_short_different_and_as_many_as_asked_for(corpus: TextSplits) -> None:
    assert [len(pairs) for pairs in corpus[1:]] == [5_000, 500, 1_000]
    for pairs in corpus[1:]:
        assert len({source for source, _ in pairs}) == len(pairs)
        assert max(len(text) for pair in pairs for text in pair) <= 45


def test_characters_of_training_write_the_test_set(corpus: TextSplits) -> None:
    tokenizer = train_characters(text for pair in corpus.train for text in pair)
    texts = [text for pair in corpus.test for text in pair]
    assert all(UNKNOWN not in encoding.ids for encoding in tokenizer.encode_batch(texts))


def test_the_seed_alone_decides_the_corpus() -> None:
    first, again, other = (dates(200, 50, seed, num_validation=50) for seed in (7, 7, 8))
    assert first == again
    assert {year_of(source) for source, _ in first.test} != {
        year_of(source) for source, _ in other.test
    }


@pytest.mark.parametrize("name", ["plain.txt", "packed.txt.gz"])
def test_lines_end_at_newlines_alone(tmp_path: Path, name: str) -> None:
    content = "\ufeffeins\u2028zwei\r\n\ndrei\x85vier\x0c\n".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_lines(path) == ["eins\u2028zwei", "", "drei\x85vier\x0c"]


def test_parallel_text_drops_empty_lines_and_counts_them(tmp_path: Path) -> None:
    source, target = tmp_path / "text.de", tmp_path / "text.en.gz"
    source.write_text("eins\n\n drei \n  \nfünf", encoding="utf-8")
    target.write_bytes(gzip.compress(b"one\ntwo\nthree\n\n\n"))
    text = parallel(source, target)
    assert text.pairs == [("eins", "one"), ("drei", "three")]
    assert text.report == (
        "2 pairs from 5 lines; dropped 2 with an empty source (first: line 2), "
        "1 with an empty target (line 5)"
    )
    source.write_text("eins", encoding="utf-8")
    target.write_bytes(gzip.compress(b"one"))
    assert parallel(source, target).report == "1 pair from 1 line; dropped none"


@pytest.mark.parametrize("variant", ["raw", "tok"])
def test_multi30k_is_read_as_published(shared_data: Path, variant: str) -> None:
    folder = shared_data / "multi30k"
    if not folder.is_dir():
        pytest.skip(f"no Multi30k at {folder}")
    text = multi30k(folder, variant=variant)
    assert [len(pairs) for pairs in text[1:]] == [29_000, 1_014, 1_000]
    assert text.test[0][1].startswith(("A man in an orange hat", "a man in an orange hat"))
    turned = multi30k(folder, source="en", target="de", variant=variant)
    assert turned.test == [(english, german) for german, english in text.test]


@given(st.text())
def test_pieces_of_words_write_any_text_and_decode_it_exactly(text: str) -> None:
    for pieces in (BPE, UNIGRAM):
        ids = pieces.encode(text).ids
        assert pieces.decode(ids) == text
        assert UNKNOWN not in ids


@given(st.text(st.sampled_from(sorted(set("".join(LINES))))))
def test_characters_decode_what_they_know_exactly(text: str) -> None:
    encoding = CHARACTERS.encode(text)
    assert len(encoding.ids) == len(text)
    assert CHARACTERS.decode(encoding.ids) == text


def test_unknown_characters_are_marked_one_by_one() -> None:
    ids = CHARACTERS.encode("ein Ω\nΩ").ids
    assert [index == UNKNOWN for index in ids] == [False] * 4 + [True] * 3
    assert CHARACTERS.decode(ids, skip_special_tokens=False) == "ein <unk><unk><unk>"


@pytest.mark.parametrize(
    "tokenizer", [BPE, UNIGRAM, CHARACTERS], ids=["bpe", "unigram", "characters"]
)
def test_special_tokens_come_first_and_never_from_text(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [PAD, UNKNOWN, START, END]
    save(tokenizer, tmp_path / "vocabulary.json")
    text = "Herd <s> </s> <pad> <unk>"
    for one in (tokenizer, load(tmp_path / "vocabulary.json")):
        ids = one.encode(text).ids
        assert not {PAD, START, END} & set(ids)
        assert one.decode([START, *one.encode("Herd").ids, END, PAD]) == "Herd"
    if tokenizer is not CHARACTERS:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
    "tokenizer", [BPE, UNIGRAM, CHARACTERS], ids=["bpe", "unigram", "characters"]
)
def test_saving_and_loading_changes_no_id(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(tokenizer, tmp_path / "vocabulary.json")
    loaded = load(tmp_path / "vocabulary.json")
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.to_str() == tokenizer.to_str()
    for line in [*LINES, "Ωμέγα  \n", ""]:
        assert loaded.encode(line).ids == tokenizer.encode(line).ids
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]


def test_the_same_text_gives_the_same_merges() -> None:
    assert train_bpe(iter(LINES), vocab_size=320).to_str() == BPE.to_str()
    assert 260 < BPE.get_vocab_size() <= 320
    assert len(BPE.encode(LINES[0]).ids) < len(LINES[0].encode())


def test_unigram_pieces_are_the_likeliest_and_not_merges() -> None:
    assert train_pieces(LINES, 320, "unigram").get_vocab().keys() == UNIGRAM.get_vocab().keys()
    model = json.loads(UNIGRAM.to_str())["model"]
    scores = dict(map(tuple, model["vocab"]))
    assert 260 < len(scores) <= 320
    for line in LINES:
        tokens = UNIGRAM.encode(line).tokens
        single = [each for token in tokens for each in token]
        assert sum(map(scores.__getitem__, tokens)) > sum(map(scores.__getitem__, single))
    assert UNIGRAM.encode(LINES[0]).ids != BPE.encode(LINES[0]).ids


def test_text_of_a_vocabulary_is_read_once_and_never_held() -> None:
    alive = 0

    class Line(str):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def lines() -> Iterator[str]:
        nonlocal alive
        for number in range(5_000):
            alive += 1
            assert alive <= 2_000, "lines are let go while others are read"
            yield Line(f"sentence {number}")

    for train in (train_bpe, train_unigram):
        assert train(lines(), 300).get_vocab_size() <= 300
