"""What is asked of the machine: memory given back, and few products kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from graphformer import machine

CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def held() -> int:
    """Bytes of this process that are in memory."""
    status = Path("/proc/self/status").read_text("utf-8")
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give it back by themselves")
def test_holes_in_the_heap_are_given_back() -> None:
    # Each too small for a mapping of its own; what is kept in between holds the heap open.
    parts = [torch.ones(20_000) for _ in range(2_000)]
    kept, before = parts[::50], held()
    del parts
    machine.give_back_free_memory()
    assert held() < before - 100e6
    assert all(part.sum() == 20_000 for part in kept)


def test_what_a_user_asks_of_onednn_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CAPACITY, raising=False)
    machine.keep_few_products()
    assert os.environ[CAPACITY] == "128"
    monkeypatch.setenv(CAPACITY, "7")
    machine.keep_few_products()
    assert os.environ[CAPACITY] == "7"
