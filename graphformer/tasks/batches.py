"""Which examples make which batch: a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor, distributed

from graphformer.tasks.even_batches import even_out


class PlannedBatch(NamedTuple):
    """The examples of a batch, and what seeds the random part of loading them.

    Attributes:
        examples: indices into the data set.
        entropy: (seed, epoch, number of the batch in the epoch, over all processes).
    """

    examples: list[int]
    entropy: tuple[int, int, int]


class BatchOrder:
    """The batches of one epoch: examples of like length, in an order that (seed, epoch) decide.

    Examples are sorted by length, those of about the same length (to 1 part in 16) in random
    order, cut into batches that hold at most `max_tokens`, and the batches are shuffled. Where
    the cuts fall does not depend on the epoch, so every epoch has the same number of batches.
    Where they are shuffled, the tokens of most batches are made multiples (`even_out`). Each
    process takes equally many of them.

    Args:
        lengths: tokens of each example, at least one example, or of each of its sides, of which
            the longest counts.
        max_tokens: tokens that a batch holds at most.
        seed: of the order.
        shuffle: whether epochs differ; if not, examples and batches come by length.
        process: (rank, number of processes); by default those of `torch.distributed`.

    Raises:
        ValueError: there is no example, or one is longer than a batch.
    """

    def __init__(
        self,
        lengths: Int[Tensor, " example"] | Int[Tensor, "example side"],
        max_tokens: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        process: tuple[int, int] | None = None,
    ) -> None:
        if len(lengths) == 0:
            raise ValueError("there is no example to make batches of")
        self.sizes = lengths.view(len(lengths), -1).numpy().astype(np.int64)
        lengths = lengths.view(len(lengths), -1).amax(1)
        longest = int(lengths.argmax())
        if lengths[longest] > max_tokens:
            raise ValueError(
                f"example {longest} has {int(lengths[longest])} tokens, but a batch holds at most "
                f"max_tokens={max_tokens}: raise max_tokens, or leave out long examples"
            )
        self.costs = rounded_up(lengths.numpy().astype(np.int64))
        self.max_tokens = max_tokens
        self.seed = seed
        self.shuffle = shuffle
        self.process = process
        self.epoch = 0
        self._start = (0, 0)
        self._cuts: dict[int, Int64[np.ndarray, " cut"]] = {}

    @classmethod
    def of_size(
        cls,
        num_examples: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        process: tuple[int, int] | None = None,
    ) -> BatchOrder:
        """Batches of `batch_size` examples, of which the last may have fewer."""
        ones = torch.ones(num_examples, dtype=torch.int64)
        return cls(ones, batch_size, seed=seed, shuffle=shuffle, process=process)

    def set_epoch(self, epoch: int) -> None:
        """The next batches are those of `epoch`."""
        self.epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """The batches of `epoch` begin with number `batch` of this process; others at their 0."""
        self._start = (epoch, batch)

    def __len__(self) -> int:
        """Batches of an epoch for each process."""
        return self.count(self._process()[1])

    def count(self, num_processes: int) -> int:
        """Batches of an epoch for each of so many processes.

        Raises:
            ValueError: they cannot have equally many.
        """
        return (len(self._cut(num_processes)) - 1) // num_processes

    def __iter__(self) -> Iterator[PlannedBatch]:
        rank, num_processes = self._process()
        cuts = self._cut(num_processes)
        examples, batches = self._permute(cuts)
        epoch, start = self._start
        own = batches[rank::num_processes][start if epoch == self.epoch else 0 :]
        for batch in own.tolist():
            chosen = examples[cuts[batch] : cuts[batch + 1]].tolist()
            yield PlannedBatch(chosen, (self.seed, self.epoch, batch))

    def _permute(
        self, cuts: Int64[np.ndarray, " cut"]
    ) -> tuple[Int64[np.ndarray, " example"], Int64[np.ndarray, " batch"]]:
        """The examples by cost, and the batches in the order of the epoch."""
        if not self.shuffle:
            return np.argsort(self.costs, kind="stable"), np.arange(len(cuts) - 1)
        random = np.random.default_rng((self.seed, self.epoch))
        shuffled = random.permutation(len(self.costs))
        examples = shuffled[np.argsort(self.costs[shuffled], kind="stable")]
        even = even_out(examples, cuts, self.costs, self.sizes)
        return even, random.permutation(len(cuts) - 1)

    def _process(self) -> tuple[int, int]:
        if self.process is not None:
            return self.process
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def _cut(self, num_processes: int) -> Int64[np.ndarray, " cut"]:
        if num_processes not in self._cuts:
            cuts = cut(np.sort(self.costs), self.max_tokens)
            self._cuts[num_processes] = cut_further(cuts, num_processes)
        return self._cuts[num_processes]


def rounded_up(lengths: Int64[np.ndarray, " example"]) -> Int64[np.ndarray, " example"]:
    """Lengths with at most five significant bits: longer by less than 1 part in 16."""
    step = 2 ** np.maximum(np.log2(np.maximum(lengths, 1)).astype(np.int64) - 4, 0)
    return np.maximum(-(-lengths // step) * step, 1)


def cut(costs: Int64[np.ndarray, " example"], largest: int) -> Int64[np.ndarray, " cut"]:
    """Offsets that cut `costs` into runs whose sum is at most `largest`, or that are single."""
    sums = np.cumsum(costs)
    offsets = [0]
    while offsets[-1] < len(costs):
        first = offsets[-1]
        before = sums[first - 1] if first else 0
        fitting = int(np.searchsorted(sums, before + largest, side="right"))
        offsets.append(max(fitting, first + 1))
    return np.array(offsets, dtype=np.int64)


def cut_further(offsets: Int64[np.ndarray, " cut"], divisor: int) -> Int64[np.ndarray, " more"]:
    """The cuts, and so many more through the largest runs that `divisor` divides their number.

    Raises:
        ValueError: there are fewer than `divisor` examples, or each is a run already.
    """
    if offsets[-1] < divisor:
        raise ValueError(
            f"{offsets[-1]} examples cannot be shared among {divisor} processes: use fewer devices"
        )
    while (len(offsets) - 1) % divisor:
        run = int(np.diff(offsets).argmax())
        if offsets[run + 1] - offsets[run] == 1:
            raise ValueError(
                f"{offsets[-1]} batches of one example each cannot be shared evenly among "
                f"{divisor} processes: make batches larger, or use fewer devices"
            )
        offsets = np.insert(offsets, run + 1, (offsets[run] + offsets[run + 1]) // 2)
    return offsets
