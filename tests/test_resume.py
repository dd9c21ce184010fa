from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import NUM_STEPS, NextWord, signal_at, train_tiny
from torch import Tensor

from graphformer.backends import calibration, executors
from graphformer.tasks.checkpoints import list_checkpoints, newest_intact, progress_of
from graphformer.tasks.history import read_history
from graphformer.tasks.interruption import Interrupted
from graphformer.tasks.resume import Saving
from graphformer.tasks.run import progress_in

EVERY_STEP = Saving(steps=1)
NUM_BATCHES = 37  # of 20 updates: six in an epoch of eleven batches, two in the fourth


class KilledError(Exception):
    """What no code of the training catches."""


def killed_at(*when: tuple[str, int]) -> Callable[[str, int], None]:
    def at(place: str, number: int) -> None:
        if (place, number) in when:
            raise KilledError(place, number)

    return at


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    train_tiny(out)
    return out


def final_state(out: Path) -> dict[str, Any]:
    """All that the last checkpoint holds, but for the time that was taken."""
    newest = list_checkpoints(out / "checkpoints")[0]
    state = torch.load(newest, weights_only=True)
    state["callbacks"]["Clock"].pop("seconds")
    assert state["global_step"] == NUM_STEPS
    return state


def differences(one: Any, other: Any, name: str = "state") -> list[str]:
    """Names of what is not bit for bit the same."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return [] if torch.equal(one, other) and one.dtype == other.dtype else [name]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [each for key in one for each in differences(one[key], other[key], f"{name}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [each for at, (a, b) in pairs for each in differences(a, b, f"{name}.{at}")]
    return [] if one == other and type(one) is type(other) else [name]


def assert_same_course(out: Path, reference: Path) -> None:
    assert differences(final_state(out), final_state(reference)) == []
    tables = [read_history(each / "history.csv") for each in (out, reference)]
    rows, expected = ([row._replace(seconds=0.0) for row in table] for table in tables)
    assert rows == expected


def test_what_is_compared_has_weights_that_were_kept(uninterrupted: Path) -> None:
    callbacks = final_state(uninterrupted)["callbacks"]
    assert len(callbacks["AverageWeights"]["points"]) == 2
    assert len(callbacks["BestWeights"]["kept"]) == 2
    (patience,) = (state for name, state in callbacks.items() if "EarlyStopping" in name)
    assert patience["wait_count"] > 0


@pytest.mark.parametrize("batch", range(NUM_BATCHES))
def test_killed_at_any_batch_goes_on_bit_for_bit(
    batch: int, tmp_path: Path, uninterrupted: Path
) -> None:
    with pytest.raises(KilledError):
        train_tiny(tmp_path, killed_at(("batch", batch)), saving=EVERY_STEP)
    train_tiny(tmp_path, resume=True)
    assert_same_course(tmp_path, uninterrupted)


@pytest.mark.parametrize("place", [("validation", 2), ("validation", 10), ("epoch end", 1)])
def test_killed_between_batches_goes_on_bit_for_bit(
    place: tuple[str, int], tmp_path: Path, uninterrupted: Path
) -> None:
    with pytest.raises(KilledError):
        train_tiny(tmp_path, killed_at(place))
    train_tiny(tmp_path, resume=True)
    assert_same_course(tmp_path, uninterrupted)


def test_killed_again_and_again_goes_on_bit_for_bit(tmp_path: Path, uninterrupted: Path) -> None:
    with pytest.raises(KilledError):
        train_tiny(tmp_path, killed_at(("batch", 5)), saving=EVERY_STEP)
    for batch in (9, 11, 12, 20, 21, 22, 36):
        with pytest.raises(KilledError):
            train_tiny(tmp_path, killed_at(("batch", batch)), resume=True, saving=EVERY_STEP)
    train_tiny(tmp_path, resume=True)
    assert_same_course(tmp_path, uninterrupted)


@pytest.mark.parametrize("steps", [7, 12])
def test_training_longer_is_training_on(steps: int, tmp_path: Path, uninterrupted: Path) -> None:
    train_tiny(tmp_path, steps=steps)
    train_tiny(tmp_path, resume=True)
    state, expected = final_state(tmp_path), final_state(uninterrupted)
    for part in ("state_dict", "optimizer_states", "loops"):
        assert differences(state[part], expected[part]) == []


@pytest.mark.parametrize(("steps", "epochs"), [(5, 1), (6, 1), (7, 2), (12, 2), (20, 4)])
def test_a_checkpoint_says_how_far_it_is(steps: int, epochs: int, tmp_path: Path) -> None:
    train_tiny(tmp_path, steps=steps)
    progress = progress_of(list_checkpoints(tmp_path / "checkpoints")[0])
    assert (progress["steps"], progress["epochs"]) == (steps, epochs)
    assert 0 < progress["minutes"] < 10


def test_a_damaged_checkpoint_does_not_say_how_far_a_run_is(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    assert progress_in(tmp_path) == {}
    train_tiny(tmp_path, steps=7, saving=EVERY_STEP)
    newest, before = list_checkpoints(tmp_path / "checkpoints")
    assert progress_in(tmp_path)["steps"] == 7
    newest.write_bytes(newest.read_bytes()[:-100])
    assert progress_in(tmp_path) == progress_of(before)
    assert not recwarn.list


def test_resuming_plans_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_chosen", {"a length": "sdpa"})
    monkeypatch.setattr(calibration, "_given", {"a way": 2.0})
    train_tiny(tmp_path, steps=2)
    monkeypatch.setattr(executors, "_chosen", {"a length": "matmul"})
    monkeypatch.setattr(calibration, "_given", {"a way": 3.0})
    train_tiny(tmp_path, resume=True, steps=3)
    assert executors.chosen() == {"a length": "sdpa"}
    assert calibration.factors() == {"a way": 2.0}


def test_a_finished_run_is_only_loaded(tmp_path: Path, uninterrupted: Path) -> None:
    trained = train_tiny(tmp_path)
    loaded = train_tiny(tmp_path, killed_at(*(("batch", each) for each in range(100))), resume=True)
    assert differences(loaded.state_dict(), trained.state_dict()) == []
    assert_same_course(tmp_path, uninterrupted)


def test_resuming_keeps_weights_tied(tmp_path: Path, uninterrupted: Path) -> None:
    with pytest.raises(KilledError):
        train_tiny(tmp_path, killed_at(("batch", 7)))
    resumed = train_tiny(tmp_path, resume=True)
    assert resumed.output.weight is resumed.embedding.weight
    saved = final_state(tmp_path)["state_dict"]
    again = NextWord()
    again.load_state_dict(saved)
    assert again.output.weight is again.embedding.weight
    assert differences(dict(again.state_dict()), dict(saved)) == []


@pytest.mark.parametrize(
    ("name", "status", "batch"), [("SIGINT", 130, 12), ("SIGTERM", 143, 21), ("SIGKILL", -9, 27)]
)
def test_signalled_process_goes_on_bit_for_bit(
    name: str, status: int, batch: int, tmp_path: Path, uninterrupted: Path
) -> None:
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, tests / "tiny_training.py", tmp_path, str(batch), name],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        start_new_session=True,
    )
    assert done.returncode == status, done.stderr
    if name != "SIGKILL":
        newest = list_checkpoints(tmp_path / "checkpoints")[0]
        assert f"{name}: saves after this step" in done.stderr
        assert f"saved in {newest}" in done.stderr
        assert "resume=True" in done.stderr
    train_tiny(tmp_path, resume=True)
    assert_same_course(tmp_path, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("batch", "step"), [(4, 3), (36, 20)])
def test_signal_saves_at_the_next_update(
    number: signal.Signals, batch: int, step: int, tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    send = partial(os.kill, os.getpid(), number)
    with pytest.raises(Interrupted) as stopped:
        train_tiny(tmp_path, signal_at(batch, send), saving=Saving(steps=100))
    assert stopped.value.code == 128 + number
    (saved,) = list_checkpoints(tmp_path / "checkpoints")
    assert saved.name == f"step-{step:09d}.ckpt"
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("steps", [NUM_STEPS, NUM_STEPS - 1], ids=["epoch begun", "epoch end"])
def test_a_signal_in_the_last_update_loses_nothing_of_the_end(steps: int, tmp_path: Path) -> None:
    signalled, whole = tmp_path / "signalled", tmp_path / "whole"
    send = partial(os.kill, os.getpid(), signal.SIGTERM)
    last = {NUM_STEPS: 36, NUM_STEPS - 1: 34}[steps]
    with pytest.raises(Interrupted):
        train_tiny(signalled, signal_at(last, send), steps=steps)
    for out in (signalled, whole):
        train_tiny(out, resume=True, steps=steps)
    tables = [read_history(out / "history.csv") for out in (signalled, whole)]
    rows, expected = ([row._replace(seconds=0.0) for row in table] for table in tables)
    assert rows == expected
    assert rows[-1].step == steps


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    def at(place: str, number: int) -> None:
        if (place, number) == ("batch", 4):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit) as stopped:
        train_tiny(tmp_path, at)
    assert stopped.value.code == 130
    assert list_checkpoints(tmp_path / "checkpoints") == []


def test_truncated_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, uninterrupted: Path
) -> None:
    with pytest.raises(KilledError):
        train_tiny(tmp_path, killed_at(("batch", 20)))
    newest, before = list_checkpoints(tmp_path / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-1000])
    half_written = newest.with_name("step-000000011.ckpt.unfinished")
    half_written.write_bytes(b"PK")
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged and left out: .*truncated"):
        assert newest_intact(tmp_path / "checkpoints") == before
    with pytest.warns(UserWarning, match=newest.name):
        train_tiny(tmp_path, resume=True)
    assert_same_course(tmp_path, uninterrupted)
    assert not half_written.exists()


def test_flipped_bits_are_found(tmp_path: Path) -> None:
    train_tiny(tmp_path, steps=2)
    (path,) = list_checkpoints(tmp_path / "checkpoints")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        # The last byte of a tensor: between the parts are some that nobody reads.
        name = next(each for each in archive.namelist() if "/data/" in each)
        tensor = archive.read(name)
    content[content.index(tensor) + len(tensor) - 1] ^= 255
    path.write_bytes(content)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match=r"no checkpoint in .* is intact"),
    ):
        train_tiny(tmp_path, resume=True)


def test_checkpoint_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    train_tiny(tmp_path, steps=2)
    (path,) = list_checkpoints(tmp_path / "checkpoints")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["graphformer"] |= {"format": 99, "version": "7.1"}
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=rf"{path.name} has format 99, written by graphformer 7.1"):
        train_tiny(tmp_path, resume=True)
    del checkpoint["graphformer"]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=rf"{path.name} is no checkpoint of graphformer"):
        train_tiny(tmp_path, resume=True)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train_tiny(tmp_path, steps=2)
    with pytest.raises(ValueError, match=r"has the checkpoints of a run: resume it"):
        train_tiny(tmp_path)


def test_a_finished_run_is_not_overwritten_when_its_checkpoints_are_gone(tmp_path: Path) -> None:
    train_tiny(tmp_path, steps=2)
    for path in list_checkpoints(tmp_path / "checkpoints"):
        path.unlink()
    (tmp_path / "metrics.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match=r"has a finished run: choose another folder"):
        train_tiny(tmp_path)
    with pytest.raises(ValueError, match=r"has a finished run without its checkpoints"):
        train_tiny(tmp_path, resume=True)


def test_a_saved_model_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match="has a saved model: choose another folder"):
        train_tiny(tmp_path)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train_tiny(tmp_path, killed_at(("batch", 8)))
    loss = NextWord.compute_loss

    def infinite(self: NextWord, batch: Any) -> Any:
        summed = loss(self, batch)
        return summed._replace(total=summed.total * float("inf"))

    kept = list_checkpoints(tmp_path / "checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NextWord, "compute_loss", infinite)
        with pytest.raises(
            ValueError, match=rf"training diverged: .*{kept[0].name}, of before, is"
        ):
            train_tiny(tmp_path, resume=True)
    assert list_checkpoints(tmp_path / "checkpoints") == kept
    assert newest_intact(tmp_path / "checkpoints") == kept[0]


def test_as_many_checkpoints_are_kept_as_asked(tmp_path: Path) -> None:
    train_tiny(tmp_path, saving=Saving(steps=4, keep=3))
    kept = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert kept == ["step-000000020.ckpt", "step-000000016.ckpt", "step-000000012.ckpt"]


def test_checkpoints_are_taken_where_epochs_end(tmp_path: Path) -> None:
    train_tiny(tmp_path, saving=Saving(seconds=None, epochs=2, keep=9))
    kept = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert kept == ["step-000000020.ckpt", "step-000000012.ckpt"]


@pytest.mark.parametrize(
    ("name", "value"), [("seconds", -1.0), ("steps", 0), ("epochs", 0), ("keep", 0)]
)
def test_saving_refuses_what_is_not_positive(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"saving {name} must be positive, not {value}"):
        Saving(**{name: value})
