"""Checkpoint files: written whole, read without pickle, named where they are no good."""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from graphformer.files import UNFINISHED, replacing
from graphformer.tasks.clock import Clock
from graphformer.tasks.counters import BATCH, Counters

FORMAT = 2
KEY = "graphformer"
# What a checkpoint holds under that name, besides format and version.
PARTS = ("random", "constants", "metrics", "stopped")


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, each of which is there whole or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self._proven = False

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Writes beside `path`, then takes its place; the first one is read back to prove it.

        Raises:
            TypeError: the checkpoint holds what cannot be read back without pickle.
        """
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)
        if self._proven:
            return
        try:
            self.load_checkpoint(path)
        except pickle.UnpicklingError as error:
            Path(path).unlink()
            raise TypeError(
                "a checkpoint holds tensors, numbers, strings, lists and dictionaries, so that it "
                "can be read without running code; the state of a callback, a scheduler or the "
                f"module's hyperparameters hold something else: {first_line(error)}"
            ) from error
        self._proven = True

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint, on the CPU; never unpickled, whatever `weights_only` says."""
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return loaded


def checkpoint_path(folder: Path, step: int) -> Path:
    """The file of the checkpoint taken after `step` optimizer steps."""
    return folder / f"step-{step:09d}.ckpt"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first, intact or not."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def newest_intact(folder: Path) -> Path | None:
    """The newest checkpoint that can be read; warns of newer ones that cannot, by name.

    Raises:
        ValueError: there are checkpoints, but none is intact; or the newest intact one is not of
            this format.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        if (fault := find_fault(path)) is None:
            check_format(path)
            return path
        warnings.warn(f"{path} is damaged and left out: {fault}", stacklevel=2)
    if paths:
        raise ValueError(
            f"no checkpoint in {folder} is intact: train anew with another folder, or remove it"
        )
    return None


def find_fault(path: Path) -> str | None:
    """What is wrong with the file `path`, whose checksums are all compared, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        return f"the file is truncated or no checkpoint ({first_line(error)})"
    return None if damaged is None else f"its part {damaged} has another checksum"


def check_format(path: Path) -> None:
    """Does nothing where the intact file `path` is a checkpoint of this format.

    Raises:
        ValueError: it is one of another version, or not one of ours.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} is no checkpoint of graphformer: {first_line(error)}") from error
    ours = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or not {"format", "version"} <= ours.keys():
        raise ValueError(
            f"{path} is no checkpoint of graphformer: to start from its weights, load them into "
            "the model and train into another folder"
        )
    if ours["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {ours['format']}, written by graphformer {ours['version']}, and "
            f"this version reads format {FORMAT}: install graphformer {ours['version']} to resume "
            "it, or train into another folder"
        )
    lacking = [name for name in PARTS if name not in ours]
    if lacking:
        raise ValueError(
            f"{path} lacks {', '.join(lacking)}, so that a run cannot go on from it: remove it to "
            "go on from one before it, or train into another folder"
        )


def progress_of(path: Path) -> dict[str, float]:
    """Steps, epochs and minutes of training that the intact checkpoint `path` was taken after.

    An epoch that was begun counts whole; minutes are rounded up to hundredths.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    counters: Counters = checkpoint["loops"]["fit_loop"]
    begun = counters[BATCH]["current"]["completed"] > 0
    seconds = checkpoint["callbacks"][Clock.__name__]["seconds"]
    return {
        "steps": checkpoint["global_step"],
        "epochs": counters["epoch_progress"]["current"]["completed"] + begun,
        "minutes": math.ceil(seconds / 0.6) / 100,
    }


def prune(folder: Path, newest: Path, keep: int) -> None:
    """Leaves `newest` and the `keep` - 1 before it; later ones, of an abandoned course, too."""
    earlier = [path for path in list_checkpoints(folder) if path.name < newest.name]
    for path in earlier[keep - 1 :]:
        path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what a run that was killed while it wrote has left."""
    for path in folder.glob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def first_line(error: Exception) -> str:
    """The first line of the error's message."""
    return str(error).strip().split("\n")[0]
