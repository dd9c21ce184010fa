"""How a translator is trained: what each option does, alone and on two processes, and resumed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import Gradients
from test_translate import SMALL, corpus, fit, same, weights
from torch import Tensor

from graphformer.tasks.checkpoints import list_checkpoints
from graphformer.tasks.cross_entropy import summed_cross_entropy
from graphformer.tasks.history import read_history
from graphformer.tasks.learner import SummedLoss
from graphformer.tasks.resume import Saving
from graphformer.tasks.run import Budget, Machine, Run, train
from graphformer.tasks.settings import Job
from graphformer.tasks.translation import decoding
from graphformer.tasks.translation import learner as learning
from graphformer.tasks.translation.attending import Attending
from graphformer.tasks.translation.corpus import (
    collate,
    encode_pairs,
    make_loader,
    make_vocabulary,
    read_corpus,
)
from graphformer.tasks.translation.kept import BEST, KeptWeights
from graphformer.tasks.translation.learner import TranslationLearner
from graphformer.tasks.translation.settings import (
    Corpus,
    Search,
    Training,
    complete_settings,
)
from graphformer.tasks.translation.translator import Translator

__all__ = ["corpus"]

SHORT = Training(steps=12, batch_tokens=400, learning_rate=1e-2, vocabulary=0, precision="32-true")
STILL = replace(SMALL, dropout=0.0)
GREEDY = Search(beam=1)


@pytest.fixture
def plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates are the gradients themselves, times the learning rate."""

    def configure(learner: TranslationLearner) -> torch.optim.Optimizer:
        return torch.optim.SGD(learner.parameters(), lr=learner.learning_rate)

    monkeypatch.setattr(TranslationLearner, "configure_optimizers", configure)


def trained(corpus: Corpus, out: Path, **changed: Any) -> dict[str, Any]:
    """Figures of a short training with these settings changed."""
    return fit(corpus, out, training=replace(SHORT, **changed), search=GREEDY)


def named(out: Path, name: str) -> list[float]:
    return [row.value for row in read_history(out / "history.csv") if row.name == name]


