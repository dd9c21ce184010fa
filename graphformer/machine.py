"""What machine this is, and where a user's caches lie on it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch


@cache
def cpu_name() -> str:
    """The processor as its maker calls it, and the instruction set that torch uses of it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def give_back_free_memory() -> None:
    """Gives the system what this process has freed, holes in the middle included.

    glibc keeps blocks of up to 32 MB for later; other C libraries give all back by themselves.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def keep_few_products() -> None:
    """Has oneDNN keep what it made for 128 sizes of products in bfloat16, unless told otherwise.

    Of itself it keeps 1,024. In training each batch has sizes of its own, and what is kept of them
    lies between the tensors of a step: the heap falls into pieces, grows to several times what a
    step needs, and takes longer and longer to find a place. Before the first product only.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def cache_folder() -> Path:
    """Where this user's caches of graphformer lie: `GRAPHFORMER_CACHE`, or the system's place."""
    names = ("GRAPHFORMER_CACHE", "LOCALAPPDATA", "XDG_CACHE_HOME")
    return _cache_folder(*map(os.environ.get, names))


# Each plan asks, and paths are slow to make.
@cache
def _cache_folder(named: str | None, local: str | None, caches: str | None) -> Path:
    if named:
        return Path(named)
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home, as containers have
        home = Path(tempfile.gettempdir())
    if sys.platform == "win32":
        return Path(local or home / "AppData" / "Local") / "graphformer"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "graphformer"
    return Path(caches or home / ".cache") / "graphformer"
