"""The memory that a call takes, at its peak and above what the process held before."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

from graphformer.machine import give_back_free_memory

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
# What is written to `clear_refs` to make the peak start anew (proc(5)).
_PEAK = "5"


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes at the peak of a call above those before it; None where the system does not say.

    On the CPU this is the resident memory of the process, so that whatever any library takes
    counts: Linux is asked to start its peak (VmHWM) anew, after memory that is free but not given
    back, which a call could take unseen, was given back. It counts pages that are written, and may
    be some 0.3 MB off. On a GPU it is what torch's allocator hands out.

    Args:
        call: called once; call it before too, if what it makes on first use is not to count.
        device: where it computes.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()
    give_back_free_memory()
    try:
        _CLEAR.write_text(_PEAK)
    except OSError:
        return None
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 0)


def machine_bytes(device: torch.device) -> float:
    """Memory of the machine, or of the GPU; without end where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    found = re.search(r"MemTotal:\s+(\d+) kB", _read(Path("/proc/meminfo")))
    return 1024.0 * int(found[1]) if found else float("inf")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _read(_STATUS))
    assert found, f"{_STATUS} has no {name}"
    return 1024 * int(found[1])


def _read(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""
