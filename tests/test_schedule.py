"""The learning rate rises and falls as its schedule says, by steps and by the clock."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny_training import NextWord, loader
from torch import nn

from graphformer.tasks.average import AverageWeights
from graphformer.tasks.run import Budget, Machine, Run, train
from graphformer.tasks.schedule import FALLS, RiseAndFall, Schedule


class Rates(Callback):
    """The learning rate of each update."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class Plain(NextWord):
    """Without schedules of its own."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=9.0)


def rates(out: Path, budget: Budget, rate: RiseAndFall, **options: Any) -> list[float]:
    watch = Rates()
    run = Run(out, budget, machine=Machine("cpu"))
    train(Plain(), loader(), None, run, callbacks=[rate, watch], **options)
    return watch.rates


@pytest.mark.parametrize("name", FALLS)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_rate_rises_to_its_peak_and_is_above_zero_to_the_end(
    steps: int, name: Schedule, tmp_path: Path
) -> None:
    rate = RiseAndFall(0.1, warmup=0.25, fall=FALLS[name])
    found = rates(tmp_path, Budget(steps=steps), rate)
    assert len(found) == steps
    assert max(found) == pytest.approx(0.1)
    assert min(found) > 0
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


@pytest.mark.parametrize("budget", [Budget(steps=40), Budget(epochs=8)])
def test_the_rate_falls_as_its_schedule_says(budget: Budget, tmp_path: Path) -> None:
    shapes = {
        "linear": [(40 - step) / 30 for step in range(10, 40)],
        "inverse_sqrt": [(10 / step) ** 0.5 for step in range(10, 40)],
        "cosine": [(1 + math.cos(math.pi * (step - 10) / 30)) / 2 for step in range(10, 40)],
    }
    options = {"limit_train_batches": 5}
    rising = [(step + 1) / 10 for step in range(10)]
    for name, fall in FALLS.items():
        for number, rate in enumerate(
            [RiseAndFall(1.0, 0.25, fall), RiseAndFall(1.0, 0.5, fall, warmup_steps=10)]
        ):
            found = rates(tmp_path / f"{name}-{number}", budget, rate, **options)
            assert found == pytest.approx(rising + shapes[name])


def test_a_rise_longer_than_the_budget_is_cut_off(tmp_path: Path) -> None:
    for name, fall in FALLS.items():
        rate = RiseAndFall(1.0, fall=fall, warmup_steps=8)
        found = rates(tmp_path / name, Budget(steps=4), rate)
        assert found == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8])


def test_steps_of_a_rise_are_met_by_the_clock_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(10000))
    monkeypatch.setattr("graphformer.tasks.clock.time.monotonic", lambda: float(next(now)))
    rate = RiseAndFall(1.0, fall=FALLS["inverse_sqrt"], warmup_steps=4)
    found = rates(tmp_path, Budget(minutes=10.0), rate)
    assert len(found) > 20
    assert found[:4] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1.0])
    assert found == pytest.approx(
        [min((step + 1) / 4, (4 / max(step, 4)) ** 0.5) for step in range(len(found))]
    )


def test_processes_keep_the_same_weights_whatever_their_clocks_say(tmp_path: Path) -> None:
    class Keep(Callback):
        def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
            torch.save(pl_module.state_dict(), tmp_path / f"{trainer.global_rank}.pt")

    machine = Machine("cpu", devices=2, strategy="ddp_fork")
    run = Run(tmp_path, Budget(minutes=0.01), machine=machine)
    callbacks = [RiseAndFall(0.1, warmup=0.5), AverageWeights(2), Keep()]
    train(Plain(), loader(), None, run, callbacks=callbacks)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
