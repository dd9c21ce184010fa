"""What a run leaves behind: figures, over several seeds, and how to measure them again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from graphformer.backends import executors
from graphformer.tasks import device
from graphformer.tasks.device import find_device, multiplies_bfloat16
from graphformer.tasks.record import command_line, machine, read_figures, write_metrics
from graphformer.tasks.run import Budget, Run, repeat, resume_hint

ON_CPU: dict[str, Any] = {"device": torch.device("cpu"), "precision": "32-true"}


def job(run: Run) -> Mapping[str, float]:
    figures = {"accuracy": 80.0 + run.seed}
    description = {"data": "none", "split": "none", "protocol": "the seed", **ON_CPU}
    write_metrics(run.out, figures, seeds=[run.seed], **description)
    return figures


def test_repeating_gives_mean_and_standard_deviation(tmp_path: Path) -> None:
    run = Run(tmp_path, Budget(epochs=1))
    summary = repeat(job, run, [0, 1, 2])
    assert summary == {"accuracy": {"mean": 81.0, "std": 1.0, "values": [80.0, 81.0, 82.0]}}
    assert repeat(job, run, [4])["accuracy"] == {"mean": 84.0, "std": None, "values": [84.0]}
    with pytest.raises(ValueError, match="needs at least one seed"):
        repeat(job, run, [])


def test_repeating_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def interrupted(run: Run) -> Mapping[str, float]:
        if run.seed == 1:
            raise KeyboardInterrupt
        return job(run)

    run = Run(tmp_path, Budget(epochs=1))
    with pytest.raises(KeyboardInterrupt):
        repeat(interrupted, run, [0, 1])
    (tmp_path / "seed-0" / "metrics.json").write_text('{"figures": {"accuracy": 7.0}}')
    resumed = repeat(job, Run(tmp_path, Budget(epochs=1), resume=True), [0, 1])
    assert resumed["accuracy"]["values"] == [7.0, 81.0]


def test_metrics_say_how_they_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_chosen", {"the faster one": "sdpa"})
    description = {"data": "dates", "split": "1,000 held-out years", "protocol": "exact match"}
    write_metrics(tmp_path, {"exact_match": 98.5}, seeds=[0], **description, **ON_CPU)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert read_figures(tmp_path) == {"exact_match": 98.5}
    assert written.items() >= {"seeds": [0], **description}.items()
    assert written["versions"].keys() >= {"graphformer", "python", "torch", "lightning"}
    assert written["command"] == command_line()
    assert written["machine"]["threads"] == torch.get_num_threads()
    assert written["machine"]["precision"] == "32-true"
    assert written["planner"] == {"executors": {"the faster one": "sdpa"}, "factors": {}}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("/usr/bin/graphformer", "graphformer fit --out 'my runs'"),
        ("/lib/graphformer/__main__.py", "python -m graphformer fit --out 'my runs'"),
        ("examples/dates.py", "python examples/dates.py fit --out 'my runs'"),
    ],
)
def test_commands_are_written_as_one_types_them(
    program: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "fit", "--out", "my runs"])
    assert command_line() == command
    expected = f"{command} --resume" if "graphformer" in command else "resume=True"
    assert expected in resume_hint()


@pytest.mark.parametrize("program", ["/usr/bin/graphformer", "/lib/graphformer/__main__.py"])
def test_the_demo_goes_on_by_the_same_command(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "demo", "--out", "shown"])
    assert resume_hint().endswith("graphformer demo --out shown")


def test_the_machine_of_a_figure_is_the_device_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "a GPU")
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    for accelerator, name in (("cpu", device.cpu_name()), ("gpu", "a GPU"), ("auto", "a GPU")):
        chosen = find_device(accelerator)
        assert machine(chosen, "32-true")["device"] == name
        assert multiplies_bfloat16(chosen) == (name == "a GPU")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3"])
def test_damaged_figures_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.json is damaged: remove it, and it is written"):
        read_figures(tmp_path)
