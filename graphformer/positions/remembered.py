"""Arrays that were computed before, found again by the content they were computed from."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import numpy as np


class Remembered:
    """A memory of arrays, which forgets first what was not asked for longest.

    Args:
        num_bytes: the most that is kept.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.held_bytes = 0
        self.arrays: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self.lock = Lock()

    def get(self, content: tuple[bytes, ...], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array that `compute` gave for this content, read-only."""
        digest = hashlib.blake2b(digest_size=16)
        for part in content:
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        key = digest.digest()
        with self.lock:
            if key in self.arrays:
                self.arrays.move_to_end(key)
                return self.arrays[key]
        array = compute()
        array.flags.writeable = False
        with self.lock:
            if key not in self.arrays:
                self.arrays[key] = array
                self.held_bytes += array.nbytes
            while self.held_bytes > self.num_bytes:
                self.held_bytes -= self.arrays.popitem(last=False)[1].nbytes
        return array

    def clear(self) -> None:
        """Forgets everything."""
        with self.lock:
            self.arrays.clear()
            self.held_bytes = 0
