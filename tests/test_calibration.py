"""What `graphformer calibrate` measures, keeps and changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import graphformer as gf
from graphformer import machine
from graphformer.backends import Cost, calibration
from graphformer.tasks import calibrate as command
from graphformer.tasks.record import read_figures
from graphformer.tokens import sequences

FUSED = "dense, fused, float32, forward"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder."""
    monkeypatch.setenv("GRAPHFORMER_CACHE", str(tmp_path))
    calibration._read.cache_clear()
    yield tmp_path
    calibration._read.cache_clear()


def predicted(backend: str, dtype: torch.dtype = torch.float32, training: bool = False) -> float:
    """Seconds that a backend is predicted to take on a window over 40 tokens."""
    graph = gf.window(3).bind(sequences([torch.zeros(40, 1)]))
    cost = gf.explain(graph, heads=2, dim=8, dtype=dtype, training=training).candidates[backend]
    assert isinstance(cost, Cost)
    return cost.seconds


def test_factors_correct_their_own_way_dtype_and_direction(folder: Path) -> None:
    before = {name: predicted(name) for name in ("dense", "band", "reference")}
    training, low = predicted("dense", training=True), predicted("dense", torch.bfloat16)
    calibration.keep({FUSED: 3.0, "reference, float32, forward": 0.5})
    assert predicted("dense") == pytest.approx(3 * before["dense"])
    assert predicted("reference") == pytest.approx(before["reference"] / 2)
    assert predicted("band") == before["band"]
    assert predicted("dense", training=True) == training
    assert predicted("dense", torch.bfloat16) == low


def test_the_planner_follows_the_factors(folder: Path) -> None:
    graph = gf.window(3).bind(sequences([torch.zeros(40, 1)]))
    assert "graphformer calibrate" in str(gf.explain(graph, heads=2, dim=8))
    slow = {name: 1e4 for name in command_names() if not name.startswith("reference")}
    calibration.keep(slow)
    plan = gf.explain(graph, heads=2, dim=8)
    assert plan.name == "reference"
    assert "graphformer calibrate" not in str(plan)


def command_names() -> list[str]:
    """The names of all factors."""
    return [
        calibration.name_of(trial.way, dtype, grad)
        for trial in command.TRIALS
        for dtype in command.DTYPES
        for grad in (False, True)
    ]


def test_another_machine_or_number_of_threads_has_its_own(folder: Path) -> None:
    path = calibration.keep({FUSED: 3.0})
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert calibration.factors() == {}
        calibration.keep({FUSED: 5.0})
    finally:
        torch.set_num_threads(threads)
    assert calibration.factors() == {FUSED: 3.0}
    assert len(json.loads(path.read_text())) == 2


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '{"a cpu": {"dense": "fast"}}',
        '{"a cpu": {"dense": NaN}}',
        '{"a cpu": {"dense": 0}}',
    ],
)
def test_a_damaged_file_is_named_and_built_in_costs_are_used(folder: Path, text: str) -> None:
    (folder / calibration.FILE).write_text(text)
    with pytest.warns(UserWarning, match=r"calibration\.json is damaged.*graphformer calibrate"):
        assert calibration.factors() == {}


def test_a_user_without_a_home_has_built_in_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("GRAPHFORMER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    machine._cache_folder.cache_clear()
    try:
        assert calibration.factors() == {}
    finally:
        machine._cache_folder.cache_clear()


def test_the_command_measures_every_way_and_keeps_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {
        "dense": command.bound(gf.complete(), 16),
        "band": command.bound(gf.window(4), 64),
        "sparse": command.at_random(64, 4),
        "linear": command.bound(gf.complete(), 64),
        "reference": command.at_random(64, 2),
    }
    trials = [
        command.Trial(t.way, small[t.backend], t.score, 2, 8, t.normalize) for t in command.TRIALS
    ]
    monkeypatch.setattr(command, "TRIALS", trials)
    monkeypatch.setattr(command, "ROUNDS", 1)
    monkeypatch.setattr(command, "CALLS", 1)
    found = command.calibrate(out=str(folder / "run"))
    assert read_figures(folder / "run") == found
    assert all(value > 0 for value in found.values())
    missing = set(command_names()) - set(found)
    assert all(name.startswith("sparse") for name in missing)
    assert bool(missing) == (gf.backends.kernels.why_missing() is not None)
    assert calibration.factors() == found
    assert "kept in" in capsys.readouterr().out


@pytest.mark.parametrize("trial", command.TRIALS, ids=lambda trial: trial.way)
def test_trials_run_the_way_they_are_named_for(
    trial: command.Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a factor would correct what it was not measured on."""
    module = gf.backends.by_name(trial.backend)
    seen: list[str] = []

    def factor(way: str, _: gf.backends.Request) -> float:
        seen.append(way)
        return 1.0

    monkeypatch.setattr(module, "factor", factor)
    topology = gf.complete() if trial.way == "linear" else gf.window(2)
    graph = topology.bind(sequences([torch.zeros(6, 1)]))
    score = trial.score(2)
    assert isinstance(module.cost(request_of(graph, score, trial.normalize)), Cost)
    assert trial.way in seen


def request_of(graph: gf.TokenGraph, score: gf.Score, normalize: str) -> gf.backends.Request:
    """What a backend is asked, whether or not it is there."""
    return gf.explain(graph, score, 2, 8, normalize=normalize, backend="reference").request