def last_checkpoint(out: Path) -> dict[str, Any]:
    newest = list_checkpoints(out / "checkpoints")[0]
    checkpoint: dict[str, Any] = torch.load(newest, weights_only=True)
    return checkpoint


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Between all weights, tied ones counted once."""
    untied = {each.data_ptr(): name for name, each in one.items()}.values()
    apart = [(one[name] - other[name]).flatten() for name in untied]
    return torch.cat(apart).norm().item()


def translator_of(text: Corpus, dropout: float = 0.0) -> Translator:
    tokenizer = make_vocabulary(read_corpus(text).train, 0)
    size = replace(SMALL, dropout=dropout).size
    return Translator(Attending().make_model(tokenizer.get_vocab_size(), size), tokenizer)


@pytest.mark.usefixtures("plain_steps")
def test_accumulated_batches_make_the_update_of_all_their_tokens(
    corpus: Corpus, tmp_path: Path
) -> None:
    one_step = replace(SHORT, steps=1, warmup=0.5, label_smoothing=0.1)
    settings = {
        "whole": replace(one_step, batch_tokens=10**5),
        "parts": replace(one_step, batch_tokens=150, accumulate=1000),
        "first": replace(one_step, batch_tokens=150),
    }
    found = {}
    for name, training in settings.items():
        fit(corpus, tmp_path / name, shape=STILL, training=training, search=GREEDY)
        found[name] = weights(tmp_path / name)
    scale = distance(found["whole"], found["first"])
    assert scale > 1e-4, "the first batch is not all of them"
    assert distance(found["whole"], found["parts"]) < 1e-3 * scale


@pytest.mark.usefixtures("plain_steps")
def test_gradients_are_clipped_by_their_norm(corpus: Corpus, tmp_path: Path) -> None:
    found = {}
    for clip in (0.0, 1e-3, 2e-3, 1e9):
        out = tmp_path / str(clip)
        trained(corpus, out, steps=1, warmup=0.5, learning_rate=1.0, clip=clip)
        found[clip] = weights(out)
    assert same(found[0.0], found[1e9]), "what is short enough is left alone"
    shorter = distance(found[0.0], found[1e-3]) - distance(found[0.0], found[2e-3])
    assert shorter == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize(
    ("changed", "rate"),
    [
        ({}, (1 - 11 / 12) / (1 - 0.1)),
        ({"schedule": "linear"}, (1 - 11 / 12) / (1 - 0.1)),
        ({"schedule": "inverse_sqrt"}, math.sqrt(0.1 / (11 / 12))),
        ({"schedule": "inverse_sqrt", "warmup_steps": 6}, math.sqrt(6 / 11)),
        ({"schedule": "cosine"}, (1 + math.cos(math.pi * (11 / 12 - 0.1) / 0.9)) / 2),
        ({"warmup_steps": 24}, 12 / 24),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    changed: dict[str, Any], rate: float, corpus: Corpus, tmp_path: Path
) -> None:
    figures = trained(corpus, tmp_path / "run", **changed)
    assert figures["learning_rate"] == pytest.approx(1e-2 * rate)


def test_the_average_is_left_and_validated(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "run"
    figures = trained(corpus, out, average=3)
    checkpoint = last_checkpoint(out)
    points = checkpoint["callbacks"]["AverageWeights"]["points"]
    assert len(points) == 2
    for name, value in weights(out).items():
        key = f"model.{name}"
        if key not in points[0]:
            continue  # tied to another
        each = torch.stack([*(point[key] for point in points), checkpoint["state_dict"][key]])
        assert torch.allclose(value, each.mean(0), atol=1e-6)
    translator = Translator.from_pretrained(out)
    learner = TranslationLearner(translator, 1.0, 0.1, []).eval()
    pairs = encode_pairs(translator.tokenizer, read_corpus(corpus).validation)
    with torch.no_grad():
        loss = learner.compute_loss(collate(pairs))
    assert figures["validation_loss"] == pytest.approx(
        loss.total.item() / int(loss.num_tokens), rel=1e-4
    )
    assert figures["validation_loss"] != pytest.approx(named(out, "validation_loss")[-1])
    described = json.loads((out / "metrics.json").read_text("utf-8"))
    assert "mean of the weights at 3 points" in described["protocol"]
    last = tmp_path / "last"
    trained(corpus, last, average=3, test_weights="last")
    state = last_checkpoint(last)["state_dict"]
    assert all(torch.equal(value, state[f"model.{name}"]) for name, value in weights(last).items())


def test_the_best_are_kept_under_their_bleu(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "run"
    figures = trained(corpus, out, steps=None, epochs=30, keep_best=2, test_weights="best")
    bleu = named(out, "validation_bleu")
    order = sorted(range(len(bleu)), key=lambda epoch: (-bleu[epoch], epoch))
    expected = [f"bleu-{bleu[each]:05.2f}-epoch-{each + 1:03d}" for each in order[:2]]
    assert sorted(path.name for path in (out / BEST).iterdir()) == sorted(expected)
    assert same(weights(out), weights(out / BEST / expected[0]))
    assert not same(weights(out), weights(out / BEST / expected[1]))
    assert figures["validation_bleu"] == bleu[order[0]]
    assert figures["best_epoch"] == order[0] + 1
    found = Translator.from_pretrained(out / BEST / expected[0]).translate(["eins"], beam=1)
    assert found == Translator.from_pretrained(out).translate(["eins"], beam=1)


def test_translators_of_an_abandoned_course_are_removed(corpus: Corpus, tmp_path: Path) -> None:
    translator = translator_of(corpus)
    learner = TranslationLearner(translator, 1.0, 0.0, [])
    _, training = complete_settings(Corpus(), SMALL, Training(keep_best=1), torch.device("cpu"))
    kept = KeptWeights(training.course, translator, tmp_path)
    assert kept.best is not None
    for name in ("bleu-12.00-epoch-003", "bleu-12.00-epoch-004.unfinished", "mine"):
        (tmp_path / BEST / name).mkdir(parents=True)
    kept.write(learner, [])
    assert [path.name for path in (tmp_path / BEST).iterdir()] == ["mine"]


def test_patience_ends_the_training(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    trained(corpus, out, steps=None, epochs=20, patience=3, learning_rate=1e-9)
    assert len(named(out, "validation_bleu")) == 4
    assert "stopped after epoch 4: no better BLEU in 3 validations" in capsys.readouterr().err
    again = replace(SHORT, steps=None, epochs=20, patience=3, learning_rate=1e-9)
    job = Job(out, resume=True, accelerator="cpu")
    fit(corpus, out, training=again, search=GREEDY, job=job)
    assert len(named(out, "validation_bleu")) == 4


def test_as_many_pairs_are_watched_as_asked(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def best_of(translator: Translator, lines: list[str], *asked: Any) -> list[str]:
        seen.append(len(lines))
        return decoding.best_of(translator, lines, *asked)

    monkeypatch.setattr(learning, "best_of", best_of)
    out = tmp_path / "run"
    trained(corpus, out, steps=None, epochs=2, watched=3)
    assert seen == [3, 3]
    described = json.loads((out / "metrics.json").read_text("utf-8"))
    assert "first 3 validation pairs" in described["protocol"]


def test_two_passes_are_drawn_and_pulled_together(corpus: Corpus) -> None:
    translator = translator_of(corpus, dropout=0.3)
    pairs = encode_pairs(translator.tokenizer, read_corpus(corpus).train[:20])
    batch = collate(pairs)

    def losses(alpha: float) -> tuple[float, float]:
        learner = TranslationLearner(translator, 1.0, 0.1, [], alpha)
        torch.manual_seed(3)
        in_training = learner.train().compute_loss(batch).total
        return in_training.item(), learner.eval().compute_loss(batch).total.item()

    torch.manual_seed(3)
    translator.model.train()
    hidden = [translator.model.hidden(batch.source, batch.target) for _ in range(2)]
    p, q = ((each @ translator.model.output_weight.T).log_softmax(-1) for each in hidden)
    apart = ((p.exp() - q.exp()) * (p - q)).sum().item()
    weight = translator.model.output_weight
    both = [summed_cross_entropy(each, weight, batch.following, 0.1).item() for each in hidden]
    mean = sum(both) / 2
    assert apart > 0.01
    assert losses(8.0)[0] == pytest.approx(mean + 8.0 * apart / 4, rel=1e-5)
    assert losses(8.0)[1] == losses(0.0)[1], "a validation is one pass, without dropout"
    assert losses(0.0)[0] != pytest.approx(mean)


def test_r_drop_is_a_setting(corpus: Corpus, tmp_path: Path) -> None:
    apart = trained(corpus, tmp_path / "apart", r_drop=0.0)
    together = trained(corpus, tmp_path / "together", r_drop=5.0)
    assert together["train_loss"] > apart["train_loss"]


class KilledError(Exception):
    pass


@pytest.fixture
def saved_often() -> Iterator[None]:
    """A checkpoint after every second update."""

    def often(self: Saving) -> None:
        for name, value in {"seconds": None, "steps": 2, "epochs": None, "keep": 2}.items():
            object.__setattr__(self, name, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saving, "__init__", often)
        yield


def killed_at(number: int) -> Callable[..., SummedLoss]:
    """The loss, but for that of the batch of this number."""
    original = TranslationLearner.compute_loss
    reached = 0

    def compute_loss(learner: TranslationLearner, batch: Any) -> SummedLoss:
        nonlocal reached
        reached += learner.training
        if reached == number:
            raise KilledError
        return original(learner, batch)

    return compute_loss


def files_of(out: Path) -> dict[str, bytes]:
    """The translators, those in the folder of the best too."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.safetensors")}


