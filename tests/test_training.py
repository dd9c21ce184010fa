"""Training: its updates, its end, what it prints and what it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from tiny_training import EVERY_THIRD, NUM_WORDS, SENTENCES, NextWord, loader, train_tiny
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.tasks import progress
from graphformer.tasks.average import AverageWeights
from graphformer.tasks.batches import BatchOrder
from graphformer.tasks.best import BestWeights
from graphformer.tasks.history import read_history
from graphformer.tasks.learner import Learner, SummedLoss
from graphformer.tasks.loader import Loader
from graphformer.tasks.optimizers import fused_optimizer
from graphformer.tasks.plots import plot_history
from graphformer.tasks.run import Budget, Machine, Run, train
from graphformer.tasks.weights import copy_weights, mean_weights

ON_CPU = Machine(accelerator="cpu")


class Gradients(Callback):
    """Keeps the gradients of the last update, as the optimizer saw them."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        if trainer.is_global_zero:
            torch.save([each.grad for each in pl_module.parameters()], self.file)


class Mean(Learner):
    """Guesses the next word; no randomness, and weights that stay."""

    def __init__(self, counted: type = int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.counted = counted
        self.embedding = nn.Embedding(NUM_WORDS, 6, dtype=torch.float64)
        self.output = nn.Linear(6, NUM_WORDS, dtype=torch.float64)

    def compute_loss(self, batch: tuple[Tensor, Tensor]) -> SummedLoss:
        words, following = batch
        logits = self.output(torch.tanh(self.embedding(words)))
        total = F.cross_entropy(logits, following, reduction="sum")
        return SummedLoss(total, self.counted(len(following)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def pairs(sentences: list[Tensor]) -> tuple[Tensor, Tensor]:
    words = torch.cat([sentence[:-1] for sentence in sentences])
    return words, torch.cat([sentence[1:] for sentence in sentences])


def update_gradients(out: Path, batch_size: int, machine: Machine, **options: Any) -> list[Tensor]:
    """Gradients of one update over all sentences."""
    learner = Mean(options.pop("counted", int))
    order = BatchOrder.of_size(len(SENTENCES), batch_size)
    batches = Loader(SENTENCES, pairs, order)
    run = Run(out, Budget(steps=1), machine=machine)
    train(learner, batches, None, run, callbacks=[Gradients(out / "gradients.pt")], **options)
    gradients: list[Tensor] = torch.load(out / "gradients.pt", weights_only=True)
    return gradients


@pytest.mark.parametrize("counted", [int, torch.tensor])
@pytest.mark.parametrize(
    ("batch_size", "accumulated", "devices"), [(20, 1, 1), (3, 7, 1), (10, 1, 2), (3, 4, 2)]
)
def test_an_update_follows_the_mean_over_all_its_tokens(
    batch_size: int, accumulated: int, devices: int, counted: type, tmp_path: Path
) -> None:
    learner = Mean()
    words, following = pairs(SENTENCES)
    loss = learner.compute_loss((words, following)).total / len(words)
    expected = torch.autograd.grad(loss, list(learner.parameters()))
    machine = Machine("cpu", devices, strategy="auto" if devices == 1 else "ddp_fork")
    options = {"accumulate_grad_batches": accumulated, "counted": counted}
    gradients = update_gradients(tmp_path, batch_size, machine, **options)
    for one, other in zip(gradients, expected, strict=True):
        assert (one - other).norm() <= 1e-12 * other.norm()


def test_an_update_without_tokens_changes_nothing(tmp_path: Path) -> None:
    def nothing(sentences: list[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)

    learner = Mean()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    batches = Loader(SENTENCES, nothing, BatchOrder.of_size(4, 1))
    train(learner, batches, None, Run(tmp_path, Budget(epochs=1), machine=ON_CPU))
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_two_processes_go_on_bit_for_bit(tmp_path: Path) -> None:
    class Killed(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 5:
                raise InterruptedError

    def course(out: Path, resume: bool, *callbacks: Callback) -> dict[str, Tensor]:
        torch.manual_seed(1)
        learner = NextWord()
        machine = Machine("cpu", devices=2, strategy="ddp_fork")
        run = Run(out, Budget(steps=7), resume=resume, saving=EVERY_THIRD, machine=machine)
        train(learner, loader(), loader(max_tokens=40), run, callbacks=callbacks)
        return learner.state_dict()

    expected = course(tmp_path / "whole", False)
    with pytest.raises(Exception, match="InterruptedError"):
        course(tmp_path / "killed", False, Killed())
    resumed = course(tmp_path / "killed", True)
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
    with pytest.raises(ValueError, match="saved by 2 processes and cannot go on with 1"):
        train_tiny(tmp_path / "killed", resume=True)


def test_training_measures_and_prints_little(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    learner = NextWord()
    run = Run(tmp_path / "out", Budget(epochs=4), seed=2, machine=ON_CPU)
    figures = train(learner, loader(), loader(max_tokens=40), run)
    assert figures.keys() >= {"train_loss", "validation_loss", "learning_rate", "steps", "seconds"}
    assert figures["steps"] == 44
    rows = read_history(tmp_path / "out" / "history.csv")
    assert [row.step for row in rows if row.name == "validation_loss"] == [11, 22, 33, 44]
    assert figures["validation_loss"] == rows[-1].value
    captured = capfd.readouterr()
    first, last = captured.err.splitlines()
    assert captured.out == ""
    assert first.startswith("training with seed 2: 128 parameters, 11 batches an epoch, cpu (")
    assert last.startswith("epoch 4.0/4  step 44/44  train_loss ")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"checkpoints", "history.csv"}


def test_train_loss_is_the_mean_over_tokens(tmp_path: Path) -> None:
    learner = Mean()
    batches = Loader(SENTENCES, pairs, BatchOrder.of_size(len(SENTENCES), 3))
    run = Run(tmp_path, Budget(epochs=1), machine=ON_CPU)
    figures = train(learner, batches, batches, run)
    total, num_tokens = learner.compute_loss(pairs(SENTENCES))
    assert figures["train_loss"] == pytest.approx(total.item() / int(num_tokens), rel=1e-12)
    assert figures["validation_loss"] == pytest.approx(figures["train_loss"], rel=1e-6)


def test_minutes_end_the_training_after_a_last_validation(tmp_path: Path) -> None:
    run = Run(tmp_path, Budget(minutes=1e-9), machine=ON_CPU)
    figures = train(NextWord(), loader(), loader(max_tokens=40), run, accumulate_grad_batches=2)
    assert figures["steps"] == 1
    assert "validation_loss" in figures
    for steps, minutes in ((1, 1e-9), (2, figures["seconds"] / 60 + 1e-3)):
        more = Run(tmp_path, Budget(minutes=minutes, steps=2), resume=True, machine=ON_CPU)
        figures = train(NextWord(), loader(), None, more, accumulate_grad_batches=2)
        assert figures["steps"] == steps


def test_minutes_end_a_training_whose_updates_take_longer_than_an_epoch(tmp_path: Path) -> None:
    run = Run(tmp_path, Budget(minutes=1e-9, epochs=3), machine=ON_CPU)
    sentences = loader(), loader(max_tokens=40)
    figures = train(NextWord(), *sentences, run, accumulate_grad_batches=1_000)
    assert figures["steps"] == 1


def test_a_run_that_stopped_early_is_only_loaded(tmp_path: Path) -> None:
    def course(resume: bool) -> tuple[NextWord, Mapping[str, float]]:
        run = Run(tmp_path, Budget(epochs=9), seed=1, resume=resume, machine=ON_CPU)
        learner = NextWord()
        early = EarlyStopping("validation_loss", patience=1, min_delta=10.0)
        figures = train(learner, loader(), loader(max_tokens=40), run, callbacks=[early])
        return learner, figures

    stopped, figures = course(False)
    loaded, again = course(True)
    assert figures == again
    assert figures["steps"] == 22
    for one, other in zip(stopped.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("budget", "taken"),
    [(Budget(steps=40), [35, 38, 40]), (Budget(epochs=4), [39, 42, 44]), (Budget(steps=2), [1, 2])],
)
def test_weights_are_averaged_over_the_last_part_of_training(
    budget: Budget, taken: list[int], tmp_path: Path
) -> None:
    seen: dict[int, dict[str, Tensor]] = {}

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *_: Any) -> None:
            seen[trainer.global_step] = copy_weights(pl_module)

    average, learner = AverageWeights(3), NextWord()
    average_over = Run(tmp_path, budget, machine=ON_CPU)
    train(learner, loader(), loader(), average_over, callbacks=[average, Watch()])
    average.restore(learner)
    for name, value in copy_weights(learner).items():
        points = torch.stack([seen[step][name] for step in taken])
        assert torch.allclose(value, points.mean(0), atol=1e-7)
    assert learner.output.weight is learner.embedding.weight


def test_averages_take_two_points() -> None:
    with pytest.raises(ValueError, match="takes at least 2 points, not 1"):
        AverageWeights(1)


def test_whole_numbers_are_not_averaged() -> None:
    points = [{"x": torch.tensor([1.0, 3.0]), "n": torch.tensor(each)} for each in (2, 5)]
    points[1]["x"] = torch.tensor([2.0, 3.0])
    mean = mean_weights(points)
    assert torch.equal(mean["x"], torch.tensor([1.5, 3.0]))
    assert torch.equal(mean["n"], torch.tensor(5))


def test_the_best_are_kept_in_their_order(tmp_path: Path) -> None:
    written: list[list[int]] = []
    best = BestWeights(
        lambda values: (round(-values["validation_loss"], 1),),
        keep=2,
        write=lambda module, kept: written.append([each.epoch for each in kept]),
    )
    run = Run(tmp_path, Budget(epochs=5), machine=ON_CPU)
    values = iter([2.0, 1.0, 1.0, 3.0, 0.5])

    class Scripted(NextWord):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("validation_loss", next(values), batch_size=1)

    train(Scripted(), loader(), loader(max_tokens=400), run, callbacks=[best])
    assert written == [[], [1], [2, 1], [2, 3], [5, 2]]


def test_a_terminal_gets_one_bar(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "somebody_watches", lambda: True)
    run = Run(tmp_path, Budget(epochs=2), machine=ON_CPU)
    train(NextWord(), loader(), loader(max_tokens=40), run)
    bars = [line for line in capfd.readouterr().err.split("\r") if "22/22" in line]
    assert "100%" in bars[-1]


def test_clipping_works_with_fused_optimizers_in_bfloat16(tmp_path: Path) -> None:
    class Clipped(NextWord):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return fused_optimizer(torch.optim.SGD, self.parameters(), lr=1.0)

    learner = Clipped()
    before = [each.detach().clone() for each in learner.parameters()]
    machine = Machine(accelerator="cpu", precision="bf16-mixed")
    run = Run(tmp_path, Budget(steps=1), machine=machine)
    train(learner, loader(), None, run, gradient_clip_val=0.01)
    moved = [after.detach() - old for after, old in zip(learner.parameters(), before, strict=True)]
    length = torch.cat([each.flatten() for each in moved]).norm()
    assert length.item() == pytest.approx(0.01, rel=1e-3)


def test_optimizers_are_fused_where_they_can_be() -> None:
    parameters = [nn.Parameter(torch.ones(3))]
    assert fused_optimizer(torch.optim.AdamW, parameters, lr=1.0).defaults["fused"]
    elsewhere = [nn.Parameter(torch.ones(3, device="meta"))]
    assert not fused_optimizer(torch.optim.AdamW, elsewhere, lr=1.0).defaults["fused"]


def test_training_refuses_another_loader(tmp_path: Path) -> None:
    run = Run(tmp_path, Budget(steps=1))
    unchecked = inspect.unwrap(train)  # without the tests' own check of types
    with pytest.raises(TypeError, match=r"training takes a .*Loader, not list"):
        unchecked(NextWord(), [1, 2], None, run)


def test_checkpoints_refuse_what_they_cannot_read_back(tmp_path: Path) -> None:
    class Stateful(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"path": Path("here")}

    run = Run(tmp_path, Budget(steps=1), machine=ON_CPU)
    with pytest.raises(TypeError, match="can be read without running code"):
        train(NextWord(), loader(), None, run, callbacks=[Stateful()])
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "training needs a budget: give epochs, steps or minutes"),
        ({"epochs": 0}, "a budget of epochs must be positive, not 0"),
        ({"minutes": -1.0}, r"a budget of minutes must be positive, not -1\.0"),
    ],
)
def test_budgets_refuse(budget: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**budget)


def test_history_is_drawn(tmp_path: Path) -> None:
    run = Run(tmp_path, Budget(epochs=3), machine=ON_CPU)
    train(NextWord(), loader(), loader(max_tokens=40), run)
    plot_history(tmp_path / "history.csv", tmp_path / "history.svg")
    picture = (tmp_path / "history.svg").read_text()
    assert picture.startswith("<?xml")
    for name in ("train_loss", "validation_loss", "learning_rate"):
        assert f">{name}</text>" in picture
