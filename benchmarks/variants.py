"""What each kind of attention costs and gains in translation: the same command, other settings.

    python benchmarks/variants.py --minutes 20 --out runs/variants -- --data multi30k --data_dir DIR
    python benchmarks/variants.py --only transformer,lstm --minutes 2 --out runs/dates

What stands behind `--` is given to every `graphformer translate fit`. Each variant is trained in a
process of its own, one after another, with the same seed and for as long; the table is written
anew after each, as `variants.md` and `variants.csv` in `--out`. What has been trained there is not
trained again, and an interrupted training goes on.

Columns: BLEU on validation and test, beam search; target tokens a second of training, the median
over stretches without a validation (nan where there was not more than an epoch to tell it by); the
most memory that the training process held; sentences of the validation translated a second, in
this process.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from graphformer.data.parallel import TextSplits
from graphformer.files import write_json
from graphformer.machine import cpu_name
from graphformer.options import arguments_of, make_parser, parse
from graphformer.tasks import translate
from graphformer.tasks.history import Measurement, read_history
from graphformer.tasks.record import METRICS, read_figures
from graphformer.tasks.run import HISTORY
from graphformer.tasks.translation.corpus import read_corpus
from graphformer.tasks.translation.scores import measure
from graphformer.tasks.translation.translator import Translator

SPARSE = "window(8) | global_tokens(1)"


def of_distance(score: str) -> dict[str, str]:
    """Options of a model that attends by a distance between query and key."""
    turned = f"Rotary({score})"
    return {"encoder.score": turned, "decoder.score": turned, "cross.score": score}


VARIANTS: dict[str, dict[str, str]] = {
    "transformer": {},
    "sinusoidal": {"positions": "sinusoidal"},
    "windows": {"encoder.topology": SPARSE, "decoder.topology": SPARSE},
    "gaussian": of_distance("Gaussian(2.4)"),
    "narrow": of_distance("Gaussian()"),
    "convolution": {
        "encoder.feed_forward": "convolution(3)",
        "decoder.feed_forward": "convolution(3)",
    },
    "lstm": {"model": "lstm", "layers": "1"},  # about as many parameters as the others
}
PEAK = "peak.json"


class Row(NamedTuple):
    """What one variant costs and gains."""

    variant: str
    options: str
    parameters: int
    validation_bleu: float
    test_bleu: float
    tokens_per_second: float
    peak_megabytes: float
    sentences_per_second: float


def main() -> None:
    own, given = sys.argv[1:], []
    if "--" in own:
        own, given = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, each")
    parser.add_argument("--only", default=",".join(VARIANTS), help="variants, with commas")
    options = parser.parse_args(own)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in VARIANTS]:
        parser.error(f"--only has {', '.join(unknown)}: write some of {', '.join(VARIANTS)}")
    given = ["--minutes", f"{options.minutes:g}", *given]
    told = settings_of([*given, "--out", str(options.out / "none")])
    text = read_corpus(told["corpus"])
    rows = []
    for name in names:
        folder = options.out / name
        train(folder, [*given, *words_of(VARIANTS[name])])
        rows.append(describe(name, folder, text, told))
        write(options.out, rows, options.minutes)
    print((options.out / "variants.md").read_text("utf-8"))


def settings_of(words: list[str]) -> dict[str, Any]:
    """What every training is told."""
    parser = make_parser("graphformer translate fit", translate.fit)
    return arguments_of(translate.fit, parse(parser, translate.fit, words))


def words_of(options: dict[str, str]) -> list[str]:
    """The options as one types them, but for quotes."""
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def train(folder: Path, words: list[str]) -> None:
    """Trains in a process of its own, unless that was done; keeps the most memory it held."""
    if (folder / METRICS).exists():
        return
    command = [sys.executable, "-m", "graphformer", "translate", "fit", "--out", str(folder)]
    process = subprocess.Popen([*command, *words, "--resume"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"training {folder.name} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    write_json(folder / PEAK, {"bytes": usage.ru_maxrss * unit})


def describe(name: str, folder: Path, text: TextSplits, told: dict[str, Any]) -> Row:
    """The row of a variant that was trained."""
    search, tokenize = told["search"], told["scoring"].finds_words(told["corpus"])
    translator = Translator.from_pretrained(folder)
    sources, references = map(list, zip(*text.validation, strict=True))
    # A first time for plans, and for memory that was not there before.
    translator.translate(sources, search.beam, search.length_penalty)
    start = time.perf_counter()
    found = translator.translate(sources, search.beam, search.length_penalty)
    seconds = time.perf_counter() - start
    targets = [target for _, target in text.train]
    tokens = sum(len(each.ids) + 1 for each in translator.target_tokenizer.encode_batch(targets))
    return Row(
        name,
        " ".join(f'--{option} "{value}"' for option, value in VARIANTS[name].items()),
        sum(each.numel() for each in translator.model.parameters()),
        measure(found, references, tokenize).figures["bleu"],
        read_figures(folder)["bleu"],
        tokens * epochs_per_second(read_history(folder / HISTORY)),
        peak_of(folder),
        len(sources) / seconds,
    )


def epochs_per_second(rows: list[Measurement]) -> float:
    """How fast training went between validations."""
    ends = [row.step for row in rows if row.name == "validation_loss"]
    losses = [row for row in rows if row.name == "train_loss"]
    speeds = [
        (after.step - before.step) / (after.seconds - before.seconds)
        for before, after in itertools.pairwise(losses)
        if after.step not in ends and after.step > before.step
    ]
    # A first validation that nothing follows came at the end of the budget, not of an epoch.
    if not speeds or losses[-1].step <= ends[0]:
        return float("nan")
    return statistics.median(speeds) / ends[0]


def peak_of(folder: Path) -> float:
    """The most memory that the training held, in MB."""
    file = folder / PEAK
    return json.loads(file.read_text("utf-8"))["bytes"] / 1e6 if file.exists() else float("nan")


def write(out: Path, rows: list[Row], minutes: float) -> None:
    """The table, as Markdown and as CSV."""
    machine = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    lines = [
        f"{minutes:g} minutes of training each, on {machine}.",
        "",
        "| variant | options | parameters | BLEU, validation | BLEU, test | target tokens/s "
        "| peak memory | sentences/s, by beam search |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        options = f"`{row.options}`".replace("|", "\\|") if row.options else ""
        lines.append(
            f"| {row.variant} | {options} | {row.parameters:,} | {row.validation_bleu:.2f} "
            f"| {row.test_bleu:.2f} | {row.tokens_per_second:,.0f} | {row.peak_megabytes:,.0f} MB "
            f"| {row.sentences_per_second:,.1f} |"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "variants.md").write_text("\n".join(lines) + "\n", "utf-8")
    with (out / "variants.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([Row._fields, *rows])


if __name__ == "__main__":
    main()
