from __future__ import annotations

import inspect
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from tiny_training import EVERY_THIRD, NUM_WORDS, SENTENCES, NextWord, loader, train_tiny
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.tasks import progress
from graphformer.tasks.batches import BatchOrder, PlannedBatch
from graphformer.tasks.history import read_history
from graphformer.tasks.learner import Learner, SummedLoss
from graphformer.tasks.loader import Loader
from graphformer.tasks.optimizers import fused_optimizer
from graphformer.tasks.plots import plot_history
from graphformer.tasks.randomness import (
    capture_random_state,
    restore_random_state,
    seed_everything,
    seeded,
)
from graphformer.tasks.record import command_line, read_figures, write_metrics
from graphformer.tasks.run import Budget, Machine, Run, repeat, resume_hint, train

CPU = torch.device("cpu")
ON_CPU = Machine(accelerator="cpu")


def planned(order: BatchOrder, epoch: int = 0) -> list[PlannedBatch]:
    order.set_epoch(epoch)
    return list(order)


ragged = st.lists(st.integers(0, 90), min_size=1, max_size=60).map(torch.tensor)


@given(lengths=ragged, epoch=st.integers(0, 5), seed=st.integers(0, 3))
def test_every_example_is_in_one_batch_within_the_budget(
    lengths: Tensor, epoch: int, seed: int
) -> None:
    order = BatchOrder(lengths, 100, seed=seed)
    batches = planned(order, epoch)
    assert sorted(index for batch in batches for index in batch.examples) == [*range(len(lengths))]
    assert all(lengths[batch.examples].sum() <= 100 for batch in batches)
    assert len(batches) == len(order) == len(planned(order, epoch + 1))


@given(lengths=ragged, epoch=st.integers(0, 3), processes=st.integers(1, 4))
def test_processes_share_the_batches_equally(lengths: Tensor, epoch: int, processes: int) -> None:
    if len(lengths) < processes:
        return
    shares = [
        planned(BatchOrder(lengths, 100, process=(rank, processes)), epoch)
        for rank in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    examples = [index for share in shares for batch in share for index in batch.examples]
    assert sorted(examples) == [*range(len(lengths))]


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    lengths = torch.arange(1, 200) % 40 + 1
    order = BatchOrder(lengths, 200, seed=1)
    third = planned(order, 3)
    np.random.seed(9)  # noqa: NPY002
    planned(order, 7)
    assert planned(BatchOrder(lengths, 200, seed=1), 3) == third
    assert planned(order, 4) != third
    assert planned(BatchOrder(lengths, 200, seed=2), 3) != third


def test_examples_of_a_batch_are_of_like_length() -> None:
    lengths = torch.randint(1, 60, (2000,))
    batches = planned(BatchOrder(lengths, 600))
    spans = [lengths[batch.examples].max() - lengths[batch.examples].min() for batch in batches]
    assert torch.stack(spans).float().mean() <= 4
    filled = torch.stack([lengths[batch.examples].sum() for batch in batches]) / 600
    assert filled.float().mean() >= 0.9
    firsts = [float(lengths[batch.examples].float().mean()) for batch in batches]
    assert firsts != sorted(firsts)


def test_batches_of_a_size_have_that_size() -> None:
    order = BatchOrder.of_size(10, 4)
    assert sorted(len(batch.examples) for batch in planned(order)) == [2, 4, 4]
    in_order = BatchOrder.of_size(10, 4, shuffle=False)
    assert [batch.examples for batch in in_order] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_an_epoch_can_be_entered_at_any_batch() -> None:
    order = BatchOrder.of_size(20, 3, seed=4, process=(1, 2))
    whole = planned(order, 2)
    order.start_at(2, 1)
    assert planned(order, 2) == whole[1:]
    assert len(order) == len(whole)
    assert len(planned(order, 3)) == len(whole)


@pytest.mark.parametrize(
    ("lengths", "process", "message"),
    [
        ([], None, "there is no example to make batches of"),
        ([3, 12, 4], None, "example 1 has 12 tokens, but a batch holds at most max_tokens=10"),
    ],
)
def test_batches_refuse(lengths: list[int], process: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchOrder(torch.tensor(lengths, dtype=torch.int64), 10, process=process)


def test_batches_refuse_more_processes_than_examples() -> None:
    with pytest.raises(ValueError, match="2 examples cannot be shared among 3 processes"):
        len(BatchOrder.of_size(2, 1, process=(0, 3)))


def loaded(batches: Loader, epoch: int) -> list[tuple[Tensor, Tensor]]:
    batches.sampler.set_epoch(epoch)
    return list(batches)


def test_workers_load_the_same_batches() -> None:
    alone, helped = loader(), loader(num_workers=2)
    for epoch in (0, 1):
        for one, other in zip(loaded(alone, epoch), loaded(helped, epoch), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    helped.close()


def test_loading_leaves_the_random_state_alone() -> None:
    first = loaded(loader(), 0)
    before = capture_random_state(CPU)
    second = loaded(loader(), 0)
    after = capture_random_state(CPU)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    for one, other in zip(before.values(), after.values(), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def draw() -> tuple[float, ...]:
    normal, numpy_normal = random.gauss(0, 1), float(np.random.normal())  # noqa: NPY002
    return random.random(), normal, float(np.random.rand()), numpy_normal, float(torch.rand(()))  # noqa: NPY002


def test_random_state_is_given_back() -> None:
    seed_everything(3, 1)
    draw()  # leaves half of a pair of normal numbers in Python and in numpy
    state = capture_random_state(CPU)
    drawn = [draw() for _ in range(3)]
    seed_everything(8)
    restore_random_state(state, CPU)
    with seeded(5, 2):
        inner = draw()
    assert [draw() for _ in range(3)] == drawn
    with seeded(5, 2):
        assert draw() == inner


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
    assert first.startswith("training: 128 parameters, 11 batches an epoch, cpu (")
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


def job(run: Run) -> Mapping[str, float]:
    figures = {"accuracy": 80.0 + run.seed}
    description = {"data": "none", "split": "none", "protocol": "the seed"}
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


def test_metrics_say_how_they_were_measured(tmp_path: Path) -> None:
    description = {"data": "dates", "split": "1,000 held-out years", "protocol": "exact match"}
    write_metrics(tmp_path, {"exact_match": 98.5}, seeds=[0], **description)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert read_figures(tmp_path) == {"exact_match": 98.5}
    assert written.items() >= {"seeds": [0], **description}.items()
    assert written["versions"].keys() >= {"graphformer", "python", "torch", "lightning"}
    assert written["command"] == command_line()
    assert written["machine"]["threads"] == torch.get_num_threads()
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


def test_history_is_drawn(tmp_path: Path) -> None:
    run = Run(tmp_path, Budget(epochs=3), machine=ON_CPU)
    train(NextWord(), loader(), loader(max_tokens=40), run)
    plot_history(tmp_path / "history.csv", tmp_path / "history.svg")
    picture = (tmp_path / "history.svg").read_text()
    assert picture.startswith("<?xml")
    for name in ("train_loss", "validation_loss", "learning_rate"):
        assert f">{name}</text>" in picture
