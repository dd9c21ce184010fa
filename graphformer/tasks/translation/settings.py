"""What can be set of a translation, and what suits which data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from graphformer.models.stack import Size
from graphformer.tasks.run import Budget


@dataclass(frozen=True)
class Corpus:
    """What to translate.

    Attributes:
        data: "dates", the embedded German and English dates, or "multi30k".
        data_dir: folder of Multi30k.
        source: language of Multi30k to translate from.
        target: language of Multi30k to translate into.
        source_file: your own text, a sentence a line; takes the place of `data`.
        target_file: its translation, line by line.
    """

    data: Literal["dates", "multi30k"] = "dates"
    data_dir: Path | None = None
    source: str = "de"
    target: str = "en"
    source_file: Path | None = None
    target_file: Path | None = None


@dataclass(frozen=True)
class Shape:
    """How large the model is; what is left out is as it suits the data.

    Attributes:
        dim: width of the tokens.
        heads: number of heads.
        layers: number of blocks, of the encoder and of the decoder each.
        hidden: width inside the feed-forward networks.
        dropout: probability of zero behind each part of a block.
    """

    dim: int | None = None
    heads: int | None = None
    layers: int | None = None
    hidden: int | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, least={"dim": 1, "heads": 1, "layers": 1, "hidden": 1})
        check_shares(self, "dropout")

    def over(self, suiting: Size) -> Size:
        """This shape, and the suiting one where nothing is said."""
        return replace(suiting, **given(self))


@dataclass(frozen=True)
class Attending:
    """Who attends to whom and how strongly, in the library's notation.

    Attributes:
        score: how strongly a token attends to another of its sentence, such as
            "Rotary(DotProduct())".
        cross_score: how strongly a token of the target attends to the source.
        positions: sinusoidal, or none where the score knows positions.
        encoder_topology: who attends to whom in the source, such as "window(4)".
        decoder_topology: who attends to whom in the target, of those before.
    """

    score: str = "DotProduct()"
    cross_score: str = "DotProduct()"
    positions: Literal["sinusoidal", "none"] = "sinusoidal"
    encoder_topology: str = "complete()"
    decoder_topology: str = "causal()"


@dataclass(frozen=True)
class Training:
    """How to train; what is left out is as it suits the data.

    Attributes:
        minutes: how long at most, validation included; the learning rate falls to zero by then.
        epochs: how many passes through the data at most.
        steps: how many updates at most.
        batch_tokens: tokens of the target in an update, at most.
        learning_rate: the highest.
        warmup: share of the training in which the learning rate rises.
        label_smoothing: probability spread over all words.
        vocabulary: number of pieces of words; 0 for one token a character.
    """

    minutes: float | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_tokens: int | None = None
    learning_rate: float | None = None
    warmup: float | None = None
    label_smoothing: float | None = None
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, least={"batch_tokens": 1, "vocabulary": 0})
        check_shares(self, "label_smoothing")

    def over(self, suiting: Course) -> Course:
        """These settings, and the suiting ones where nothing is said; a budget is taken whole."""
        chosen = given(self)
        limits = {name: chosen.pop(name, None) for name in ("epochs", "steps", "minutes")}
        if any(limit is not None for limit in limits.values()):
            suiting = suiting._replace(budget=Budget(**limits))
        return suiting._replace(**chosen)


class Course(NamedTuple):
    """A training with nothing left out; see `Training`."""

    budget: Budget
    batch_tokens: int
    learning_rate: float
    warmup: float
    label_smoothing: float
    vocabulary: int


def check_numbers(settings: object, least: dict[str, int]) -> None:
    """Does nothing where the settings that are given are large enough.

    Raises:
        ValueError: one is smaller.
    """
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and value < smallest:
            raise ValueError(f"{name} is {value}: write a number of at least {smallest}")


def check_shares(settings: object, *names: str) -> None:
    """Does nothing where the settings that are given are probabilities below 1.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name} is {value}: write a probability of at least 0 and below 1")


def given(settings: Shape | Training) -> dict[str, Any]:
    """The settings that are not left out."""
    return {name: value for name, value in vars(settings).items() if value is not None}


class Suiting(NamedTuple):
    """Settings that were found to suit a kind of text."""

    size: Size
    course: Course
    precision: str


def suiting(corpus: Corpus) -> Suiting:
    """The settings for the embedded dates, or for sentences."""
    if corpus.data == "dates" and corpus.source_file is None:
        return Suiting(
            Size(dim=64, heads=2, layers=2, hidden=128, dropout=0.0),
            Course(
                Budget(minutes=2.0),
                batch_tokens=2048,
                learning_rate=4e-3,
                warmup=0.1,
                label_smoothing=0.0,
                vocabulary=0,
            ),
            "32-true",
        )
    return Suiting(
        Size(dim=128, heads=4, layers=4, hidden=256, dropout=0.3),
        Course(
            Budget(minutes=20.0),
            batch_tokens=4096,
            learning_rate=5e-3,
            warmup=0.1,
            label_smoothing=0.1,
            vocabulary=6000,
        ),
        "bf16-mixed" if multiplies_bfloat16() else "32-true",
    )


def multiplies_bfloat16() -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
