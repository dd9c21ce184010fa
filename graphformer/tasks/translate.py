"""The command `graphformer translate`: trains a translator, translates, scores translations."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from graphformer.data.text_lines import read_lines
from graphformer.models.pretrained import CONFIG
from graphformer.tasks.device import Accelerator, find_device
from graphformer.tasks.record import write_metrics
from graphformer.tasks.run import HISTORY, Run, is_first_process, repeat
from graphformer.tasks.settings import SETTINGS, Job, check_folder, keep_settings
from graphformer.tasks.translation.alignment import align_words
from graphformer.tasks.translation.attending import Attending
from graphformer.tasks.translation.bootstrap import resample
from graphformer.tasks.translation.corpus import read_corpus
from graphformer.tasks.translation.kept_vocabulary import KeptVocabulary
from graphformer.tasks.translation.lines import Lines
from graphformer.tasks.translation.plots import plot_alignment as plot
from graphformer.tasks.translation.prediction import Prediction, progress, writing
from graphformer.tasks.translation.scores import Quality, measure, signature
from graphformer.tasks.translation.settings import (
    Corpus,
    Search,
    Shape,
    Training,
    complete_settings,
)
from graphformer.tasks.translation.task import Task
from graphformer.tasks.translation.training import Devices
from graphformer.tasks.translation.translator import Translator
from graphformer.tasks.translation.wanted import Scoring, Wanted

SEARCH, WANTED, SCORING, DEVICES = Search(), Wanted(), Scoring(), Devices()
INDEX = "lines"
PICTURES = (".svg", ".png")


def fit(
    corpus: Corpus,
    shape: Shape,
    attending: Attending,
    training: Training,
    search: Search,
    job: Job,
    devices: Devices = DEVICES,
    scoring: Scoring = SCORING,
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
    tokenize = scoring.finds_words(corpus)
    attending = attending.completed(shape.size)
    attending.check_fits(shape.size)
    training.check_dropout(shape.size)
    training.check_tested()
    course = training.course
    machine = devices.machine(job.device, course.precision)
    text = read_corpus(corpus, job.out / INDEX)
    vocabulary = KeptVocabulary(job.out, text.train, course)
    if job.resume:
        vocabulary.check_text()
    tokenizer = vocabulary.get(is_first_process(machine))
    task = Task(text, tokenizer, shape.size, course, attending, search, job.device, tokenize)
    task.check(machine)
    parts = (corpus, shape, attending, training, search, job, devices, Scoring(tokenize))
    if is_first_process(machine):
        keep_settings(job.out, parts, job.resume)
        vocabulary.keep(tokenizer, begins=not job.resume)
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
    wanted: Wanted = WANTED,
    plot_alignment: Path | None = None,
    accelerator: Accelerator = "auto",
) -> list[str]:
    """Translates a line, a file of lines, or what comes from the standard input, as it comes.

    Args:
        checkpoint: the `--out` folder of a finished `fit`.
        text: one line.
        input_file: a sentence a line.
        output_file: where to write, a translation a line; the standard output if left out.
        search: how translations are searched for.
        wanted: what is written of each line.
        plot_alignment: picture (.svg, .png) of which words the translation of `text` comes from.
        accelerator: what to compute on: cpu, gpu, or auto, which is a GPU where there is one.

    Returns:
        The best translation of each line; of a pipe, which may never end, none.

    Raises:
        ValueError: there are both a line and a file, options do not fit each other, or there is no
            such accelerator.
        FileNotFoundError: there is no translator in the folder, or no such file.
    """
    if text is not None and input_file is not None:
        raise ValueError("there are both --text and --input_file: leave one of them out")
    if text is not None:
        check_text(text, plot_alignment)
    elif plot_alignment is not None:
        raise ValueError("plot_alignment shows one line: write it with --text")
    if output_file is not None and output_file.is_dir():
        raise ValueError(f"output_file is {output_file}, which is a folder: write a file")
    if output_file is not None and input_file is not None and _is_same(output_file, input_file):
        raise ValueError(f"output_file is {output_file}, which is read: write another file")
    wanted.check_fits(search)
    translator = load_translator(checkpoint, find_device(accelerator))
    lines = [[text]] if text is not None else Lines(input_file)
    name, count = ("the text", 1) if isinstance(lines, list) else (lines.name, lines.count)
    ends = isinstance(lines, list) or lines.is_file
    best: list[str] = []
    hidden = input_file is None or (output_file is None and sys.stdout.isatty())
    with writing(output_file) as write, progress(count, hidden) as report:
        prediction = Prediction(translator, search, wanted, write, name, report)
        for chunk in lines:
            found = prediction.add(chunk)
            best += found if ends else []
    prediction.warn()
    if plot_alignment is not None and text is not None:
        plot(align_words(translator, [text], best)[0], plot_alignment)
    return best


def score(
    target_file: Path,
    hypothesis_file: Path | None = None,
    checkpoint: Path | None = None,
    source_file: Path | None = None,
    other_file: Path | None = None,
    search: Search = SEARCH,
    scoring: Scoring = SCORING,
    out: Path | None = None,
    accelerator: Accelerator = "auto",
) -> Quality:
    """Scores translations against references: those in a file, or those of a trained translator.

    Prints BLEU and chrF with the signatures of sacreBLEU, and the share of exact matches; of at
    most 20,000 lines also intervals, and of two systems whether one is better than the other.

    Args:
        target_file: references, one a line.
        hypothesis_file: translations, one a line.
        checkpoint: the `--out` folder of a finished `fit`, in place of `hypothesis_file`.
        source_file: what it is to translate, one a line.
        other_file: translations of another system, one a line, to be compared with the former.
        search: how translations are searched for.
        scoring: how they are scored.
        out: folder that gets the figures in `metrics.json`.
        accelerator: what a checkpoint computes on: cpu, gpu, or auto, which is a GPU where there is
            one.

    Raises:
        ValueError: there is no translation, or not one a reference, options do not fit each other,
            `out` is a file or has the figures of a training, or there is no such accelerator.
        FileNotFoundError: a file is missing.
    """
    if out is not None:
        check_folder_of_scores(out)
    if hypothesis_file is not None:
        refuse_what_translates(checkpoint, source_file, accelerator, search)
    tokenize, device = scoring.finds_words(), torch.device("cpu")
    references = read_lines(target_file)
    others = {} if other_file is None else {other_file: read_all(other_file)}
    if hypothesis_file is not None:
        found, how = read_all(hypothesis_file), f"translations of {hypothesis_file}"
        check_partners({hypothesis_file: found} | others, target_file, references)
    elif checkpoint is not None and source_file is not None:
        device = find_device(accelerator)
        translator = load_translator(checkpoint, device)
        sources = read_all(source_file)
        check_partners({source_file: sources} | others, target_file, references)
        with progress(len(sources), hidden=False) as report:
            prediction = Prediction(translator, search, WANTED, str, str(source_file), report)
            found = prediction.add(sources)
        prediction.warn()
        how = f"{checkpoint}, {search.protocol}"
    else:
        raise ValueError(
            "there is nothing to score: write --hypothesis_file, or --checkpoint and --source_file"
        )
    quality = measure(found, references, tokenize)
    print(quality, flush=True)
    systems = {how: found} | {str(file): lines for file, lines in others.items()}
    compared = resample(systems, references, tokenize)
    print(compared)
    if out is not None:
        write_metrics(
            out,
            quality.figures | compared.figures,
            seeds=[],
            data=str(target_file),
            split=f"{len(found):,} lines",
            protocol=f"{how}; {signature(tokenize)}",
            device=device,
            precision="32-true" if checkpoint is None else search.decoding_precision,
        )
    return quality


def check_folder_of_scores(out: Path) -> None:
    """Does nothing where figures may be written.

    Raises:
        ValueError: a training has left its own there, or it is a file.
    """
    check_folder(out)
    if any((out / name).exists() for name in (SETTINGS, HISTORY, CONFIG)):
        raise ValueError(
            f"out is {out}, which has the figures of a training: write a folder of its own"
        )


def refuse_what_translates(
    checkpoint: Path | None, source_file: Path | None, accelerator: Accelerator, search: Search
) -> None:
    """Does nothing where no option is given that only translating needs.

    Raises:
        ValueError: one is.
    """
    given = {
        "checkpoint": checkpoint is not None,
        "source_file": source_file is not None,
        "accelerator": accelerator != "auto",
        **{name: value != getattr(SEARCH, name) for name, value in vars(search).items()},
    }
    useless = next((name for name, is_given in given.items() if is_given), None)
    if useless is not None:
        raise ValueError(f"there are both --hypothesis_file and --{useless}: leave one of them out")


def read_all(path: Path) -> list[str]:
    """All lines of a file; those that are not UTF-8 are empty, with warnings."""
    return [line for chunk in Lines(path) for line in chunk]


def _is_same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.samefile(other)


def load_translator(checkpoint: Path, device: torch.device) -> Translator:
    """The translator of a finished `fit`, on a device."""
    translator = Translator.from_pretrained(checkpoint)
    translator.model.to(device)
    return translator


def check_partners(
    files: Mapping[Path, list[str]], target_file: Path, references: list[str]
) -> None:
    """Does nothing where each file has as many lines as there are references.

    Raises:
        ValueError: one has not; names both, and the first line without a partner.
    """
    for file, lines in files.items():
        if len(lines) != len(references):
            shorter = min(len(lines), len(references))
            raise ValueError(
                f"{file} has {len(lines):,} lines and {target_file} has {len(references):,}: line "
                f"i of one must belong to line i of the other (an empty line keeps its place), and "
                f"line {shorter + 1:,} has no partner"
            )


def check_text(text: str, plot_alignment: Path | None) -> None:
    """Does nothing where a line can be translated, and what it comes from drawn.

    Raises:
        ValueError: it is not UTF-8 or has several lines, or there would be no picture.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text is not UTF-8 at character {error.start + 1}: write it so, or a file with "
            "--input_file"
        ) from error
    if "\n" in text.strip():
        raise ValueError("text has several lines: write them to a file, and it to --input_file")
    if plot_alignment is None:
        return
    if not text.strip():
        raise ValueError("text is empty, and plot_alignment has nothing to show: write a line")
    if plot_alignment.suffix not in PICTURES:
        raise ValueError(
            f"plot_alignment is {plot_alignment}: write a name in {' or '.join(PICTURES)}"
        )
