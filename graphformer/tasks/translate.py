"""The command `graphformer translate`: trains a translator, translates, scores translations."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

from graphformer.data.text_lines import read_lines, split_lines
from graphformer.files import write_text
from graphformer.tasks.record import write_metrics
from graphformer.tasks.run import Run, is_first_process, repeat
from graphformer.tasks.settings import Job, check_folder, keep_settings
from graphformer.tasks.translation.attending import Attending
from graphformer.tasks.translation.corpus import read_corpus
from graphformer.tasks.translation.kept_vocabulary import KeptVocabulary
from graphformer.tasks.translation.scores import Quality, measure, signature
from graphformer.tasks.translation.settings import (
    Corpus,
    Search,
    Shape,
    Training,
    complete_settings,
)
from graphformer.tasks.translation.task import NUM_SHOWN, Task
from graphformer.tasks.translation.training import Devices
from graphformer.tasks.translation.translator import Translator

SEARCH = Search()
DEVICES = Devices()
INDEX = "lines"


def fit(
    corpus: Corpus,
    shape: Shape,
    attending: Attending,
    training: Training,
    search: Search,
    job: Job,
    devices: Devices = DEVICES,
) -> dict[str, object]:
    """Trains a translator, and translates and scores its test set.

    Leaves in the folder `job.out` the translator, its settings, `metrics.json`, the translations,
    plots and checkpoints; shows samples.

    Returns:
        The figures; of several seeds their mean, standard deviation and values.

    Raises:
        ValueError: settings make no sense, or files cannot be read.
    """
    job.check_unused()
    shape, training = complete_settings(corpus, shape, training, job.device)
    attending = attending.completed(shape.size)
    attending.check_fits(shape.size)
    training.check_dropout(shape.size.dropout)
    training.check_tested()
    course = training.course
    machine = devices.machine(job.device, course.precision)
    text = read_corpus(corpus, job.out / INDEX)
    vocabulary = KeptVocabulary(job.out, text.train, course)
    tokenizer = vocabulary.get(is_first_process(machine))
    task = Task(text, tokenizer, shape.size, course, attending, search, job.device)
    task.check()
    parts = (corpus, shape, attending, training, search, job, devices)
    if is_first_process(machine):
        keep_settings(job.out, parts, job.resume)
        vocabulary.keep(tokenizer)
    run = Run(job.out, course.budget, job.seed, job.resume, machine=machine, name="translator")
    if job.seeds == 1:
        return dict(task.perform(run))
    summary = repeat(task.perform, run, job.all_seeds)
    if not is_first_process(machine):
        return dict(summary)
    task.write(job.out, summary, job.all_seeds)
    for name in ("bleu", "chrf", "exact_match"):
        each = summary[name]
        print(f"{name}: {each['mean']:.4g} +- {each['std']:.2g} ({job.seeds} seeds)")
    return dict(summary)


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
    if output_file is not None and output_file.is_dir():
        raise ValueError(f"output_file is {output_file}, which is a folder: write a file")
    translator = Translator.from_pretrained(checkpoint)
    if text is not None:
        lines = [text]
    else:
        lines = split_lines(sys.stdin.read()) if input_file is None else read_lines(input_file)
    found = translate_known(translator, lines, search)
    written = "".join(f"{line}\n" for line in found)
    if output_file is None:
        print(written, end="")
    else:
        write_text(output_file, written)
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
    if out is not None:
        check_folder(out)
    references = read_lines(target_file)
    if hypothesis_file is not None and checkpoint is not None:
        raise ValueError("there are both --hypothesis_file and --checkpoint: leave one of them out")
    if hypothesis_file is not None:
        found, how = read_lines(hypothesis_file), f"translations of {hypothesis_file}"
    elif checkpoint is not None and source_file is not None:
        translator, lines = Translator.from_pretrained(checkpoint), read_lines(source_file)
        found = translate_known(translator, lines, search)
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
            out,
            quality.figures,
            seeds=[],
            data=str(target_file),
            split=size,
            protocol=protocol,
            device=torch.device("cpu"),
            precision="32-true",
        )
    return quality


def translate_known(translator: Translator, lines: list[str], search: Search) -> list[str]:
    """The translation of each line; warns once of characters that training never showed."""
    unknown = translator.unknown_characters(lines)
    if unknown:
        shown = ", ".join(f"{each!r} ({count})" for each, count in unknown.most_common(NUM_SHOWN))
        more = f" and {len(unknown) - NUM_SHOWN} others" if len(unknown) > NUM_SHOWN else ""
        warnings.warn(
            f"{unknown.total():,} characters are unknown to the translator, whose training text "
            f"had none of them: {shown}{more}; expect mistakes where they stand",
            stacklevel=2,
        )
    return translator.translate(lines, search.beam, search.length_penalty)
