"""SIGINT and SIGTERM as a request that training answers between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """Training stopped at a signal, after its state was saved; exits with 128 + the signal."""


class Interruption:
    """Remembers the first SIGINT or SIGTERM; a second one exits at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def watch(self) -> None:
        """Takes the signals over, where Python allows it: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {each: signal.signal(each, self._receive) for each in SIGNALS}

    def release(self) -> None:
        """Gives the signals back to whoever had them."""
        for each, handler in self._previous.items():
            signal.signal(each, handler)  # type: ignore[arg-type]
        self._previous = {}

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise SystemExit(128 + number)
        self.received = signal.Signals(number)
        notice = f"\n{self.received.name}: saves after this step; a second one stops at once\n"
        os.write(2, notice.encode())  # print may be what was interrupted
