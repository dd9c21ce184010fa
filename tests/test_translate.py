"""`graphformer translate`: from text files to a translator, and from a translator to text files."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from graphformer.data.text_lines import split_lines
from graphformer.tasks import translate
from graphformer.tasks.settings import Job
from graphformer.tasks.translate import SEARCH, Search
from graphformer.tasks.translation.attending import Attending
from graphformer.tasks.translation.corpus import (
    collate,
    encode_pairs,
    make_vocabulary,
    read_corpus,
)
from graphformer.tasks.translation.decoding import runs_of
from graphformer.tasks.translation.scores import measure
from graphformer.tasks.translation.settings import Corpus, Shape, Training
from graphformer.tasks.translation.task import HYPOTHESES, REFERENCES, SOURCES
from graphformer.tasks.translation.translator import Translator

# Translators that learned next to nothing come to no end.
pytestmark = pytest.mark.filterwarnings("ignore:.* cut, having come to no end:UserWarning")

NUMBERS = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ROTARY = "Rotary(DotProduct())"
SMALL = Shape(16, 2, 1, 32, 0.1, attention_dropout=0.0, activation_dropout=0.0, norm_first=True)
SHORT = Training(steps=12, batch_tokens=400, learning_rate=1e-2, vocabulary=0)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Numbers of one or two digits in German, and in English."""
    draw = random.Random(0)
    drawn = [[draw.randrange(10) for _ in range(draw.randint(1, 2))] for _ in range(120)]
    files = tmp_path / "numbers.de", tmp_path / "numbers.en"
    for file, words in zip(files, (NUMBERS, ENGLISH), strict=True):
        lines = [" ".join(words[digit] for digit in digits) for digits in drawn]
        file.write_text("\n".join(lines) + "\n", "utf-8")
    return Corpus(source_file=files[0], target_file=files[1])


