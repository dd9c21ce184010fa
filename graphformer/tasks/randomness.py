"""The random state of Python, numpy and torch: set, lent out, kept and given back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor


class RandomState(TypedDict):
    """What the next random numbers depend on, as tensors and numbers that load without pickle."""

    python: Tensor
    python_gauss: float | None
    numpy: Tensor
    numpy_position: int
    numpy_gauss: float | None
    torch: Tensor
    device: Tensor | None


def seed_everything(*entropy: int, device: torch.device | None = None) -> None:
    """Python's, numpy's and torch's random numbers depend on `entropy` alone.

    Args:
        entropy: any non-negative integers, such as (seed, process).
        device: also seeds the generator of this device, if it has one of its own.
    """
    words = np.random.SeedSequence(entropy).generate_state(4, np.uint32)
    random.seed(words.tobytes())
    np.random.seed(words)  # noqa: NPY002 - the global state is what augmentations draw from
    seed = int(words[0]) << 32 | int(words[1])
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Random numbers on the CPU depend on `entropy` in the block, and go on as before after it."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    seed_everything(*entropy)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.default_generator.set_state(before[2])


def capture_random_state(device: torch.device) -> RandomState:
    """The random state of Python, numpy, torch's CPU generator and that of `device`."""
    _, words, gauss = random.getstate()
    _, key, position, has_gauss, numpy_gauss = np.random.get_state()  # noqa: NPY002
    on_device = device.type != "cpu"
    return RandomState(
        python=torch.tensor(words),
        python_gauss=gauss,
        numpy=torch.from_numpy(np.asarray(key, dtype=np.int64)),
        numpy_position=int(position),
        numpy_gauss=float(numpy_gauss) if has_gauss else None,
        torch=torch.default_generator.get_state(),
        device=torch.get_device_module(device).get_rng_state() if on_device else None,
    )


def restore_random_state(state: RandomState, device: torch.device) -> None:
    """The next random numbers are those that followed `capture_random_state`."""
    random.setstate((3, tuple(state["python"].tolist()), state["python_gauss"]))
    gauss = state["numpy_gauss"]
    key = state["numpy"].numpy().astype(np.uint32)
    position = state["numpy_position"]
    legacy = ("MT19937", key, position, int(gauss is not None), gauss or 0.0)
    np.random.set_state(legacy)  # noqa: NPY002
    torch.default_generator.set_state(state["torch"])
    if state["device"] is not None and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])
