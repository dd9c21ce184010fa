"""What is left out of a training text, with the reason, the number and the first line of it."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable
from hashlib import blake2b

import numpy as np
from jaxtyping import Bool, Int64, UInt64

# Control characters but the tab, those of Latin-1 that come of a wrong encoding included, and
# what stands for one that could not be read.
NO_TEXT = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ufffd-\uffff]")

COPY = "whose target is a copy of the source"
NO_CHARACTERS = "with characters that are no text"
DUPLICATE = "that stood there before"


class Dropped:
    """How many pairs were left out for each reason, and on which line was the first."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, int] = {}

    def add(self, reason: str, line: int, count: int = 1) -> None:
        """Pairs are left out, of which this is the first of these."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.first[reason] = min(line, self.first.get(reason, line))

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        if not self.counts:
            return "dropped none"
        parts = [
            f"{count:,} {reason} ({'first: ' if count > 1 else ''}line {self.first[reason]:,})"
            for reason, count in self.counts.items()
        ]
        return f"dropped {', '.join(parts)}"


def key(text: str) -> int:
    """A number of 64 bits for a text, the same everywhere and hardly that of any other."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def keys(texts: Iterable[str]) -> UInt64[np.ndarray, " text"]:
    """The `key` of each text."""
    return np.array(array("Q", map(key, texts)), dtype=np.uint64)


def find_flaws(
    pairs: Iterable[tuple[str, str]], keep_copies: bool = False, keep_duplicates: bool = False
) -> dict[str, Bool[np.ndarray, " pair"]]:
    """Which pairs are no translations to learn from, by reason; of each the first reason counts.

    Args:
        pairs: (source, target).
        keep_copies: whether those stay whose target is the source.
        keep_duplicates: whether those stay that were there before, source and target.
    """
    flaws = bytearray()
    seen = array("Q")
    for source, target in pairs:
        if not keep_copies and source == target:
            flaws.append(1)
        elif NO_TEXT.search(source) or NO_TEXT.search(target):
            flaws.append(2)
        else:
            flaws.append(0)
        if not keep_duplicates:
            seen.append(key(f"{source}\n{target}"))
    found = np.array(flaws, dtype=np.uint8)
    repeated = np.full(len(found), not keep_duplicates)
    repeated[np.unique(np.array(seen, dtype=np.uint64), return_index=True)[1]] = False
    return {
        COPY: found == 1,
        NO_CHARACTERS: found == 2,
        DUPLICATE: repeated & (found == 0),
    }


def find_unfit(
    lengths: Int64[np.ndarray, "pair side"], max_length: int | None, max_ratio: float | None
) -> dict[str, Bool[np.ndarray, " pair"]]:
    """Which pairs are too long or too unequal, by reason; of each the first reason counts.

    Args:
        lengths: tokens of source and target.
        max_length: tokens of either, at most.
        max_ratio: how many times longer one may be than the other, an end counted to both.
    """
    longer, shorter = lengths.max(1), lengths.min(1)
    nowhere = np.zeros(len(lengths), dtype=bool)
    too_long = nowhere if max_length is None else longer > max_length
    unequal = nowhere if max_ratio is None else longer + 1 > max_ratio * (shorter + 1)
    return {
        f"of more than {max_length} tokens": too_long,
        f"with one side more than {max_ratio:g} times longer" if max_ratio else "": unequal
        & ~too_long,
    }


def drop(
    flawed: dict[str, Bool[np.ndarray, " pair"]], line_number: Callable[[int], int]
) -> tuple[Int64[np.ndarray, " kept"], Dropped]:
    """The indices of the pairs without a flaw, and what is left out."""
    dropped = Dropped()
    good = np.ones(len(next(iter(flawed.values()))), dtype=bool)
    for reason, found in flawed.items():
        if found.any():
            dropped.add(reason, line_number(int(found.argmax())), int(found.sum()))
        good &= ~found
    return np.flatnonzero(good), dropped
