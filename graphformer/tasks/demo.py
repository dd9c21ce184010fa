"""The command `graphformer demo`: the main jobs on embedded data, and a report of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphformer.data.text_lines import read_lines
from graphformer.tasks import compare, nodes, translate
from graphformer.tasks.classification.network import Network
from graphformer.tasks.classification.network import Training as NodeTraining
from graphformer.tasks.classification.source import Source
from graphformer.tasks.comparison.findings import find_crossovers
from graphformer.tasks.comparison.rows import TRAINING, read_rows
from graphformer.tasks.comparison.settings import Graphs, Sizes, Timing
from graphformer.tasks.record import cpu_name, read_figures
from graphformer.tasks.report import Section, Table, write_report
from graphformer.tasks.settings import Job
from graphformer.tasks.translation.corpus import read_corpus
from graphformer.tasks.translation.settings import Attending, Corpus, Shape, Training

REPORT = "index.html"
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
    """Translates dates, classifies nodes and compares dense with sparse attention; reports.

    The report is `index.html` in `out`, beside a folder for each part. What an earlier call has
    done there is not done again.

    Args:
        out: folder of the report.
        seed: of all that is random.
    """
    start = time.monotonic()
    parts: list[tuple[str, Callable[[Path, int], Section]]] = [
        ("dates", translate_dates),
        ("digits", classify_digits),
        ("compare", compare_attention),
    ]
    sections = []
    for number, (name, part) in enumerate(parts, start=1):
        print(f"\n== {number} of {len(parts)}: {name} ==", flush=True)
        sections.append(part(out / name, seed))
    report = out / REPORT
    seconds = time.monotonic() - start
    lead = (
        "Attention is message passing: a key sends its value to a query along an edge. The same "
        "layers translated, classified the nodes of a graph, and were measured over dense and "
        f"sparse graphs, in {seconds:.0f} seconds on {cpu_name()}."
    )
    write_report(report, "graphformer", lead, sections)
    print("\n" + "\n".join(f"{section.title}: {section.result}" for section in sections))
    print(f"\n{seconds:.0f} s; the report is {report}")
    return report


def translate_dates(out: Path, seed: int) -> Section:
    """German dates and times into English, character by character."""
    corpus = Corpus()
    job = Job(out, seed=seed, resume=True)
    figures = translate.fit(corpus, Shape(), Attending(), Training(), translate.SEARCH, job)
    text = read_corpus(corpus)
    found = read_lines(out / translate.HYPOTHESES)
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
        [Table(["German", "English, by the model", "English"], rows[:NUM_SAMPLES])],
        pictures=[(out / translate.CURVES, "Losses and quality on dates kept for validation")],
        command="graphformer translate fit --out runs/dates",
    )


def classify_digits(out: Path, seed: int) -> Section:
    """The digits of scikit-learn, each joined to its nearest, ten labels a class."""
    rows, accuracy = [], {}
    for model, meaning in MODELS.items():
        job = Job(out / model, seeds=NUM_SEEDS, seed=seed, resume=True)
        nodes.fit(job, Source(), Network(model), NodeTraining())
        measured = read_figures(job.out)["test_accuracy"]
        accuracy[model] = measured["mean"]
        spread = f"{percent(measured['mean'])} +- {100 * measured['std']:.1f}"
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
    compare.compare(Job(out, seed=seed, resume=True), Sizes(), Graphs(), Timing())
    rows = read_rows(out / compare.RESULTS)
    longest = max(row.length for row in rows)
    found = [
        each
        for each in find_crossovers(rows)
        if (each.length, each.direction) == (longest, TRAINING)
    ]
    return Section(
        "Dense and sparse attention",
        f"Training over {longest:,} tokens, against the complete graph: "
        + "; ".join(map(str, found)),
        [
            "What it costs: the time of each backend on each graph, and of dense attention on the "
            "complete one. What it loses: the gap is how far the output moves when edges go.",
        ],
        listing=(out / compare.REPORT).read_text("utf-8"),
        pictures=[(out / compare.PICTURES[TRAINING], "Time over density, forward and backward")],
        command="graphformer compare --out runs/compare",
    )


def percent(share: Any) -> str:
    """A share of 1 in percent."""
    return f"{100 * float(share):.1f} %"
