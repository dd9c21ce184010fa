"""`graphformer translate fit` on text as it comes: other vocabularies, flaws, large files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_translate import (
    ENGLISH,
    NUMBERS,
    SMALL,
    _saving_every_three,
    fit,
    same,
    weights,
)

from graphformer.data.parallel import KeptPairs, PairedLines, parallel
from graphformer.tasks.loader import Loader
from graphformer.tasks.resume import Saving
from graphformer.tasks.settings import Job
from graphformer.tasks.translation import corpus as corpus_module
from graphformer.tasks.translation import kept_vocabulary
from graphformer.tasks.translation.corpus import (
    encode_pairs,
    make_vocabulary,
    read_corpus,
    split,
)
from graphformer.tasks.translation.examples import Encoding, read_training
from graphformer.tasks.translation.kept_vocabulary import KeptVocabulary
from graphformer.tasks.translation.learner import TranslationLearner
from graphformer.tasks.translation.settings import (
    Corpus,
    Course,
    Search,
    Training,
    complete_settings,
)
from graphformer.tasks.translation.text import Reading
from graphformer.tasks.translation.translator import Translator

PIECES = Training(
    steps=6,
    batch_tokens=300,
    learning_rate=1e-2,
    vocabulary=280,
    precision="32-true",
    max_length=64,
    max_length_ratio=8.0,
)
GREEDY = Search(beam=1)


@pytest.fixture
def numbers(tmp_path: Path) -> Corpus:
    """A hundred numbers, none of them twice."""
    files = tmp_path / "hundred.de", tmp_path / "hundred.en"
    for file, words in zip(files, (NUMBERS, ENGLISH), strict=True):
        lines = [f"{words[number // 10]} {words[number % 10]}" for number in range(100)]
        file.write_text("\n".join(lines) + "\n", "utf-8")
    return Corpus(source_file=files[0], target_file=files[1])


def course(**changed: Any) -> Course:
    _, training = complete_settings(
        Corpus(), SMALL, replace(PIECES, **changed), torch.device("cpu")
    )
    return training.course


def trained(text: Corpus, out: Path, **changed: Any) -> dict[str, torch.Tensor]:
    """Weights of a short training with these settings changed."""
    fit(text, out, training=replace(PIECES, **changed), search=GREEDY)
    return weights(out)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("joint", [True, False])
def test_a_vocabulary_is_of_either_kind_joint_or_separate(
    kind: str, joint: bool, numbers: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    fit(numbers, out, training=replace(PIECES, vocabulary_kind=kind, vocabulary_joint=joint))
    loaded = Translator.from_pretrained(out)
    models = [
        json.loads(each.to_str())["model"]
        for each in (loaded.source_tokenizer, loaded.target_tokenizer)
    ]
    assert {model["type"].lower() for model in models} == {kind}
    assert (models[0]["vocab"] == models[1]["vocab"]) == joint
    assert isinstance(loaded.tokenizer, tuple) != joint
    assert loaded.translate(["eins zwei", ""], beam=2)[1] == ""


def test_separate_vocabularies_are_of_their_own_languages() -> None:
    pairs = [("ab", "xy")] * 3
    source, target = make_vocabulary(pairs, 0, joint=False)
    assert set(source.get_vocab()) - set(target.get_vocab()) == {"a", "b"}
    (pair,) = encode_pairs((source, target), pairs[:1])
    assert source.decode(pair.source.tolist()) == "ab"
    assert target.decode(pair.target.tolist()) == "xy"


def test_a_unigram_vocabulary_is_made_once(
    numbers: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, out = read_corpus(numbers).train, tmp_path / "run"
    made = KeptVocabulary(out, pairs, course(vocabulary_kind="unigram"))
    first = made.get()
    made.keep(first, begins=True)
    monkeypatch.setattr(
        kept_vocabulary, "make_vocabulary", lambda *arguments: pytest.fail("is made again")
    )
    for makes in (True, False):
        again = KeptVocabulary(out, pairs, course(vocabulary_kind="unigram"))
        assert again.get(makes).to_str() == first.to_str()
    for changed in ({"vocabulary": 270}, {"vocabulary_joint": False}, {"vocabulary_kind": "bpe"}):
        with pytest.raises(pytest.fail.Exception, match="is made again"):
            KeptVocabulary(out, pairs, course(**{"vocabulary_kind": "unigram"} | changed)).get()
    monkeypatch.setattr(kept_vocabulary, "SECONDS", 0.0)
    with pytest.raises(TimeoutError, match="got no vocabulary within an hour from the first"):
        KeptVocabulary(out, pairs[1:], course(vocabulary_kind="unigram")).get(makes=False)


def test_a_resumed_run_goes_on_with_its_vocabulary(
    numbers: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, kind = tmp_path / "run", {"vocabulary_kind": "unigram"}
    fit(numbers, out, training=replace(PIECES, **kind), search=GREEDY)
    before = Translator.from_pretrained(out).tokenizer.to_str()
    monkeypatch.setattr(
        kept_vocabulary, "make_vocabulary", lambda *arguments: pytest.fail("is made again")
    )
    longer = replace(PIECES, steps=8, **kind)
    fit(numbers, out, training=longer, search=GREEDY, job=Job(out, resume=True, accelerator="cpu"))
    assert Translator.from_pretrained(out).tokenizer.to_str() == before


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_streamed_text_trains_to_the_weights_of_text_in_memory(
    dropout: float, numbers: Corpus, tmp_path: Path
) -> None:
    whole, streamed = tmp_path / "whole", tmp_path / "streamed"
    expected = trained(replace(numbers, stream=False), whole, steps=3, bpe_dropout=dropout)
    assert same(
        trained(replace(numbers, stream=True), streamed, steps=3, bpe_dropout=dropout), expected
    )
    assert len(list((streamed / "lines").iterdir())) == 2
    assert not (whole / "lines").exists()


def test_dropped_merges_are_the_same_after_an_interruption(
    numbers: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    expected = trained(numbers, whole, bpe_dropout=0.3)
    assert not same(trained(numbers, tmp_path / "plain"), expected)
    reached = 0

    def stop_at_the_fifth(*arguments: object) -> Any:
        nonlocal reached
        reached += 1
        if reached == 5:
            raise KeyboardInterrupt
        return compute_loss(*arguments)

    monkeypatch.setattr(Saving, "__init__", _saving_every_three)
    compute_loss = TranslationLearner.compute_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TranslationLearner, "compute_loss", stop_at_the_fifth)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            trained(numbers, halves, bpe_dropout=0.3)
    job = Job(halves, resume=True, accelerator="cpu")
    fit(numbers, halves, training=replace(PIECES, bpe_dropout=0.3), search=GREEDY, job=job)
    assert same(weights(halves), expected)


def test_text_is_streamed_when_it_is_asked_for_or_large(
    numbers: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = numbers.source_file, numbers.target_file
    assert not Reading().streams(*files)
    monkeypatch.setattr("graphformer.tasks.translation.text.LARGE", 100)
    assert Reading().streams(*files)
    assert not Reading(stream=False).streams(*files)
    for each in (numbers, replace(numbers, stream=True)):
        pairs = read_corpus(each).train
        assert isinstance(pairs, KeptPairs)
        assert isinstance(pairs.lines, PairedLines)
    with pytest.raises(ValueError, match="stream=True is for files of your own"):
        read_corpus(Corpus(stream=True))


def batches(loader: Loader, epoch: int) -> Iterator[list[int]]:
    loader.sampler.set_epoch(epoch)
    for batch in loader:
        yield batch.source.x.tolist() + batch.target.x.tolist()


def test_dropped_merges_depend_on_seed_and_epoch_alone(numbers: Corpus) -> None:
    text, settings = read_corpus(numbers), course(bpe_dropout=0.3)
    tokenizer = make_vocabulary(text.train, settings.vocabulary)
    training = read_training(text.train, tokenizer, settings)
    first = list(batches(training.load(300, seed=1), 0))
    torch.manual_seed(99)
    again = read_training(text.train, tokenizer, settings).load(300, seed=1)
    assert list(batches(again, 1)) != first
    assert list(batches(again, 0)) == first, "whatever was drawn before"
    assert list(batches(training.load(300, seed=2), 0)) != first
    plain = read_training(text.train, tokenizer, course()).load(300, seed=1)
    assert sum(map(len, batches(plain, 0))) < sum(map(len, first))


def test_dropped_merges_are_of_both_sides_and_of_training_alone(numbers: Corpus) -> None:
    pairs = read_corpus(numbers).train
    tokenizer = make_vocabulary(pairs, 300)
    plain, dropping = Encoding(tokenizer), Encoding(tokenizer, 0.4)
    expected, found = plain(pairs[:20]), dropping(pairs[:20])
    assert expected.source.lengths.tolist() != found.source.lengths.tolist()
    assert expected.target.lengths.tolist() != found.target.lengths.tolist()
    for side in ("source", "target"):
        ids = [getattr(each, side).x.tolist() for each in (expected, found)]
        assert tokenizer.decode(ids[0]) == tokenizer.decode(ids[1])
    settings, plain_length = course(bpe_dropout=0.4), plain_lengths(tokenizer, pairs)
    lengths = read_training(pairs, tokenizer, settings).lengths
    assert (lengths >= plain_length).all()
    assert lengths.max() > plain_length.max()
    limit = int(plain_length.max())
    small = read_training(pairs, tokenizer, settings._replace(batch_tokens=limit))
    assert small.lengths.max() == limit, "a batch takes the longest all the same"


def plain_lengths(tokenizer: Any, pairs: Any) -> np.ndarray:
    return np.array(
        [max(len(pair.source), len(pair.target) - 1) for pair in encode_pairs(tokenizer, pairs)]
    )


@pytest.mark.parametrize("joint", [True, False])
def test_an_encoding_is_the_same_in_another_process(joint: bool) -> None:
    pairs = [("eins </s> zwei", "one </s> two")] * 4
    encoding = Encoding(make_vocabulary(pairs, 280, joint=joint), 0.3)
    sent = pickle.loads(pickle.dumps(encoding))
    torch.manual_seed(1)
    expected = encoding(pairs)
    torch.manual_seed(1)
    found = sent(pairs)
    assert torch.equal(found.source.x, expected.source.x)
    assert torch.equal(found.following, expected.following)
    assert isinstance(sent.tokenizer, tuple) != joint
    assert (sent.sampled[0] is sent.sampled[1]) == joint


def flawed(numbers: Corpus) -> Corpus:
    """The numbers, with a line of each flaw."""
    lines = [
        (b"eins " * 10_000, b"one " * 10_000),
        (b"eins" + b" zwei" * 30, b"one"),
        (b"f\xf6nf", b"five"),
        (b"", b"six"),
        (b"sieben", b""),
        (b"acht\x00", b"eight"),
        (b"nine", b"nine"),
        (b"eins zwei", b"one two"),
    ]
    for file, side in ((numbers.source_file, 0), (numbers.target_file, 1)):
        with file.open("ab") as opened:
            opened.writelines(pair[side] + b"\n" for pair in lines)
    return numbers


@pytest.mark.parametrize("stream", [False, True])
def test_training_goes_on_without_what_is_no_translation(
    stream: bool,
    numbers: Corpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus_module, "HELD_OUT", 0.01)
    text = replace(flawed(numbers), stream=stream)
    out = tmp_path / "run"
    fit(text, out, training=replace(PIECES, steps=1), search=GREEDY)
    shown = capsys.readouterr().err
    for reason in (
        "105 pairs from 108 lines",
        "1 that is not UTF-8 in hundred.de (line 103)",
        "1 with an empty source (line 104)",
        "1 with an empty target (line 105)",
        "1 with characters that are no text (line 106)",
        "1 whose target is a copy of the source (line 107)",
        "1 that stood there before (line 108)",
        "1 of more than 64 tokens (line 101)",
        "1 with one side more than 8 times longer (line 102)",
    ):
        assert reason in shown
    assert "98 training" in json.loads((out / "metrics.json").read_text("utf-8"))["split"]


def test_what_is_cleaned_away_can_be_kept(numbers: Corpus) -> None:
    text = flawed(numbers)
    sizes = {
        name: len(read_corpus(replace(text, **{name: True})).train)
        for name in ("keep_copies", "keep_duplicates")
    }
    plain = len(read_corpus(text).train)
    assert sizes == {"keep_copies": plain + 1, "keep_duplicates": plain + 1}


def test_validation_and_test_are_sentences_of_which_none_is_left_out(numbers: Corpus) -> None:
    text = flawed(numbers)
    parts = read_corpus(text)
    held_out = [source for pairs in parts[2:] for source, _ in pairs]
    assert max(map(len, held_out)) < corpus_module.LONGEST_HELD_OUT
    long = [("a" * 3000, "b"), ("c" * 3000, "d"), ("e" * 3000, "f")]
    assert [len(pairs) for pairs in split(long, "long")[1:]] == [1, 1, 1], "there is nothing else"
    copies = [("a", "a")] * 2 + [(letter, letter.upper()) for letter in "bc"]
    drawn = [pair for part in split(copies, "copies")[1:] for pair in part]
    assert sorted(drawn) == sorted(copies)


def test_a_validation_longer_than_a_batch_is_measured_all_the_same(
    numbers: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = read_corpus(numbers)
    long = text._replace(
        train=text.train[:12], validation=[*text.validation, ("eins " * 25, "one " * 25)]
    )
    monkeypatch.setattr("graphformer.tasks.translate.read_corpus", lambda *arguments: long)
    short = replace(PIECES, steps=None, epochs=1, batch_tokens=24)
    assert "validation_loss" in fit(numbers, tmp_path / "run", training=short, search=GREEDY)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vocabulary": 0, "vocabulary_kind": "unigram"}, "vocabulary_kind is unigram, and a voca"),
        ({"vocabulary": 0, "bpe_dropout": 0.1}, "a vocabulary of characters has no merges to lea"),
        ({"vocabulary_kind": "unigram", "bpe_dropout": 0.1}, "a vocabulary of kind unigram has no"),
        ({"bpe_dropout": 1.0}, "bpe_dropout is 1.0: write a probability"),
        ({"max_length": 0}, "max_length is 0: write a number of at least 1"),
        ({"max_length_ratio": 0.5}, "max_length_ratio is 0.5: write a number of at least 1"),
    ],
)
def test_settings_of_text_that_cannot_work_are_refused(
    changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PIECES, **changed)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_kind_of_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary_kind 'wordpiece' is unknown: known are bpe"):
        replace(PIECES, vocabulary_kind="wordpiece")


def test_text_of_which_nothing_is_left_is_refused(numbers: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_length is 1 .*no pair of the training text is left"):
        fit(numbers, tmp_path / "run", training=replace(PIECES, max_length=1))
    numbers.target_file.write_bytes(numbers.source_file.read_bytes())
    with pytest.raises(ValueError, match="no pair of the training text is left, dropped 9"):
        fit(numbers, tmp_path / "run", training=PIECES)
    assert not (tmp_path / "run").exists()


def test_splits_are_the_same_for_any_order_of_lines(numbers: Corpus) -> None:
    pairs = list(parallel(numbers.source_file, numbers.target_file).pairs)
    one, other = split(pairs, "one"), split(pairs[::-1], "other")
    assert set(one.test) == set(other.test)
    assert not {source for source, _ in one.test} & {source for source, _ in one.train}
