"""Lightning's advice left out, its errors and warnings of substance kept."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.warnings import PossibleUserWarning

LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning")


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning neither lists the devices that are not there, nor gives tips, in the block."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        # What Lightning uses of torch that torch deprecates is not the reader's concern.
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"(lightning|torch)\.")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
