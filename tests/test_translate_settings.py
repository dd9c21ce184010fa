"""What can be set of `graphformer translate fit`: what it leads to, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_translate import SMALL, corpus, fit

from graphformer.tasks.run import Machine
from graphformer.tasks.translation.attending import Attending, Cross, Decoder, Encoder
from graphformer.tasks.translation.corpus import read_corpus, split
from graphformer.tasks.translation.settings import (
    Corpus,
    Search,
    Shape,
    Training,
    complete_settings,
)
from graphformer.tasks.translation.task import HYPOTHESES
from graphformer.tasks.translation.text import Files
from graphformer.tasks.translation.training import Devices
from graphformer.tasks.translation.translator import Translator
from graphformer.tasks.translation.wanted import Scoring

__all__ = ["corpus"]

STILL = replace(SMALL, dropout=0.0)
OWN = Corpus(source_file=Path("a.de"), target_file=Path("b.en"))
ONE_STEP = Training(steps=1, batch_tokens=400, vocabulary=0)


@pytest.mark.parametrize(
    "attending",
    [
        Attending(
            encoder=Encoder("window(8) | global_tokens(1)"),
            decoder=Decoder("window(4) | global_tokens(1)"),
        ),
        Attending(),
        Attending(positions="sinusoidal"),
        Attending(decoder=Decoder(score="DotProduct() + ALiBi(2)"), positions="none"),
        Attending(
            encoder=Encoder(score="Gaussian()", feed_forward="convolution(3)"),
            decoder=Decoder(feed_forward="convolution(2)"),
            cross=Cross("Cosine(2)"),
        ),
        Attending("lstm"),
        Attending("lstm", cross=Cross("DotProduct()")),
    ],
    ids=["topologies", "rotary", "sinusoidal", "alibi", "convolutions", "lstm", "lstm of products"],
)
def test_attention_is_a_setting(attending: Attending, corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "run"
    short = Training(steps=3, batch_tokens=400, vocabulary=0)
    fit(corpus, out, training=short, attending=attending, search=Search(beam=1))
    kept = yaml.safe_load((out / "settings.yaml").read_text("utf-8"))
    whole = attending.completed(SMALL.size)
    assert kept["encoder.score"] == whole.encoder.score
    assert kept["positions"] == whole.positions
    assert kept["cross.score"] is not None, "what was left out is said"
    loaded = Translator.from_pretrained(str(out))
    made = whole.make_model(loaded.tokenizer.get_vocab_size(), SMALL.size)
    assert type(loaded.model) is type(made)
    assert loaded.model.settings == made.settings
    lines = [source for source, _ in read_corpus(corpus).test]
    found = (out / HYPOTHESES).read_text("utf-8").removesuffix("\n").split("\n")
    assert loaded.translate(lines, beam=1) == found


@pytest.mark.parametrize(
    "shape",
    [
        replace(SMALL, norm_first=False),
        replace(SMALL, attention_dropout=0.2),
        replace(SMALL, activation_dropout=0.2),
    ],
    ids=["norms behind", "attention dropout", "activation dropout"],
)
def test_blocks_are_put_together_as_asked(shape: Shape, corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(corpus, out, training=ONE_STEP, shape=shape, search=Search(beam=1))
    size = Translator.from_pretrained(out).model.settings["size"]
    assert size == vars(shape.size)
    assert size != vars(SMALL.size)


@pytest.fixture
def tokenized(tmp_path: Path, corpus: Corpus) -> Corpus:
    """Numbers, as the tokenized files of Multi30k have their sentences."""
    folder = tmp_path / "tok"
    folder.mkdir()
    assert corpus.source_file is not None
    assert corpus.target_file is not None
    for language, file in (("en", corpus.target_file), ("de", corpus.source_file)):
        text = file.read_text("utf-8")
        for part in ("train", "val", "test_2016_flickr"):
            (folder / f"{part}.lc.norm.tok.{language}").write_text(text, "utf-8")
    return Corpus(data="multi30k", data_dir=tmp_path, variant="tok", source="en", target="de")


@pytest.mark.parametrize(("asked", "expected"), [(None, "none"), ("13a", "13a")])
def test_tokenized_text_is_scored_by_its_words(
    asked: Any, expected: str, tokenized: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    fit(tokenized, out, training=ONE_STEP, search=Search(beam=1), scoring=Scoring(asked))
    described = json.loads((out / "metrics.json").read_text("utf-8"))
    assert f"tok:{expected}" in described["protocol"]
    assert described["data"] == "multi30k/tok en-de"
    kept = yaml.safe_load((out / "settings.yaml").read_text("utf-8"))
    assert kept["tokenize"] == expected, "what was left out is said"


def test_files_of_ones_own_are_for_validation_and_test(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = split(read_corpus(corpus).train, "numbers").train
    known, new = train[0], ("null eins zwei", "zero one two")
    written = {"validation": [new, known], "test": [("neun neun neun", "nine nine nine")]}
    files = {}
    for part, pairs in written.items():
        files[part] = Files(tmp_path / f"{part}.de", tmp_path / f"{part}.en")
        for side, file in enumerate(vars(files[part]).values()):
            file.write_text("".join(f"{pair[side]}\n" for pair in pairs), "utf-8")
    text = read_corpus(replace(corpus, **files))
    assert text.validation == written["validation"]
    assert text.test == written["test"]
    assert len(text.train) > len(read_corpus(corpus).train), "nothing else is held out"
    assert known[0] not in {source for source, _ in text.train}
    assert "whose source is in validation or test" in capsys.readouterr().err


def test_files_of_ones_own_stand_in_for_other_text(corpus: Corpus) -> None:
    other = replace(corpus, data="multi30k", variant="tok")
    assert read_corpus(other) == read_corpus(corpus)
    assert Scoring().finds_words(other) == "13a"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Corpus(source_file=Path("a.de")), "there is --source_file and no --target_file"),
        (Corpus(target_file=Path("a.en")), "there is --target_file and no --source_file"),
        (
            Corpus(data_dir=Path("."), source_file=Path("a.de"), target_file=Path("a.en")),
            "there are both --data_dir, of Multi30k, and files of your own .* leave one of them",
        ),
        (Corpus(data="multi30k"), "--data multi30k needs --data_dir"),
        (
            replace(OWN, validation=Files(Path("c.de"))),
            "there is --validation.source_file and no --validation.target_file",
        ),
        (
            replace(OWN, test=Files(Path("c.de"), Path("c.en"))),
            "there is --test.source_file and no --validation.source_file: write both, or neither",
        ),
        (
            Corpus(validation=Files(Path("c"), Path("d")), test=Files(Path("c"), Path("d"))),
            "files for validation and test, and none to train on",
        ),
        (Corpus(data_dir=Path(".")), r"data_dir is \., and nothing of the embedded dates"),
        (Corpus(source="en"), "source is en, .* dates depends on it: write --data multi30k, or"),
        (Corpus(keep_copies=True), "keep_copies is True, .* dates depends on it: leave it out"),
        (replace(OWN, variant="tok"), "variant is tok, and nothing of your own files .*: leave it"),
    ],
)
def test_corpora_refuse(given: Corpus, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_corpus(given)


def test_files_of_ones_own_take_the_place_of_data(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    text = read_corpus(corpus)
    assert "is not read" not in capsys.readouterr().err
    assert read_corpus(replace(corpus, data="multi30k")).test == text.test
    expected = f"--data multi30k is not read: {corpus.source_file} takes its place"
    assert expected in capsys.readouterr().err


def test_own_text_needs_three_sentences() -> None:
    with pytest.raises(ValueError, match=r"2 different source sentences: .* at least 3"):
        split([("a", "b"), ("c", "d")], "files")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"attending": Attending(encoder=Encoder("windows(3)"))},
            r"encoder\.topology: .*name 'windows'",
        ),
        (
            {"attending": Attending(decoder=Decoder("expander(3)"))},
            r"decoder\.topology: a decoder cannot go",
        ),
        ({"attending": Attending(decoder=Decoder(score="Dot()"))}, r"decoder\.score: unknown name"),
        (
            {"attending": Attending(encoder=Encoder(score="DotProduct() + ALiBi(8)"))},
            r"encoder\.score has ALiBi\(8\), which .* ALiBi\(2\), or heads=8",
        ),
        ({"attending": Attending(cross=Cross("Cosine(3)"))}, r"cross\.score has Cosine\(3\)"),
        ({"attending": Attending(encoder=Encoder('edges("a")'))}, "the data have no edges: leave"),
        (
            {"attending": Attending(encoder=Encoder(feed_forward="convolution(2)"))},
            r"encoder\.feed_forward: ConvFeedForward got kernel=2",
        ),
        (
            {"attending": Attending(decoder=Decoder(feed_forward="conv(3)"))},
            r"decoder\.feed_forward: unknown feed_forward 'conv\(3\)': write 'linear\(\)'",
        ),
        (
            {"attending": Attending("lstm", encoder=Encoder("window(3)"))},
            r"encoder\.topology is window\(3\), and an LSTM reads .*: leave it out",
        ),
        (
            {"attending": Attending("lstm", positions="none")},
            "positions is none, and an LSTM .* where a --config has it write --positions null",
        ),
        (
            {
                "attending": Attending("lstm"),
                "shape": Shape(dim=16, heads=1, layers=1, hidden=7, dropout=0.0),
            },
            "hidden is 7, which both directions of an LSTM share: write an even number",
        ),
        ({"shape": Shape(dim=15, heads=2, layers=1, hidden=8)}, "dim is 15, .* as 14 or 16"),
        ({"training": Training(steps=1, vocabulary=0, batch_tokens=3)}, "batch_tokens is 3, and"),
        (
            {"training": Training(steps=1, vocabulary=0, r_drop=5.0), "shape": STILL},
            "r_drop is 5.0, and dropout is 0, so that two passes are the same",
        ),
        (
            {"training": Training(steps=1, vocabulary=0, test_weights="average")},
            "test_weights is average, of 1 point: write average=10",
        ),
        (
            {"training": Training(steps=1, vocabulary=0, test_weights="best")},
            "test_weights is best, and none are kept: write keep_best=1",
        ),
        (
            {"training": Training(steps=1, vocabulary=0, batch_tokens=100, keep_best=1)},
            "keep_best needs a validation, .*, and steps is 1: write --steps .*out --keep_best",
        ),
        (
            {
                "training": Training(steps=1, vocabulary=0, batch_tokens=100, keep_best=1),
                "devices": Devices(2),
            },
            "keep_best needs a validation, .*, and steps is 1",
        ),
        (
            {
                "training": Training(steps=1, vocabulary=0, batch_tokens=100),
                "devices": Devices(1000),
            },
            "examples cannot be shared among 1000 processes",
        ),
        (
            {"attending": Attending("lstm"), "shape": replace(SMALL, norm_first=False)},
            "norm_first is False, and an LSTM reads",
        ),
        (
            {"attending": Attending("lstm"), "shape": replace(SMALL, attention_dropout=0.1)},
            r"attention_dropout is 0\.1, and an LSTM reads",
        ),
        (
            {"attending": Attending("lstm"), "shape": replace(SMALL, activation_dropout=0.1)},
            r"activation_dropout is 0\.1, and an LSTM reads",
        ),
    ],
)
def test_fit_refuses_before_it_writes(
    changed: dict[str, Any], message: str, corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(corpus, tmp_path / "run", **changed)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Search(beam=0), "beam is 0: write a number of at least 1"),
        (lambda: Shape(layers=0), "layers is 0: write a number of at least 1"),
        (lambda: Shape(dropout=1.0), "dropout is 1.0: write a probability"),
        (lambda: Training(batch_tokens=0), "batch_tokens is 0: write a number of at least 1"),
        (lambda: Training(label_smoothing=2.0), "label_smoothing is 2.0: write a probability"),
        (lambda: Training(learning_rate=0.0), "learning_rate is 0.0: write a number above 0"),
        (lambda: Training(warmup=1.0), "warmup is 1.0: write a probability"),
        (lambda: Training(minutes=-1.0), "minutes is -1.0: write a number above 0"),
        (lambda: Training(steps=0), "steps is 0: write a number of at least 1"),
        (lambda: Training(vocabulary=100), "vocabulary is 100: write at least 260 pieces of words"),
        (lambda: Shape(attention_dropout=1.0), "attention_dropout is 1.0: write a probability"),
        (lambda: Shape(activation_dropout=1.0), "activation_dropout is 1.0: write a probability"),
        (lambda: Training(accumulate=0), "accumulate is 0: write a number of at least 1"),
        (lambda: Training(warmup_steps=0), "warmup_steps is 0: write a number of at least 1"),
        (lambda: Training(clip=-1.0), "clip is -1.0: write 0, or a number above it"),
        (lambda: Training(clip=math.nan), "clip is nan: write 0, or a number above it"),
        (lambda: Training(r_drop=math.inf), "r_drop is inf: write 0, or a number above it"),
        (lambda: Training(average=0), "average is 0: write a number of at least 1"),
        (lambda: Training(keep_best=-1), "keep_best is -1: write a number of at least 0"),
        (lambda: Training(patience=-1), "patience is -1: write a number of at least 0"),
        (lambda: Training(watched=0), "watched is 0: write a number of at least 1"),
        (lambda: Devices(devices=0), "devices is 0: write a number of at least 1"),
        (lambda: Devices(num_nodes=0), "num_nodes is 0: write a number of at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (Training, "schedule", "schedule 'x' is unknown: known are linear, inverse_sqrt, cosine"),
        (Training, "test_weights", "test_weights 'x' is unknown: known are last, average, best"),
        (Devices, "strategy", "strategy 'x' is unknown: known are auto, ddp"),
    ],
)
def test_unknown_words_are_refused(kind: Any, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**{name: "x"})


def test_passes_differ_by_any_dropout() -> None:
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        Training(r_drop=5.0).check_dropout(replace(STILL, **{name: 0.1}).size)


def test_more_devices_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="devices is 2, and there are 1 GPUs: write fewer"):
        Devices(2).machine(torch.device("cuda"), "32-true")
    machine = Devices(1, num_nodes=3).machine(torch.device("cuda"), "bf16-mixed")
    assert machine == Machine("gpu", 1, 3, "auto", "bf16-mixed")


def test_what_suits_the_data_is_as_plain_as_can_be() -> None:
    for text in (Corpus(), Corpus(data="multi30k")):
        _, training = complete_settings(text, SMALL, Training(), torch.device("cpu"))
        course = training.course
        assert (course.schedule, course.accumulate, course.clip) == ("linear", 1, 0.0)
        assert (course.r_drop, course.average, course.test_weights) == (0.0, 1, "last")
