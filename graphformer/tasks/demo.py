"""The command `graphformer demo`: the main jobs on embedded data, and a report of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from graphformer.data.text_lines import split_lines
from graphformer.files import write_json
from graphformer.machine import cpu_name
from graphformer.tasks import compare, nodes, translate
from graphformer.tasks.classification.network import Network
from graphformer.tasks.classification.network import Training as NodeTraining
from graphformer.tasks.classification.source import Source
from graphformer.tasks.comparison.findings import find_crossovers
from graphformer.tasks.comparison.points import Point
from graphformer.tasks.comparison.rows import TRAINING, Row, read_rows
from graphformer.tasks.comparison.settings import Graphs, Sizes, Timing
from graphformer.tasks.record import read_figures
from graphformer.tasks.report import Section, Table, write_report
from graphformer.tasks.settings import SETTINGS, Job, check_folder
from graphformer.tasks.translation.attending import Attending
from graphformer.tasks.translation.corpus import read_corpus
from graphformer.tasks.translation.settings import Corpus, Shape, Training
from graphformer.tasks.translation.task import CURVES, HYPOTHESES

REPORT = "index.html"
TIME = "time.json"
NUM_SAMPLES = 12

# The settings of one block, and the control that hears nobody.
MODELS = {
    "mlp": "hears nobody: the control",
    "gcn": "averages its neighbors, by their degrees",
    "gat": "learns whom to hear, from each end of an edge",
    "transformer": "learns whom to hear, from both ends together",
}
NUM_SEEDS = 3


def demo(out: Path = Path("demo"), seed: int = 0) -> Path:
    """Reports on embedded data what the other commands do; the same command again goes on.

    Dates are translated, nodes classified, dense and sparse attention compared.

    The report is `index.html` in `out`, beside a folder for each part. What an earlier call has
    done there is not done again: after an interruption the same command goes on.

    Args:
        out: folder of the report.
        seed: of all that is random.
    """
    check_folder(out)
    parts: list[tuple[str, Callable[[Path, int], Section]]] = [
        ("dates", translate_dates),
        ("digits", classify_digits),
        ("compare", compare_attention),
    ]
    sections, seconds = [], 0.0
    for number, (name, part) in enumerate(parts, start=1):
        print(f"\n== {number} of {len(parts)}: {name} ==", flush=True)
        with timed(out / name / TIME):
            sections.append(part(out / name, seed))
        seconds += read_time(out / name / TIME).seconds
    report = out / REPORT
    lead = (
        "Attention is message passing: a key sends its value to a query along an edge. The same "
        "layers translated, classified the nodes of a graph, and were measured over dense and "
        f"sparse graphs, in {seconds:.0f} seconds on {cpu_name()}."
    )
    write_report(report, "graphformer", lead, sections)
    print("\n" + "\n".join(f"{section.title}: {section.result}" for section in sections))
    print(f"\n{seconds:.0f} s of work; the report is {report}")
    return report


class Time(NamedTuple):
    """What a part has taken, in all calls until it was done.

    Attributes:
        seconds: so far.
        is_done: whether it was done, and a further call only looks it up.
    """

    seconds: float = 0.0
    is_done: bool = False


@contextmanager
def timed(file: Path) -> Iterator[None]:
    """Adds the time of the block to that in the file, unless the part was done before."""
    before, start, is_done = read_time(file), time.monotonic(), False
    try:
        yield
        is_done = True
    finally:
        if not before.is_done and file.parent.exists():
            now = Time(before.seconds + time.monotonic() - start, is_done)
            write_json(file, now._asdict())


def read_time(file: Path) -> Time:
    """The time in a file; none where there is no file, or none that can be read."""
    try:
        return Time(**json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return Time()


def is_begun(out: Path) -> bool:
    """Whether there is a run in the folder to go on with."""
    return (out / SETTINGS).exists()


def translate_dates(out: Path, seed: int) -> Section:
    """German dates and times into English, character by character."""
    corpus = Corpus()
    job = Job(out, seed=seed, resume=is_begun(out))
    figures = translate.fit(corpus, Shape(), Attending(), Training(), translate.SEARCH, job)
    text = read_corpus(corpus)
    # A translator that was hardly trained may have written nothing in any line.
    found = split_lines((out / HYPOTHESES).read_bytes().decode())
    rows = [
        [source, translation, "right" if translation == reference else reference]
        for (source, reference), translation in zip(text.test, found, strict=True)
    ]
    return Section(
        "Sequence to sequence",
        f"{percent(figures['exact_match'])} of {len(rows):,} dates of years that training never "
        "saw are translated without a fault.",
        [
            "A sentence is a complete graph, its translation a causal one, and a bipartite graph "
            "joins them. Sentences of all lengths lie in one flat list, without padding.",
        ],
        [Table(["German", "English, by the model", "reference"], rows[:NUM_SAMPLES])],
        pictures=[(out / CURVES, "Losses and quality on dates kept for validation")],
        command="graphformer translate fit --out runs/dates",
    )


def classify_digits(out: Path, seed: int) -> Section:
    """The digits of scikit-learn, each joined to its nearest, ten labels a class."""
    rows, accuracy = [], {}
    for model, meaning in MODELS.items():
        job = Job(out / model, seeds=NUM_SEEDS, seed=seed, resume=is_begun(out / model))
        nodes.fit(job, Source(), Network(model), NodeTraining())
        measured = read_figures(job.out)["test_accuracy"]
        accuracy[model] = measured["mean"]
        spread = f"{percent(measured['mean'])} ± {100 * measured['std']:.1f}"
        rows.append([model, meaning, spread])
    graph_models = [model for model in MODELS if model != "mlp"]
    gain = min(accuracy[model] for model in graph_models) - accuracy["mlp"]
    best = max(graph_models, key=accuracy.__getitem__)
    return Section(
        "Nodes of a graph",
        f"Hearing its neighbors is worth at least {100 * gain:.1f} points to a node: "
        f"{percent(accuracy[best])} ({best}) against {percent(accuracy['mlp'])} without edges.",
        [
            "GCN, GAT and the graph Transformer are settings of one block over the same edges: a "
            f"score that the graph fixes, a sum of two terms, a dot product. Mean of {NUM_SEEDS} "
            "seeds and standard deviation, test nodes, at the best epoch by validation.",
        ],
        [Table(["model", "a node", "accuracy"], rows)],
        pictures=[(out / best / f"seed-{seed}" / nodes.CLASSES, f"What {best} makes of the nodes")],
        command=f"graphformer nodes fit --model {best} --seeds {NUM_SEEDS} --out runs/digits",
    )


def compare_attention(out: Path, seed: int) -> Section:
    """Dense attention against sparse, over topologies and densities."""
    compare.compare(Job(out, seed=seed, resume=is_begun(out)), Sizes(), Graphs(), Timing())
    rows = read_rows(out / compare.RESULTS)
    here = (max(row.length for row in rows), TRAINING)
    found = [each for each in find_crossovers(rows) if (each.length, each.direction) == here]
    costs = Table(
        ["who attends to whom", "share of the pairs", "gap", "fastest", "time", "dense, complete"],
        cost_of_each_graph([row for row in rows if (row.length, row.direction) == here]),
    )
    return Section(
        "Dense and sparse attention",
        f"Training over {here[0]:,} tokens, against the complete graph: "
        + "; ".join(map(str, found)),
        [
            "What it costs: the time of the fastest backend on each graph, beside that of dense "
            "attention on the complete one, forward and backward. What it loses: the gap is how "
            f"far the output moves when edges go. {out.name}/{compare.REPORT} beside this page has "
            "the tables of all backends, lengths and directions.",
        ],
        [costs],
        pictures=[(out / compare.PICTURES[TRAINING], "Time over density, forward and backward")],
        command="graphformer compare --out runs/compare",
    )


def cost_of_each_graph(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of each graph: the fastest backend, and what dense attention takes."""
    graphs: dict[Point, list[Row]] = {}
    for row in rows:
        if row.seconds is not None:
            graphs.setdefault(row.point, []).append(row)
    cells = []
    for point, measured in graphs.items():
        best = min(measured, key=lambda row: row.seconds or 0.0)
        times = [milliseconds(best.seconds), milliseconds(best.dense_seconds)]
        share = f"{100 * best.density:.3g} %"
        cells.append([point.topology, share, f"{best.gap:.3f}", best.backend, *times])
    return cells


def milliseconds(seconds: float | None) -> str:
    """The time in milliseconds, to three digits."""
    return f"{1000 * (seconds or 0.0):.3g} ms"


def percent(share: Any) -> str:
    """A share of 1 in percent."""
    return f"{100 * float(share):.1f} %"
