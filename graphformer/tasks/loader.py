"""Batches loaded so that neither workers nor an interruption change them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from graphformer.tasks.batches import BatchOrder, PlannedBatch
from graphformer.tasks.randomness import seeded


@runtime_checkable
class Examples(Protocol):
    """A data set: a list, or anything else with an item for each index."""

    def __getitem__(self, index: int, /) -> Any: ...


class Loader:
    """The collated batches of `order`, the same whatever loads them.

    What is random in an example or its collation depends on (seed, epoch, batch) alone: not on
    the number of workers, nor on what was drawn before; and training draws on undisturbed.

    Args:
        examples: the data set.
        collate: makes a batch of a list of examples.
        order: which examples make which batch.
        num_workers: processes that load ahead; 0 loads in this one.
        pin_memory: whether batches are copied to page-locked memory, ready for a GPU.
    """

    def __init__(
        self,
        examples: Examples,
        collate: Callable[[list[Any]], Any],
        order: BatchOrder,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        # Lightning tells its epoch to the `sampler`; it yields batches, as a loader's without
        # automatic batching does, which then has no `batch_sampler`.
        self.sampler = order
        self.batch_sampler = None
        self._batches = SeededBatches(examples, collate)
        self._loader: DataLoader[Any] | None = None
        if num_workers == 0 and not pin_memory:
            return
        self._loader = DataLoader(
            self._batches,  # type: ignore[arg-type]
            batch_size=None,
            sampler=order,
            collate_fn=unchanged,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=leave_interruptions,
            generator=torch.Generator(),  # without one, it would draw from the global one
        )

    def close(self) -> None:
        """Ends the workers; they start again when batches are asked for."""
        iterator = None if self._loader is None else self._loader._iterator
        if self._loader is not None and isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()
            self._loader._iterator = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        # A generator: workers start, and the epoch is read, when the first batch is asked for.
        if self._loader is None:
            yield from map(self._batches.__getitem__, self.sampler)
        else:
            yield from self._loader


class SeededBatches:
    """The batch of each plan, loaded and collated with its own random numbers."""

    def __init__(self, examples: Examples, collate: Callable[[list[Any]], Any]) -> None:
        self.examples = examples
        self.collate = collate

    def __getitem__(self, plan: PlannedBatch) -> Any:
        with seeded(*plan.entropy):
            return self.collate([self.examples[index] for index in plan.examples])


def unchanged(batch: Any) -> Any:
    """The batch itself: it was collated with its random numbers."""
    return batch


def leave_interruptions(_worker: int) -> None:
    """A worker outlives what interrupts the group of the main process, which ends its step first.

    It still ends when that process ends it, or is no more.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
