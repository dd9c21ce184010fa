"""The device that a command computes on, by the word that asks for it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal, get_args

import torch

Accelerator = Literal["auto", "cpu", "gpu"]


def check_accelerator(name: str) -> None:
    """Does nothing where `name` is one of the known words.

    Raises:
        ValueError: it is another (listing the known ones).
    """
    if name not in get_args(Accelerator):
        known = ", ".join(get_args(Accelerator))
        raise ValueError(f"accelerator {name!r} is unknown: known are {known}")


def find_device(accelerator: str) -> torch.device:
    """The device of an accelerator's name: with auto a GPU if there is one, else the CPU.

    Raises:
        ValueError: the name is unknown, or there is no such device.
    """
    check_accelerator(accelerator)
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise ValueError("accelerator is gpu, and there is none that torch can use: write cpu")
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")


def device_name(device: torch.device) -> str:
    """The device as its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor as its maker calls it, and the instruction set that torch uses of it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
