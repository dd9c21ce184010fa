"""What can be set of a translation, and what suits which data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch

from graphformer.data.multi30k import Variant
from graphformer.data.vocabulary import Kind
from graphformer.models.stack import Size
from graphformer.tasks.device import multiplies_bfloat16
from graphformer.tasks.run import Budget
from graphformer.tasks.schedule import Schedule
from graphformer.tasks.settings import check_least, check_positive, check_probabilities, fill
from graphformer.tasks.translation.text import Files, Pieces, Reading
from graphformer.tasks.translation.training import PLAIN, Tested, Updates, Weights

Precision = Literal["32-true", "bf16-mixed"]
# Beyond it powers of lengths are no numbers that tell one score from another.
LARGEST_PENALTY = 10
LIMITS = ("minutes", "epochs", "steps")

# Found to suit the embedded dates, and sentences; of the latter the precision is the device's.
SUITING: dict[str, dict[str, Any]] = {
    "dates": {"dim": 64, "heads": 2, "layers": 2, "hidden": 128, "dropout": 0.0}
    | {"attention_dropout": 0.0, "activation_dropout": 0.0, "norm_first": True}
    | {"minutes": 2.0, "batch_tokens": 2048, "learning_rate": 4e-3, "warmup": 0.1}
    | {"label_smoothing": 0.0, "vocabulary": 0, "precision": "32-true"}
    | PLAIN,
    "sentences": {"dim": 128, "heads": 4, "layers": 4, "hidden": 256, "dropout": 0.3}
    | {"attention_dropout": 0.0, "activation_dropout": 0.0, "norm_first": True}
    | {"minutes": 20.0, "batch_tokens": 4096, "learning_rate": 5e-3, "warmup": 0.1}
    | {"label_smoothing": 0.1, "vocabulary": 6000, "max_length": 512, "max_length_ratio": 4.0}
    | PLAIN,
}

# What `--recipe` names: options of any kind, such as "encoder.score", in place of their defaults.
RECIPES: dict[str, dict[str, Any]] = {
    "multi30k": SUITING["sentences"]
    | {"data": "multi30k", "source": "en", "target": "de", "variant": "tok"}
    | {"minutes": 60.0, "average": 10}
}


@dataclass(frozen=True)
class Corpus(Reading):
    """What to translate.

    Attributes:
        data: "dates", the embedded German and English dates, or "multi30k".
        data_dir: folder of Multi30k, which has raw/train.de.gz and the like (its data/task1).
        variant: of Multi30k: raw, as it was written, or tok, lower-cased and tokenized.
        source: language of Multi30k to translate from.
        target: language of Multi30k to translate into.
        source_file: your own text, a sentence a line; takes the place of `data`.
        target_file: its translation, line by line.
        validation: your own text for validation.
        test: your own text for the test.
    """

    data: Literal["dates", "multi30k"] = "dates"
    data_dir: Path | None = None
    variant: Variant = "raw"
    source: str = "de"
    target: str = "en"
    source_file: Path | None = None
    target_file: Path | None = None
    validation: Files = field(default_factory=Files)
    test: Files = field(default_factory=Files)

    @property
    def reads_multi30k(self) -> bool:
        """Whether the text is Multi30k's."""
        return self.data == "multi30k" and self.source_file is None and self.target_file is None


@dataclass(frozen=True)
class Shape:
    """How large the model is; what is left out is as it suits the data.

    Attributes:
        dim: width of the tokens.
        heads: number of heads.
        layers: number of blocks, of the encoder and of the decoder each.
        hidden: width inside the feed-forward networks, and of the states of an lstm.
        dropout: probability of zero behind each part of a block.
        attention_dropout: probability of zero of an attention weight.
        activation_dropout: probability of zero inside the feed-forward networks.
        norm_first: whether norms stand before the parts of a block instead of behind their sums.
    """

    dim: int | None = None
    heads: int | None = None
    layers: int | None = None
    hidden: int | None = None
    dropout: float | None = None
    attention_dropout: float | None = None
    activation_dropout: float | None = None
    norm_first: bool | None = None

    def __post_init__(self) -> None:
        check_least(self, dim=1, heads=1, layers=1, hidden=1)
        check_probabilities(self, "dropout", "attention_dropout", "activation_dropout")

    @property
    def size(self) -> Size:
        """The size of a model, of a shape in which nothing is left out."""
        return Size(**vars(self))