def fit(corpus: Corpus, out: Path, **changed: Any) -> dict[str, object]:
    settings = {
        "shape": SMALL,
        "attending": Attending(),
        "training": SHORT,
        "search": Search(beam=2),
        "job": Job(out, accelerator="cpu"),
    }
    return translate.fit(corpus, **(settings | changed))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return Translator.from_pretrained(out).model.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_fit_leaves_all_that_it_found(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    figures = fit(corpus, out)
    assert "BLEU" in capsys.readouterr().out, "samples and scores are shown"
    described = json.loads((out / "metrics.json").read_text("utf-8"))
    assert described["figures"] == figures
    assert described["seeds"] == [0]
    assert str(corpus.source_file) in described["data"]
    assert "training" in described["split"]
    assert "tok:13a" in described["protocol"]
    assert "case:mixed" in described["protocol"]
    settings = yaml.safe_load((out / "settings.yaml").read_text("utf-8"))
    assert settings["steps"] == 12
    assert settings["encoder.topology"] == "complete()"
    assert settings["warmup"] == 0.1, "what was left out is said"
    assert settings["minutes"] is None, "a limit that is given stands alone"
    assert settings["precision"] == described["machine"]["precision"]
    assert described["planner"], "the plans depend on it"
    assert (out / "history.svg").read_text("utf-8").startswith("<?xml")
    kept = [
        (out / name).read_text("utf-8").splitlines() for name in (SOURCES, REFERENCES, HYPOTHESES)
    ]
    assert list(zip(*kept[:2], strict=True)) == list(read_corpus(corpus).test)
    assert len(kept[2]) == len(kept[0])
    assert list((out / "checkpoints").glob("step-*.ckpt"))


def test_a_translator_is_the_same_when_loaded(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(corpus, out)
    test = [source for source, _ in read_corpus(corpus).test]
    found = (out / HYPOTHESES).read_text("utf-8").removesuffix("\n").split("\n")
    assert Translator.from_pretrained(out).translate(test, beam=2) == found


def test_predict_translates_a_line_a_file_and_the_standard_input(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    fit(corpus, out)
    source, written = tmp_path / "source.txt", tmp_path / "written.txt"
    source.write_text("eins zwei\n\ndrei\n", "utf-8")
    of_file = translate.predict(out, input_file=source, output_file=written)
    assert len(of_file) == 3
    assert of_file[1] == "", "an empty line stays empty"
    assert written.read_text("utf-8") == "\n".join(of_file) + "\n"
    capsys.readouterr()
    assert translate.predict(out, text="eins zwei") == of_file[:1]
    assert capsys.readouterr().out == of_file[0] + "\n", "nothing but the translation is printed"
    monkeypatch.setattr("sys.stdin", io.StringIO("eins zwei\n\ndrei\n"))
    assert translate.predict(out) == [], "what may never end is not kept"
    assert capsys.readouterr().out == "\n".join(of_file) + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert translate.predict(out) == []
    assert capsys.readouterr().out == "", "of nothing there is no translation, not an empty one"


def test_score_takes_translations_or_a_translator(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(corpus, out)
    assert corpus.source_file is not None
    assert corpus.target_file is not None
    perfect = translate.score(corpus.target_file, hypothesis_file=corpus.target_file)
    assert perfect.figures["chrf"] == pytest.approx(100.0)
    assert perfect.figures["exact_match"] == 1.0
    scored = tmp_path / "scored"
    quality = translate.score(
        corpus.target_file,
        checkpoint=out,
        source_file=corpus.source_file,
        search=Search(beam=1),
        out=scored,
    )
    kept = json.loads((scored / "metrics.json").read_text("utf-8"))
    assert kept["figures"].items() >= quality.figures.items()
    assert kept["figures"]["bleu_interval"] >= 0
    assert "tok:13a" in kept["protocol"]
    assert kept["machine"]["precision"] == "32-true"


def test_training_goes_on_to_the_same_weights(corpus: Corpus, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    fit(corpus, whole)

    class Halfway(KeyboardInterrupt):
        pass

    reached = 0

    def stop_in_the_second_epoch(*arguments: object) -> Any:
        nonlocal reached
        reached += 1
        if reached == 8:
            raise Halfway
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        from graphformer.tasks.run import Saving
        from graphformer.tasks.translation.learner import TranslationLearner

        patch.setattr(Saving, "__init__", _saving_every_three)
        original = TranslationLearner.compute_loss
        patch.setattr(TranslationLearner, "compute_loss", stop_in_the_second_epoch)
        with pytest.raises((Halfway, SystemExit)):
            fit(corpus, halves)
    assert not (halves / "metrics.json").exists()
    job = Job(halves, resume=True, accelerator="cpu")
    figures = fit(corpus, halves, job=job)
    assert same(weights(whole), weights(halves))
    kept = json.loads((whole / "metrics.json").read_text("utf-8"))["figures"]
    timeless = [name for name in kept if name != "seconds"]
    assert {name: figures[name] for name in timeless} == {name: kept[name] for name in timeless}


def _saving_every_three(self: Any) -> None:
    for name, value in {"seconds": None, "steps": 3, "epochs": None, "keep": 2}.items():
        object.__setattr__(self, name, value)


def test_seeds_are_repetitions(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "run"
    short = Training(steps=2, batch_tokens=400, vocabulary=0)
    summary = fit(corpus, out, training=short, job=Job(out, seeds=2, seed=3, accelerator="cpu"))
    described = json.loads((out / "metrics.json").read_text("utf-8"))
    assert described["seeds"] == [3, 4]
    assert described["figures"] == summary
    assert not same(weights(out / "seed-3"), weights(out / "seed-4"))
    loss = described["figures"]["train_loss"]
    assert loss["mean"] == pytest.approx(sum(loss["values"]) / 2)
    assert loss["std"] > 0


def test_own_text_is_split_without_overlap(corpus: Corpus) -> None:
    parts = read_corpus(corpus)
    sources = [{source for source, _ in part} for part in parts[1:]]
    assert all(sources)
    assert not sources[0] & sources[1]
    assert not (sources[0] | sources[1]) & sources[2]
    assert read_corpus(corpus) == parts, "the split is always the same"


def test_pairs_are_shifted_by_one() -> None:
    pairs = [("ab", "cd"), ("a", "c")]
    batch = collate(encode_pairs(make_vocabulary(pairs, 0), pairs))
    assert batch.source.lengths.tolist() == [3, 2]
    assert batch.target.lengths.tolist() == [3, 2]
    assert torch.equal(batch.target.x[1:3], batch.following[:2])


def test_lines_are_cut_into_runs_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphformer.tasks.translation.decoding.BATCH_TOKENS", 5)
    assert runs_of([0, 1, 2, 3], [2, 3, 1, 9]) == [[0, 1], [2], [3]]
    assert runs_of([], []) == []


def test_scores_are_those_of_sacrebleu() -> None:
    found = ["the cat sat on the mat .", "a dog barks ."]
    references = ["the cat sat on a mat .", "a dog barks ."]
    quality = measure(found, references)
    from sacrebleu import corpus_bleu, corpus_chrf

    assert quality.figures["bleu"] == corpus_bleu(found, [references]).score
    assert quality.figures["chrf"] == corpus_chrf(found, [references]).score
    assert quality.figures["exact_match"] == 0.5
    assert "tok:13a" in str(quality)


def test_a_run_is_resumed_with_its_own_settings(corpus: Corpus, tmp_path: Path) -> None:
    out, job = tmp_path / "run", Job(tmp_path / "run", resume=True, accelerator="cpu")
    short = Training(steps=3, batch_tokens=400, vocabulary=0)
    fit(corpus, out, training=short)
    before = (out / "settings.yaml").read_text()
    wider = Shape(dim=32, heads=2, layers=1, hidden=32)
    with pytest.raises(ValueError, match=r"settings\.yaml has dim 16 \(now 32\)"):
        fit(corpus, out, training=short, shape=wider, job=job)
    with pytest.raises(ValueError, match="has the checkpoints of a run: resume it"):
        fit(corpus, out, training=short)
    for limit in ({"steps": 2}, {"epochs": 1}, {"minutes": 1e-9}):
        with pytest.raises(ValueError, match=f"{min(limit)} is .* the run in .* has trained for"):
            fit(corpus, out, training=replace(short, **limit), job=job)
    assert (out / "settings.yaml").read_text() == before


def test_a_run_is_not_resumed_with_other_text(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(corpus, out, training=Training(steps=2, batch_tokens=400, vocabulary=0))
    assert corpus.source_file is not None
    text = corpus.source_file.read_text("utf-8")
    # As many words, and as many characters of a vocabulary.
    corpus.source_file.write_text(text.translate(str.maketrans("vz", "zv")), "utf-8")
    longer, job = (
        Training(steps=3, batch_tokens=400, vocabulary=0),
        Job(out, resume=True, accelerator="cpu"),
    )
    with pytest.raises(ValueError, match="resume: the training text is not the one that the run"):
        fit(corpus, out, training=longer, job=job)
    corpus.source_file.write_text(text, "utf-8")
    assert fit(corpus, out, training=longer, job=job)


def test_a_run_goes_on_though_one_with_other_text_was_given_up_there(
    corpus: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    short = Training(steps=2, batch_tokens=400, vocabulary=0)
    fit(corpus, out, training=short)
    # As it is when a run is killed before its first checkpoint.
    shutil.rmtree(out / "checkpoints")
    for name in ("metrics.json", "config.json"):
        (out / name).unlink()
    assert corpus.source_file is not None
    text = corpus.source_file.read_text("utf-8")
    corpus.source_file.write_text(text.translate(str.maketrans("vz", "zv")), "utf-8")
    fit(corpus, out, training=short)
    longer = Training(steps=3, batch_tokens=400, vocabulary=0)
    assert fit(corpus, out, training=longer, job=Job(out, resume=True, accelerator="cpu"))


def test_unknown_characters_are_warned_of_once(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(corpus, out, training=Training(steps=1, batch_tokens=400, vocabulary=0))
    lines = tmp_path / "lines.txt"
    lines.write_text("eins!\nzwei! drei?\nvier\n", "utf-8")
    expected = r"3 characters are unknown to the translator, .*: '!' \(2\), '\?' \(1\); expect"
    with pytest.warns(UserWarning, match=expected) as warned:
        translate.predict(out, input_file=lines, search=Search(beam=1))
    assert sum("characters are unknown" in str(each.message) for each in warned) == 1
    with pytest.warns(UserWarning, match=r"1 character is unknown .* did not have it: '!' \(1\)"):
        translate.predict(out, text="eins!")
    translate.predict(out, text="eins", search=Search(beam=1))


def test_characters_unknown_to_pieces_of_words_are_warned_of(
    corpus: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    fit(corpus, out, training=Training(steps=1, batch_tokens=400, vocabulary=270))
    tokenizer = Translator.from_pretrained(out).tokenizer
    assert tokenizer.decode(tokenizer.encode("\N{SNOWMAN}").ids) == "\N{SNOWMAN}"
    with pytest.warns(UserWarning, match="2 characters are unknown .*: '\N{SNOWMAN}' .2.;"):
        translate.predict(out, text="eins \N{SNOWMAN}\N{SNOWMAN}", search=Search(beam=1))
    translate.predict(out, text="eins", search=Search(beam=1))


@pytest.mark.parametrize("name", ["written.txt", "model.safetensors"])
def test_files_are_replaced_whole_or_not_at_all(
    name: str, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    fit(corpus, out, training=Training(steps=1, batch_tokens=400, vocabulary=0))
    file = out / name
    before = b"as it was" if name == "written.txt" else file.read_bytes()
    file.write_bytes(before)

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    writing = {
        "written.txt": partial(translate.predict, out, text="eins", output_file=file),
        "model.safetensors": partial(Translator.from_pretrained(out).save_pretrained, out),
    }
    monkeypatch.setattr("graphformer.files.os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        writing[name]()
    assert file.read_bytes() == before
    assert not list(out.glob("*.unfinished"))


def test_prediction_refuses(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no saved model, it lacks config\.json"):
        translate.predict(tmp_path, text="eins")
    with pytest.raises(ValueError, match="there are both --text and --input_file"):
        translate.predict(tmp_path, text="eins", input_file=tmp_path / "x")
    with pytest.raises(ValueError, match=r"output_file is .*, which is a folder: write a file"):
        translate.predict(tmp_path, text="eins", output_file=tmp_path)
    (tmp_path / "x").write_text("eins\n", "utf-8")
    with pytest.raises(ValueError, match=r"output_file is .*, which is read: write another file"):
        translate.predict(tmp_path, input_file=tmp_path / "x", output_file=tmp_path / "x")
    assert (tmp_path / "x").read_text("utf-8") == "eins\n"
    assert corpus.target_file is not None
    with pytest.raises(ValueError, match="there is nothing to score"):
        translate.score(corpus.target_file, search=SEARCH)
    with pytest.raises(ValueError, match="1 translations and 2 references"):
        measure(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="there is no translation to score"):
        measure([], [])


def test_lines_of_the_standard_input_end_at_newlines_alone() -> None:
    assert split_lines("eins\x0bzwei\u2028drei\r\n\nvier\n") == [
        "eins\x0bzwei\u2028drei",
        "",
        "vier",
    ]
    assert split_lines("") == []


def test_without_matplotlib_the_test_set_is_translated_all_the_same(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "run"
    short = Training(steps=1, batch_tokens=400, vocabulary=0)
    fit(corpus, out, training=short, search=Search(beam=1))
    assert "no plots, since matplotlib is missing" in capsys.readouterr().out
    assert (out / "metrics.json").exists()


def test_scores_are_of_one_thing(corpus: Corpus, tmp_path: Path) -> None:
    assert corpus.target_file is not None
    with pytest.raises(ValueError, match="both --hypothesis_file and --checkpoint"):
        translate.score(corpus.target_file, corpus.target_file, tmp_path)
