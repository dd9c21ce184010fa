"""A translator trained and tested, with all that it leaves in its folder."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from graphformer.data.parallel import TextSplits
from graphformer.files import write_text
from graphformer.models.sequence import Size
from graphformer.tasks.loader import Loader
from graphformer.tasks.plots import plot_history, where_installed
from graphformer.tasks.randomness import seed_everything
from graphformer.tasks.record import write_metrics
from graphformer.tasks.run import HISTORY, Machine, Run, is_first_process, train
from graphformer.tasks.schedule import FALLS, RiseAndFall
from graphformer.tasks.translation.attending import Attending
from graphformer.tasks.translation.bootstrap import resample
from graphformer.tasks.translation.corpus import (
    EncodedPair,
    encode_pairs,
    lengths_of,
    make_loader,
)
from graphformer.tasks.translation.decoding import MORE, best_of, find
from graphformer.tasks.translation.examples import TrainingText, read_training
from graphformer.tasks.translation.kept import KeptWeights, describe
from graphformer.tasks.translation.learner import TranslationLearner
from graphformer.tasks.translation.scores import Quality, measure, signature
from graphformer.tasks.translation.settings import Course, Search
from graphformer.tasks.translation.translator import Translator

NUM_SHOWN = 5
SOURCES, REFERENCES = "test.sources.txt", "test.references.txt"
HYPOTHESES, CURVES = "test.hypotheses.txt", "history.svg"


@dataclass(frozen=True)
class Task:
    """A corpus to be learned, and how.

    Attributes:
        text: the corpus.
        tokenizer: its joint vocabulary, or those of (source, target).
        size: of the model.
        course: of the training.
        attending: who attends to whom.
        search: how translations are searched for.
        device: to train on.
        tokenize: how BLEU finds words.
    """

    text: TextSplits
    tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer]
    size: Size
    course: Course
    attending: Attending
    search: Search
    device: torch.device
    tokenize: str = "13a"

    def check(self, machine: Machine) -> None:
        """Does nothing where all runs can begin.

        Raises:
            ValueError: a notation cannot be read, sizes do not fit each other, a sentence is too
                long for a batch, or what needs a validation would get none.
        """
        num_processes = int(machine.devices) * machine.num_nodes
        count, _ = (each.sampler.count(num_processes) for each in self._load())
        self.course.check_validated(count)
        shortest = min((source for source, _ in self._training.pairs), key=len)
        best_of(self._translator(), [shortest], self.search)

    def perform(self, run: Run) -> dict[str, float]:
        """One training with its test; leaves everything in `run.out`."""
        course = self.course
        seed_everything(run.seed)
        translator = self._translator()
        watched = list(self.text.validation[: course.watched])
        learner = TranslationLearner(
            translator,
            course.learning_rate,
            course.label_smoothing,
            watched,
            course.r_drop,
            self.tokenize,
        )
        batches, validation = self._load(run.seed)
        fall = FALLS[course.schedule]
        rate = RiseAndFall(course.learning_rate, course.warmup, fall, course.warmup_steps)
        kept = KeptWeights(course, translator, run.out)
        measured = train(
            learner,
            batches,
            validation,
            run,
            callbacks=[rate, *kept.callbacks],
            accumulate_grad_batches=course.accumulate,
            gradient_clip_val=course.clip or None,
        )
        measured |= kept.choose(learner, validation, run)
        if not is_first_process(run.machine):
            return measured
        translator.save_pretrained(run.out)
        with where_installed():
            plot_history(run.out / HISTORY, run.out / CURVES)
        translator.model.to(self.device)
        quality = self.test(translator, run.out)
        figures = {**measured, **quality.figures}
        self.write(run.out, figures, [run.seed])
        return figures

    def test(self, translator: Translator, out: Path) -> Quality:
        """The quality of the translated test set, printed with samples; `out` keeps both sides."""
        sources, references = map(list, zip(*self.text.test, strict=True))
        start = time.monotonic()
        each = [one for one, *_ in find(translator, sources, self.search, name="the test set")]
        found, num_cut = [one.text for one in each], sum(one.is_cut for one in each)
        quality = measure(found, references, self.tokenize)
        for name, lines in ((SOURCES, sources), (REFERENCES, references), (HYPOTHESES, found)):
            write_text(out / name, "\n".join(lines) + "\n")
        print(show_samples(sources, found, references))
        cut = f"; {num_cut:,} of them are cut at their limit" if num_cut else ""
        print(f"test set of {len(found):,}, translated in {time.monotonic() - start:.0f} s{cut}")
        print(quality, flush=True)
        print(resample({"test": found}, references, self.tokenize))
        return quality

    def write(self, out: Path, figures: Mapping[str, object], seeds: list[int]) -> None:
        """`metrics.json` in `out`."""
        text, search, course = self.text, self.search, self.course
        sizes = f"{len(self._training.pairs):,} training, {len(text.validation):,} validation"
        write_metrics(
            out,
            figures,
            seeds=seeds,
            data=text.name,
            split=f"{sizes} and {len(text.test):,} test pairs",
            protocol=(
                f"test set, {describe(course)}, {search.protocol}; validation_bleu and "
                f"validation_exact_match: first {course.watched} validation pairs, greedy; "
                f"{signature(self.tokenize)}"
            ),
            device=self.device,
            precision=course.precision,
        )

    def _translator(self) -> Translator:
        tokenizer = self.tokenizer
        ids = (
            (tokenizer[0].get_vocab_size(), tokenizer[1].get_vocab_size())
            if isinstance(tokenizer, tuple)
            else tokenizer.get_vocab_size()
        )
        model = self.attending.make_model(ids, self.size)
        return Translator(model, tokenizer, *self._facts)

    @cached_property
    def _facts(self) -> tuple[str, float]:
        """What a translator knows of the training text: its characters and its growth.

        The former, of the source where it has a vocabulary of its own, one of bytes does not tell.
        For the latter, in characters, translations are long enough but for one in a thousand: an
        outlier would keep all others from an end.
        """
        found: set[str] = set()
        growths = array("d")
        for source, target in self._training.pairs:
            found.update(source, "" if isinstance(self.tokenizer, tuple) else target)
            growths.append((len(target) - MORE) / len(source))
        return "".join(sorted(found)), max(2.0, float(np.quantile(growths, 0.999, method="lower")))

    @cached_property
    def _training(self) -> TrainingText:
        """The training pairs, the same for all seeds."""
        return read_training(self.text.train, self.tokenizer, self.course)

    @cached_property
    def _validation(self) -> list[EncodedPair]:
        return encode_pairs(self.tokenizer, self.text.validation)

    def _load(self, seed: int = 0) -> tuple[Loader, Loader]:
        size, validation = self.course.batch_tokens, self._validation
        # None is left out of the validation, be it longer than a batch of the training.
        largest = max(size, int(lengths_of(validation).max()))
        training = self._training.load(size, seed)
        return training, make_loader(validation, largest, shuffle=False)


def show_samples(sources: list[str], found: list[str], references: list[str]) -> str:
    """The first translations, with what they translate and what was expected where it differs."""
    lines = []
    for source, translation, reference in zip(sources, found, references, strict=True):
        lines += ["", f"  {source}", f"> {translation}"]
        if translation != reference:
            lines.append(f"= {reference}")
        if len(lines) >= 4 * NUM_SHOWN:
            break
    return "\n".join([*lines, ""])
