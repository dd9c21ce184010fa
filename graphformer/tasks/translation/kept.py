"""The weights that the training of a translator keeps, and those that it is left with."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping

from graphformer.files import UNFINISHED
from graphformer.tasks.average import AverageWeights
from graphformer.tasks.best import BestWeights, Validated
from graphformer.tasks.loader import Loader
from graphformer.tasks.run import Run, is_first_process, validate
from graphformer.tasks.translation.learner import TranslationLearner
from graphformer.tasks.translation.settings import Course
from graphformer.tasks.translation.translator import Translator
from graphformer.tasks.weights import with_weights

BEST = "best"
BLEU = "validation_bleu"
_NAME = re.compile(rf"bleu-\d+\.\d\d-epoch-\d+({re.escape(UNFINISHED)})?")


class KeptWeights:
    """What of the weights is kept while a translator is trained, and chosen from at the end.

    Args:
        course: of the training.
        translator: that is trained.
        folder: of the run, which gets the best translators.
    """

    def __init__(self, course: Course, translator: Translator, folder: Path) -> None:
        self.course = course
        self.translator = translator
        self.folder = folder / BEST
        self.average = AverageWeights(course.average) if course.average > 1 else None
        self.best = None
        if course.keep_best:
            self.best = BestWeights(lambda values: (values[BLEU],), course.keep_best, self.write)
        self.stopping = None
        if course.patience:
            self.stopping = EarlyStopping(
                BLEU, patience=course.patience, mode="max", check_on_train_epoch_end=False
            )

    @property
    def callbacks(self) -> list[Callback]:
        """What training is to call."""
        return [each for each in (self.average, self.best, self.stopping) if each is not None]

    def choose(self, learner: TranslationLearner, validation: Loader, run: Run) -> dict[str, float]:
        """Gives the learner, at the end of training, the weights to be tested.

        Returns:
            What their validation measured, where they are not those of the end.
        """
        stopped = self.stopping is not None and self.stopping.stopped_epoch
        if stopped and is_first_process(run.machine):
            print(
                f"stopped after epoch {stopped + 1}: no better BLEU in "
                f"{self.course.patience} validations",
                file=sys.stderr,
            )
        tested = self.course.test_weights
        if tested == "average" and self.average is not None:
            self.average.restore(learner)
            return validate(learner, validation, run)
        if tested == "best" and self.best is not None:
            self.best.restore(learner)
            return {**self.best.best.values, "best_epoch": self.best.best.epoch}
        return {}

    def write(self, learner: LightningModule, kept: Sequence[Validated]) -> None:
        """The folder has a translator for each of `kept`, and none of an abandoned course."""
        named = {name_of(each): each for each in kept}
        there = {each.name for each in self.folder.glob("*") if _NAME.fullmatch(each.name)}
        for name in sorted(there - named.keys(), key=len, reverse=True):  # unfinished ones first
            # Under another name first: whatever stops the removal, it is no translator any more.
            leaving = self.folder / f"{name.removesuffix(UNFINISHED)}{UNFINISHED}"
            shutil.rmtree((self.folder / name).rename(leaving))
        for name in named.keys() - there:
            unfinished = self.folder / f"{name}{UNFINISHED}"
            with with_weights(learner, named[name].weights):
                self.translator.save_pretrained(unfinished)
            unfinished.rename(self.folder / name)


def name_of(each: Validated) -> str:
    """The folder of a translator: its BLEU of validation and its epoch."""
    return f"bleu-{each.values[BLEU]:05.2f}-epoch-{each.epoch:03d}"


def describe(course: Course) -> str:
    """Which weights are tested."""
    points = f"mean of the weights at {course.average} points"
    return {
        "last": "weights at the end of training",
        "average": f"{points}, spread over the last fifth of the training",
        "best": "weights of the best validation_bleu",
    }[course.test_weights]