@dataclass(frozen=True)
class Search:
    """How a translation is searched for.

    Attributes:
        beam: number of translations that are followed side by side; 1 takes the likeliest next
            token each time.
        length_penalty: power of the length that a log-probability is divided by: at 0 short
            translations are favored.
        decoding_precision: 32-true, or bf16-mixed, which is faster where the device multiplies
            bfloat16 fast, and finds another translation now and then.
    """

    beam: int = 5
    length_penalty: float = 1.0
    decoding_precision: Precision = "32-true"

    @property
    def protocol(self) -> str:
        """What another who wants the same figures has to know."""
        return (
            f"beam {self.beam}, length penalty {self.length_penalty:g}, decoded in "
            f"{self.decoding_precision}"
        )

    def __post_init__(self) -> None:
        check_least(self, beam=1)
        if not abs(self.length_penalty) <= LARGEST_PENALTY:
            raise ValueError(
                f"length_penalty is {self.length_penalty}: write a number between "
                f"-{LARGEST_PENALTY} and {LARGEST_PENALTY}, such as 1"
            )
        if self.decoding_precision not in get_args(Precision):
            raise ValueError(
                f"decoding_precision is {self.decoding_precision!r}: write "
                f"{' or '.join(get_args(Precision))}"
            )


@dataclass(frozen=True)
class Training(Updates, Weights, Pieces):
    """How to train; what is left out is as it suits the data.

    Attributes:
        minutes: how long at most, validation included.
        epochs: how many passes through the data at most.
        steps: how many updates at most.
        batch_tokens: tokens of a batch, at most, by the longer of its two sides.
        learning_rate: the highest.
        warmup: share of the training in which the learning rate rises.
        label_smoothing: probability spread over all words.
        vocabulary: number of pieces of words; 0 for one token a character.
        precision: 32-true, or bf16-mixed, which left out is taken where the device is fast in it.
    """

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = RECIPES
    alone: ClassVar[Sequence[str]] = LIMITS

    minutes: float | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_tokens: int | None = None
    learning_rate: float | None = None
    warmup: float | None = None
    label_smoothing: float | None = None
    vocabulary: int | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        Updates.__post_init__(self)
        Weights.__post_init__(self)
        check_positive(self, "minutes", "learning_rate", "warmup")
        check_least(self, epochs=1, steps=1, batch_tokens=1, vocabulary=0)
        check_probabilities(self, "warmup", "label_smoothing")
        Pieces.check(self, self.vocabulary)

    @property
    def course(self) -> Course:
        """The training, of settings in which nothing but limits is left out."""
        fields = dict(vars(self)) | {"test_weights": self.tested}
        budget = Budget(**{name: fields.pop(name) for name in LIMITS})
        return Course(budget, **fields)


class Course(NamedTuple):
    """A training with nothing left out; see `Training`."""

    budget: Budget
    batch_tokens: int
    learning_rate: float
    warmup: float
    label_smoothing: float
    vocabulary: int
    precision: str
    schedule: Schedule
    warmup_steps: int | None
    accumulate: int
    clip: float
    r_drop: float
    average: int
    keep_best: int
    patience: int
    test_weights: Tested
    watched: int
    vocabulary_kind: Kind
    vocabulary_joint: bool
    bpe_dropout: float
    max_length: int | None
    max_length_ratio: float | None

    def check_validated(self, num_batches: int) -> None:
        """Does nothing where a validation, which is at the end of an epoch, comes if one is needed.

        Args:
            num_batches: of an epoch.

        Raises:
            ValueError: training ends before the first.
        """
        steps, updates = self.budget.steps, -(-num_batches // self.accumulate)
        wanting = [name for name in ("keep_best", "patience") if getattr(self, name)]
        if wanting and steps is not None and steps < updates:
            raise ValueError(
                f"{wanting[0]} needs a validation, which is at the end of an epoch, after "
                f"{updates} steps, and steps is {steps}: write --steps {updates}, or leave out "
                f"{' and '.join(f'--{name}' for name in wanting)}"
            )


def complete_settings(
    corpus: Corpus, shape: Shape, training: Training, device: torch.device
) -> tuple[Shape, Training]:
    """The settings, with those that suit text and device where none were given.

    A limit that is given stands alone: then no other one is added.
    """
    is_embedded = corpus.data == "dates" and corpus.source_file is None
    suiting = dict(SUITING["dates" if is_embedded else "sentences"])
    suiting.setdefault("precision", "bf16-mixed" if multiplies_bfloat16(device) else "32-true")
    if any(getattr(training, name) is not None for name in LIMITS):
        del suiting["minutes"]
    return fill(shape, suiting), fill(training, suiting)