@pytest.mark.usefixtures("saved_often")
def test_training_with_all_options_goes_on_to_the_same_weights(
    corpus: Corpus, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"batch_tokens": 150, "accumulate": 2, "clip": 1.0, "r_drop": 5.0}
    options |= {"average": 3, "keep_best": 2, "patience": 9, "schedule": "cosine"}
    training = replace(SHORT, label_smoothing=0.1, **options)
    whole = tmp_path / "whole"
    expected = fit(corpus, whole, training=training, search=GREEDY)
    assert any(name.startswith(BEST) for name in files_of(whole))
    for batch in (3, 8, 9, 14, 20):
        out = tmp_path / str(batch)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TranslationLearner, "compute_loss", killed_at(batch))
            with pytest.raises(KilledError):
                fit(corpus, out, training=training, search=GREEDY)
        job = Job(out, resume=True, accelerator="cpu")
        figures = fit(corpus, out, training=training, search=GREEDY, job=job)
        assert files_of(out) == files_of(whole)
        assert {**figures, "seconds": 0} == {**expected, "seconds": 0}


def gradients_of_an_update(
    text: Corpus, out: Path, machine: Machine, batch_tokens: int, **options: Any
) -> list[Tensor]:
    """Of all sentences, in double precision."""
    torch.manual_seed(0)
    translator = translator_of(text)
    learner = TranslationLearner(translator, 0.0, 0.1, []).double()
    pairs = encode_pairs(translator.tokenizer, read_corpus(text).train)
    run = Run(out, Budget(steps=1), machine=machine)
    callbacks = [Gradients(out / "gradients.pt")]
    loader = make_loader(pairs, batch_tokens)
    train(learner, loader, None, run, callbacks=callbacks, **options)
    gradients: list[Tensor] = torch.load(out / "gradients.pt", weights_only=True)
    return gradients


