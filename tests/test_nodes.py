"""`graphformer nodes fit` leaves what it should, repeats, and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_training import NextWord, loader
from torch import nn
from villages import (
    KINDS,
    NUM_EPOCHS,
    SHORT,
    SMALL,
    job,
    source_of,
)

from graphformer.tasks.best import BestWeights
from graphformer.tasks.classification.learner import NodeClassifier
from graphformer.tasks.classification.network import (
    RECIPES,
    Training,
)
from graphformer.tasks.classification.source import Source, choose_split, read_graph
from graphformer.tasks.classification.trained import read_trained
from graphformer.tasks.history import read_history
from graphformer.tasks.interruption import Interrupted
from graphformer.tasks.nodes import fit
from graphformer.tasks.record import read_figures
from graphformer.tasks.run import Budget, Machine, Run, train


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source_of(tmp_path_factory.mktemp("villages"))


@pytest.fixture(scope="module")
def runs(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two seeds."""
    out = tmp_path_factory.mktemp("runs")
    fit(job(out, seeds=2), source, SMALL, SHORT)
    return out


def figures_of(out: Path) -> dict[str, float]:
    figures = read_figures(out)
    del figures["seconds"]
    return figures


def assert_same_run(one: Path, other: Path) -> None:
    assert figures_of(one) == figures_of(other)
    trained, expected = (read_trained(each / "best.ckpt") for each in (one, other))
    assert all(torch.equal(trained.weights[name], x) for name, x in expected.weights.items())
    tables = [read_history(each / "history.csv") for each in (one, other)]
    rows, expected_rows = ([row._replace(seconds=0.0) for row in table] for table in tables)
    assert rows == expected_rows


def test_fit_leaves_settings_figures_plots_and_checkpoints(runs: Path, source: Source) -> None:
    assert {path.name for path in runs.iterdir()} == {
        "metrics.json",
        "seed-0",
        "seed-1",
        "settings.yaml",
    }
    assert {path.name for path in (runs / "seed-1").iterdir()} == {
        "best.ckpt",
        "checkpoints",
        "classes.svg",
        "history.csv",
        "history.svg",
        "metrics.json",
    }
    metrics = json.loads((runs / "seed-1" / "metrics.json").read_text())
    assert metrics["seeds"] == [1]
    assert metrics["data"] == "edges.csv, split of the file"
    assert metrics["split"] == "its one split (12 nodes to train, 12 to validate, 24 to test)"
    assert metrics["protocol"].startswith("gcn, accuracy at the epoch of the best validation")
    assert metrics["figures"]["epochs"] == NUM_EPOCHS
    settings = yaml.safe_load((runs / "settings.yaml").read_text())
    assert settings["features_file"] == str(source.features_file)
    assert settings["split"] == "public"
    assert metrics["machine"]["precision"] == "32-true"
    assert settings["dropout"] == RECIPES["gcn"].training["dropout"]
    picture = (runs / "seed-0" / "classes.svg").read_text()
    assert all(f">{kind}</text>" in picture for kind in KINDS)


def test_seeds_are_reported_with_mean_and_deviation(runs: Path) -> None:
    metrics = json.loads((runs / "metrics.json").read_text())
    assert metrics["seeds"] == [0, 1]
    values = [read_figures(runs / f"seed-{seed}")["test_loss"] for seed in (0, 1)]
    assert values[0] != values[1]
    expected = {"mean": statistics.fmean(values), "std": statistics.stdev(values), "values": values}
    assert metrics["figures"]["test_loss"] == expected


def test_the_best_epoch_is_that_of_the_history(runs: Path) -> None:
    figures = read_figures(runs / "seed-0")
    rows = read_history(runs / "seed-0" / "history.csv")
    measured = {
        name: [row.value for row in rows if row.name == f"validation_{name}"]
        for name in ("accuracy", "loss")
    }
    ranks = list(zip(measured["accuracy"], [-each for each in measured["loss"]], strict=True))
    assert len(ranks) == NUM_EPOCHS
    best = ranks.index(max(ranks))
    assert figures["best_epoch"] == best + 1
    assert figures["validation_accuracy"] == ranks[best][0]


def test_a_seed_gives_the_same_again(runs: Path, source: Source, tmp_path: Path) -> None:
    returned = fit(job(tmp_path, seed=1), source, SMALL, SHORT)
    assert returned == read_figures(tmp_path)
    assert_same_run(tmp_path, runs / "seed-1")


def test_published_splits_are_taken_in_turn_and_named(source: Source) -> None:
    data = read_graph(source)
    masks = [mask.repeat(3, 1) for mask in (data.train_mask, data.val_mask, data.test_mask)]
    several = data._replace(train_mask=masks[0], val_mask=masks[1], test_mask=masks[2])
    assert choose_split(several, source, 4)[1].startswith("split 1 of 3 (12 nodes")
    assert choose_split(several, replace(source, split=2), 4)[1].startswith("split 2 of 3 (12")


def test_a_random_split_is_drawn_once_and_named(source: Source, tmp_path: Path) -> None:
    fit(job(tmp_path, seeds=2), replace(source, split="random"), SMALL, Training(epochs=1))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    drawn = "random split (0.6, 0.2, 0.2), seed 123 (36 nodes to train, 12 to validate, 12 to test)"
    assert metrics["split"] == drawn
    assert metrics["data"] == f"{source.data}, random split"


