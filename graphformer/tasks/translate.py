"""The command `graphformer translate`: trains a translator, translates, scores translations."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graphformer.data.parallel import TextSplits
from graphformer.data.text_lines import read_lines, split_lines
from graphformer.tasks.plots import plot_history, where_installed
from graphformer.tasks.randomness import seed_everything
from graphformer.tasks.record import write_metrics
from graphformer.tasks.run import HISTORY, Machine, Run, repeat, train
from graphformer.tasks.schedule import RiseAndFall
from graphformer.tasks.settings import Job, keep_settings
from graphformer.tasks.translation.corpus import (
    encode_pairs,
    make_loader,
    make_vocabulary,
    read_corpus,
)
from graphformer.tasks.translation.learner import TranslationLearner
from graphformer.tasks.translation.scores import Quality, measure, signature
from graphformer.tasks.translation.settings import (
    Attending,
    Corpus,
    Shape,
    Suiting,
    Training,
    suiting,
)
from graphformer.tasks.translation.translator import Translator

NUM_WATCHED = 100
NUM_SHOWN = 5
HYPOTHESES, CURVES = "test.hypotheses.txt", "history.svg"


@dataclass(frozen=True)
class Search:
    """How a translation is searched for.

    Attributes:
        beam: number of translations that are followed side by side; 1 takes the likeliest next
            token each time.
        length_penalty: power of the length that a log-probability is divided by: at 0 short
            translations are favored.
    """

    beam: int = 5
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ValueError(f"beam is {self.beam}: write a number of translations, at least 1")


SEARCH = Search()


def fit(
    corpus: Corpus, shape: Shape, attending: Attending, training: Training, search: Search, job: Job
) -> dict[str, object]:
    """Trains a translator, and translates and scores its test set.

    Leaves in the folder `job.out` the translator, its settings, `metrics.json`, the translations,
    plots and checkpoints; shows samples.

    Returns:
        The figures; of several seeds their mean, standard deviation and values.

    Raises:
        ValueError: settings make no sense, or files cannot be read.
    """
    suits = suiting(corpus)
    task = Task(
        read_corpus(corpus),
        Suiting(shape.over(suits.size), training.over(suits.course), suits.precision),
        attending,
        search,
    )
    keep_settings(job.out, (corpus, shape, attending, training, search, job), job.resume)
    machine = Machine(accelerator=job.accelerator, precision=suits.precision)
    run = Run(job.out, task.chosen.course.budget, job.seed, job.resume, machine=machine)
    if job.seeds == 1:
        return dict(task.perform(run))
    summary = repeat(task.perform, run, job.all_seeds)
    task.write(job.out, summary, job.all_seeds)
    for name in ("bleu", "chrf", "exact_match"):
        each = summary[name]
        print(f"{name}: {each['mean']:.4g} +- {each['std']:.2g} ({job.seeds} seeds)")
    return dict(summary)


@dataclass(frozen=True)
class Task:
    """A corpus to be learned, and how.

    Attributes:
        text: the corpus.
        chosen: size, training and precision.
        attending: who attends to whom.
        search: how translations are searched for.
    """

    text: TextSplits
    chosen: Suiting
    attending: Attending
    search: Search

    def perform(self, run: Run) -> dict[str, float]:
        """One training with its test; leaves everything in `run.out`."""
        course = self.chosen.course
        tokenizer = make_vocabulary(self.text.train, course.vocabulary)
        seed_everything(run.seed)
        translator = Translator(tokenizer, self.chosen.size, self.attending)
        watched = self.text.validation[:NUM_WATCHED]
        learner = TranslationLearner(
            translator, course.learning_rate, course.label_smoothing, watched
        )
        batches = make_loader(
            encode_pairs(tokenizer, self.text.train), course.batch_tokens, run.seed
        )
        validation = make_loader(
            encode_pairs(tokenizer, self.text.validation), course.batch_tokens, shuffle=False
        )
        rate = RiseAndFall(course.learning_rate, course.warmup)
        measured = train(learner, batches, validation, run, callbacks=[rate])
        translator.save(run.out)
        with where_installed():
            plot_history(run.out / HISTORY, run.out / CURVES)
        quality = self.test(translator, run.out)
        figures = {**measured, **quality.figures}
        self.write(run.out, figures, [run.seed])
        return figures

    def test(self, translator: Translator, out: Path) -> Quality:
        """The quality of the translated test set, printed with samples; kept in `out`."""
        sources, references = map(list, zip(*self.text.test, strict=True))
        start = time.monotonic()
        found = translator.translate(sources, self.search.beam, self.search.length_penalty)
        quality = measure(found, references)
        (out / HYPOTHESES).write_text("\n".join(found) + "\n", "utf-8")
        print(show_samples(sources, found, references))
        print(f"test set of {len(found):,}, translated in {time.monotonic() - start:.0f} s")
        print(quality)
        return quality

    def write(self, out: Path, figures: Mapping[str, object], seeds: list[int]) -> None:
        """`metrics.json` in `out`."""
        text, search = self.text, self.search
        sizes = f"{len(text.train):,} training, {len(text.validation):,} validation"
        write_metrics(
            out,
            figures,
            seeds=seeds,
            data=text.name,
            split=f"{sizes} and {len(text.test):,} test pairs",
            protocol=(
                f"test set, weights at the end of training, beam {search.beam}, length penalty "
                f"{search.length_penalty:g}; validation_bleu and validation_exact_match: first "
                f"{NUM_WATCHED} validation pairs, greedy; {signature()}"
            ),
        )


def predict(
    checkpoint: Path,
    text: str | None = None,
    input_file: Path | None = None,
    output_file: Path | None = None,
    search: Search = SEARCH,
) -> list[str]:
    """Translates a line, a file of lines, or what comes from the standard input.

    Args:
        checkpoint: the `--out` folder of a finished `fit`.
        text: one line.
        input_file: a sentence a line.
        output_file: where to write, a translation a line; the standard output if left out.
        search: how translations are searched for.

    Raises:
        ValueError: there are both a line and a file.
        FileNotFoundError: there is no translator in the folder, or no such file.
    """
    if text is not None and input_file is not None:
        raise ValueError("there are both --text and --input_file: leave one of them out")
    translator = Translator.load(checkpoint)
    if text is not None:
        lines = [text]
    else:
        lines = split_lines(sys.stdin.read()) if input_file is None else read_lines(input_file)
    found = translator.translate(lines, search.beam, search.length_penalty)
    if output_file is None:
        print("\n".join(found))
    else:
        output_file.write_text("\n".join(found) + "\n", "utf-8")
    return found


def score(
    target_file: Path,
    hypothesis_file: Path | None = None,
    checkpoint: Path | None = None,
    source_file: Path | None = None,
    search: Search = SEARCH,
    out: Path | None = None,
) -> Quality:
    """Scores translations against references: those in a file, or those of a trained translator.

    Prints BLEU and chrF with the signatures of sacreBLEU, and the share of exact matches.

    Args:
        target_file: references, one a line.
        hypothesis_file: translations, one a line.
        checkpoint: the `--out` folder of a finished `fit`, in place of `hypothesis_file`.
        source_file: what it is to translate, one a line.
        search: how translations are searched for.
        out: folder that gets the figures in `metrics.json`.

    Raises:
        ValueError: there is no translation, or not one a reference.
        FileNotFoundError: a file is missing.
    """
    references = read_lines(target_file)
    if hypothesis_file is not None and checkpoint is not None:
        raise ValueError("there are both --hypothesis_file and --checkpoint: leave one of them out")
    if hypothesis_file is not None:
        found, how = read_lines(hypothesis_file), f"translations of {hypothesis_file}"
    elif checkpoint is not None and source_file is not None:
        translator, lines = Translator.load(checkpoint), read_lines(source_file)
        found = translator.translate(lines, search.beam, search.length_penalty)
        how = f"{checkpoint}, beam {search.beam}, length penalty {search.length_penalty:g}"
    else:
        raise ValueError(
            "there is nothing to score: write --hypothesis_file, or --checkpoint and --source_file"
        )
    quality = measure(found, references)
    print(quality)
    if out is not None:
        protocol = f"{how}; {signature()}"
        size = f"{len(found):,} lines"
        write_metrics(
            out, quality.figures, seeds=[], data=str(target_file), split=size, protocol=protocol
        )
    return quality


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
