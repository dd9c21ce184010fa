"""Scores have intervals, and two systems are compared on the same resampled test sets."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sacrebleu.metrics.bleu import BLEU

from graphformer.tasks import translate
from graphformer.tasks.settings import Job
from graphformer.tasks.translation import bootstrap
from graphformer.tasks.translation.attending import Attending
from graphformer.tasks.translation.bootstrap import resample
from graphformer.tasks.translation.scores import measure
from graphformer.tasks.translation.settings import Corpus, Search, Shape, Training
from graphformer.tasks.translation.wanted import Scoring

WORDS = ["a", "dog", "runs", "over", "the", "green", "field", "and", "two", "men", "look"]


def make_text(seed: int, changed: float) -> list[str]:
    """Sentences, the same for all seeds but for a share of their words."""
    same, own = random.Random(0), random.Random(seed)
    lines = [[same.choice(WORDS) for _ in range(8)] for _ in range(60)]
    return [
        " ".join("other" if own.random() < changed else word for word in words) for words in lines
    ]


@pytest.fixture(scope="module")
def references() -> list[str]:
    return make_text(0, 0.0)


def test_intervals_are_those_of_sacrebleu(references: list[str]) -> None:
    found = make_text(1, 0.2)
    bleu, chrf = resample({"one": found}, references, "none").intervals["one"]
    expected = BLEU(tokenize="none", force=True).corpus_score(found, [references], n_bootstrap=1000)
    assert bleu.score == pytest.approx(expected.score)
    assert bleu.mean == pytest.approx(expected._mean, abs=0.2)
    assert bleu.half == pytest.approx(expected._ci, rel=0.2)
    assert bleu.p_value is None
    assert chrf.metric == "chrF"
    assert chrf.score == pytest.approx(measure(found, references).figures["chrf"])


def test_a_better_system_is_told_from_one_that_is_as_good(references: list[str]) -> None:
    systems = {"one": make_text(1, 0.2), "same": make_text(2, 0.2), "worse": make_text(3, 0.5)}
    compared = resample(systems, references)
    same, worse = (compared.intervals[name][0].p_value for name in ("same", "worse"))
    assert same is not None
    assert worse is not None
    assert same > 0.05
    assert worse < 0.01
    assert compared.figures["bleu_3_p"] == worse
    rows = str(compared).splitlines()
    assert [row.split()[0] for row in rows[:3]] == list(systems)
    assert "p = " not in rows[0]
    assert "p = " in rows[2]


def test_of_many_lines_there_are_scores_alone(
    references: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_text(1, 0.2)
    monkeypatch.setattr(bootstrap, "MOST_LINES", len(references) - 1)
    compared = resample({"one": found, "other": references}, references)
    figures = measure(found, references).figures
    assert [each.score for each in compared.intervals["one"]] == [figures["bleu"], figures["chrf"]]
    assert compared.figures == {"bleu_2": pytest.approx(100.0), "chrf_2": pytest.approx(100.0)}
    first, *_, last = str(compared).splitlines()
    assert first == f"one    BLEU {figures['bleu']:.2f}, chrF {figures['chrf']:.2f}"
    assert last == "(no intervals of more than 59 lines)"


def test_two_files_are_compared(
    references: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / name for name in ("references", "one", "other")]
    for file, lines in zip(files, (references, make_text(1, 0.2), make_text(3, 0.5)), strict=True):
        file.write_text("\n".join(lines) + "\n", "utf-8")
    translate.score(files[0], files[1], other_file=files[2], scoring=Scoring("none"))
    shown = capsys.readouterr().out
    assert "tok:none" in shown
    assert f"translations of {files[1]}" in shown
    assert str(files[2]) in shown
    assert "95% interval" in shown
    files[2].write_text("a\n", "utf-8")
    with pytest.raises(ValueError, match=r"other has 1 lines .* has 60: .* line 2 has no partner"):
        translate.score(files[0], files[1], other_file=files[2])


def test_words_are_found_as_asked() -> None:
    found, references = ["a dog , a cat ."], ["a dog, a cat."]
    by_spaces = measure(found, references, "none")
    assert by_spaces.figures["bleu"] < measure(found, references).figures["bleu"]
    assert "tok:none" in str(by_spaces)


def test_training_scores_as_asked(tmp_path: Path) -> None:
    files = tmp_path / "a", tmp_path / "b"
    for file, seed in zip(files, (1, 2), strict=True):
        file.write_text("\n".join(make_text(seed, 0.3)) + "\n", "utf-8")
    for tokenize in ("13a", "none"):
        out = tmp_path / tokenize
        translate.fit(
            Corpus(source_file=files[0], target_file=files[1]),
            Shape(dim=8, heads=1, layers=1, hidden=8),
            Attending(),
            Training(steps=1, vocabulary=0),
            Search(beam=1),
            Job(out, accelerator="cpu"),
            scoring=Scoring(tokenize),
        )
        assert f"tok:{tokenize}" in (out / "metrics.json").read_text("utf-8")
        assert f"tokenize: {tokenize}" in (out / "settings.yaml").read_text("utf-8")
