"""How updates are made of gradients, which weights are kept, and on how many devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from graphformer.models.sequence import Size
from graphformer.tasks.run import Machine
from graphformer.tasks.schedule import Schedule
from graphformer.tasks.settings import check_least

Tested = Literal["last", "average", "best"]
Strategy = Literal["auto", "ddp"]

# What trains on any text as plainly as can be.
PLAIN: dict[str, Any] = {
    "schedule": "linear",
    "accumulate": 1,
    "clip": 0.0,
    "r_drop": 0.0,
    "average": 1,
    "keep_best": 0,
    "patience": 0,
    "watched": 100,
}


@dataclass(frozen=True)
class Updates:
    """How each update is made; what is left out is as it suits the data.

    Attributes:
        schedule: how the learning rate falls after its rise: linear and cosine to zero at the end
            of the training, inverse_sqrt with the root of what has passed of it.
        warmup_steps: updates in which the learning rate rises, in place of `warmup`.
        accumulate: batches whose gradients make an update, which has as many times `batch_tokens`.
        clip: largest norm of the gradients, which longer ones are scaled to; 0 takes any.
        r_drop: how much it counts that two passes of a sentence, with different dropout, differ
            (alpha of R-Drop, such as 5); 0 makes one pass, in half the time.
    """

    schedule: Schedule | None = None
    warmup_steps: int | None = None
    accumulate: int | None = None
    clip: float | None = None
    r_drop: float | None = None

    def __post_init__(self) -> None:
        check_known(self, schedule=get_args(Schedule))
        check_least(self, warmup_steps=1, accumulate=1)
        check_not_negative(self, "clip", "r_drop")

    def check_dropout(self, size: Size) -> None:
        """Does nothing where a model of this size, and with its dropout, can be trained so.

        Raises:
            ValueError: passes are to differ that cannot.
        """
        some = size.dropout or size.attention_dropout or size.activation_dropout
        if self.r_drop and not some:
            raise ValueError(
                f"r_drop is {self.r_drop}, and dropout is 0, so that two passes are the same: "
                "write dropout of above 0, or r_drop=0"
            )


@dataclass(frozen=True)
class Weights:
    """Which weights are kept, and which are tested; what is left out is as it suits the data.

    Attributes:
        average: points, spread over the last fifth of the training, whose weights are averaged; 1
            takes those at the end alone.
        keep_best: how many translators are kept in the folder best, those with the best BLEU of
            validation.
        patience: validations without a better BLEU after which training stops; 0 trains to the
            end.
        test_weights: what is left, validated and tested: the last weights, their average, or the
            best by BLEU of validation; left out, the average where there is one, or else the last.
        watched: pairs of validation that are translated after each epoch, greedily, for its BLEU.
    """

    average: int | None = None
    keep_best: int | None = None
    patience: int | None = None
    test_weights: Tested | None = None
    watched: int | None = None

    def __post_init__(self) -> None:
        check_least(self, average=1, keep_best=0, patience=0, watched=1)
        check_known(self, test_weights=get_args(Tested))

    def check_tested(self) -> None:
        """Does nothing where the weights to be tested are kept, of settings with nothing left out.

        Raises:
            ValueError: they are not.
        """
        if self.test_weights == "average" and self.average == 1:
            raise ValueError("test_weights is average, of 1 point: write average=10, or last")
        if self.test_weights == "best" and not self.keep_best:
            raise ValueError("test_weights is best, and none are kept: write keep_best=1, or last")

    @property
    def tested(self) -> Tested:
        """What is tested, of settings in which nothing else is left out."""
        by_average: Tested = "last" if self.average == 1 else "average"
        return self.test_weights or by_average


@dataclass(frozen=True)
class Devices:
    """How many devices share the training.

    Attributes:
        devices: processes on each machine, each with a device or, of a CPU, with some of its cores;
            an update has the tokens of all.
        num_nodes: machines, on each of which the same command is started (with NODE_RANK,
            MASTER_ADDR and MASTER_PORT, or by torchrun or SLURM).
        strategy: how they share it: auto, or ddp.
    """

    devices: int = 1
    num_nodes: int = 1
    strategy: Strategy = "auto"

    def __post_init__(self) -> None:
        check_least(self, devices=1, num_nodes=1)
        check_known(self, strategy=get_args(Strategy))

    def machine(self, device: torch.device, precision: str) -> Machine:
        """So many devices of the kind of `device`.

        Raises:
            ValueError: there are not so many.
        """
        there = torch.cuda.device_count() if device.type == "cuda" else self.devices
        if self.devices > there:
            raise ValueError(f"devices is {self.devices}, and there are {there} GPUs: write fewer")
        one = Machine.of(device, precision)
        return Machine(one.accelerator, self.devices, self.num_nodes, self.strategy, precision)


def check_known(settings: object, **known: tuple[str, ...]) -> None:
    """Does nothing where the settings that are given are among the known words.

    Raises:
        ValueError: one is not.
    """
    for name, words in known.items():
        value = getattr(settings, name)
        if value is not None and value not in words:
            raise ValueError(f"{name} {value!r} is unknown: known are {', '.join(words)}")


def check_not_negative(settings: object, *names: str) -> None:
    """Does nothing where the settings that are given are zero or above it.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}: write 0, or a number above it")