def interrupt_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends SIGINT while loss number `number` of a training is computed."""
    compute = NodeClassifier.compute_loss
    count = 0

    def compute_loss(self: NodeClassifier, batch: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGINT)
        return compute(self, batch)

    monkeypatch.setattr(NodeClassifier, "compute_loss", compute_loss)


@pytest.mark.parametrize("number", [NUM_EPOCHS // 2, NUM_EPOCHS + 7])
def test_an_interrupted_fit_goes_on_to_the_same_weights_and_figures(
    number: int, runs: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(number, monkeypatch)
    with pytest.raises(Interrupted):
        fit(job(tmp_path, seeds=2), source, SMALL, SHORT)
    assert not (tmp_path / "metrics.json").exists()
    fit(job(tmp_path, seeds=2, resume=True), source, SMALL, SHORT)
    for seed in ("seed-0", "seed-1"):
        assert_same_run(tmp_path / seed, runs / seed)
    assert (tmp_path / "metrics.json").exists()


def test_a_longer_budget_goes_on_and_gives_new_figures(
    runs: Path, source: Source, tmp_path: Path
) -> None:
    fit(job(tmp_path, seeds=2), source, SMALL, replace(SHORT, epochs=5))
    fit(job(tmp_path, seeds=2, resume=True), source, SMALL, SHORT)
    assert_same_run(tmp_path / "seed-1", runs / "seed-1")


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(
    runs: Path, source: Source
) -> None:
    before = (runs / "settings.yaml").read_text()
    wider = replace(SMALL, hidden=9)
    with pytest.raises(ValueError, match=r"has the checkpoints of a run \(in seed-0\): resume it"):
        fit(job(runs, seeds=2), source, wider, SHORT)
    with pytest.raises(ValueError, match=r"hidden 8 \(now 9\): a run is resumed with the settings"):
        fit(job(runs, seeds=2, resume=True), source, wider, SHORT)
    assert (runs / "settings.yaml").read_text() == before


def test_a_run_is_not_resumed_with_a_budget_that_it_is_past(runs: Path, source: Source) -> None:
    files = [runs / "settings.yaml", runs / "metrics.json", runs / "seed-1" / "metrics.json"]
    before = [file.read_text() for file in files]
    pattern = rf"epochs is {NUM_EPOCHS - 1}, and the run in .*seed-0 has trained for {NUM_EPOCHS} "
    shorter = replace(SHORT, epochs=NUM_EPOCHS - 1)
    with pytest.raises(ValueError, match=pattern + "already: write as many or more"):
        fit(job(runs, seeds=2, resume=True), source, SMALL, shorter)
    assert [file.read_text() for file in files] == before


def test_figures_of_a_run_whose_checkpoints_are_gone_are_kept(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(job(tmp_path, seeds=2, resume=True), source, SMALL, replace(SHORT, epochs=3))
    assert f"nothing to resume in {tmp_path}: it begins from the start" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "seed-1" / "checkpoints")
    before = [file.read_text() for file in sorted(tmp_path.rglob("metrics.json"))]
    fit(job(tmp_path, seeds=2, resume=True), source, SMALL, replace(SHORT, epochs=3))
    assert "nothing to resume" not in capsys.readouterr().err
    for epochs, refusal in ((2, "epochs is 2"), (4, "seed-1 has a finished run without its check")):
        changed = replace(SHORT, epochs=epochs)
        with pytest.raises(ValueError, match=refusal):
            fit(job(tmp_path, seeds=2, resume=True), source, SMALL, changed)
    assert [file.read_text() for file in sorted(tmp_path.rglob("metrics.json"))] == before


class Scripted(NextWord):
    """Validates with given values, epoch by epoch, and counts its epochs in its weights."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values
        self.epoch = nn.Parameter(torch.zeros(()), requires_grad=False)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.epoch += batch_idx == 0
        value = self.values[self.trainer.current_epoch]
        self.log("validation_loss", value, batch_size=1, on_epoch=True)


@pytest.mark.parametrize(
    ("values", "epoch"), [([1.0, 3.0, 2.0], 2), ([2.0, 2.0, 1.0], 1), ([float("nan"), 1.0, 0.0], 2)]
)
def test_best_weights_are_those_of_the_first_of_the_best_validations(
    values: list[float], epoch: int, tmp_path: Path
) -> None:
    learner = Scripted(values)
    kept = BestWeights(lambda measured: (measured["validation_loss"],))
    run = Run(tmp_path, Budget(epochs=3), machine=Machine(accelerator="cpu"))
    train(learner, loader(), loader(max_tokens=40), run, callbacks=[kept])
    assert learner.epoch == 3
    kept.restore(learner)
    assert learner.epoch == kept.best.epoch == epoch
    assert kept.best.values["validation_loss"] == values[epoch - 1]


def test_training_that_measures_no_number_says_so(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has measured a number.* smaller learning"):
        fit(job(tmp_path), source, SMALL, Training(epochs=1, learning_rate=1e30))


def test_training_that_diverges_says_so(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training diverged.*lower learning_rate"):
        fit(job(tmp_path), source, SMALL, Training(epochs=2, learning_rate=1e30))