def test_two_processes_have_the_gradients_of_one(corpus: Corpus, tmp_path: Path) -> None:
    alone = Machine("cpu", precision="64-true")
    two = Machine("cpu", devices=2, strategy="ddp_fork", precision="64-true")
    expected = gradients_of_an_update(corpus, tmp_path / "1", alone, 10**5)
    for number, (tokens, accumulated) in enumerate([(10**5, 1), (150, 1000)]):
        options = {"accumulate_grad_batches": accumulated}
        found = gradients_of_an_update(corpus, tmp_path / f"2{number}", two, tokens, **options)
        assert len(found) == len(expected)
        whole = torch.cat([each.flatten() for each in expected])
        error = torch.cat([each.flatten() for each in found]) - whole
        assert error.norm() <= 1e-10 * whole.norm()


def test_the_command_trains_on_two_devices_as_on_one_with_twice_the_batches(
    corpus: Corpus, tmp_path: Path
) -> None:
    training = replace(SHORT, steps=4, batch_tokens=100, label_smoothing=0.1, average=2)
    twice = replace(training, accumulate=2)
    # Ten batches: of an odd number the last would have none beside it.
    corpus = replace(corpus, keep_duplicates=True)
    expected = fit(corpus, tmp_path / "one", shape=STILL, training=twice, search=GREEDY)
    # The command takes the settings from the file that the call in this process has left.
    settings = tmp_path / "one" / "settings.yaml"
    out = tmp_path / "two"
    changed = f"--out {out} --accumulate 1 --devices 2 --strategy ddp"
    command = [sys.executable, "-m", "graphformer", "translate", "fit", "--config", str(settings)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [*command, *changed.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((out / "metrics.json").read_text("utf-8"))["figures"]
    for name in ("steps", "train_loss", "validation_loss"):
        assert figures[name] == pytest.approx(expected[name], rel=1e-4)
    assert done.stdout.count("test set of") == 1, "one process tests"
