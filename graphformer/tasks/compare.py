"""`graphformer compare`: dense against sparse attention, on one's own sizes and machine."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from graphformer.files import write_text
from graphformer.scores import Score
from graphformer.tasks.comparison.findings import figures_of
from graphformer.tasks.comparison.measure import Stage, measure_point
from graphformer.tasks.comparison.plot import plot_rows
from graphformer.tasks.comparison.points import Point, list_points
from graphformer.tasks.comparison.rows import FORWARD, TRAINING, Row, read_rows, write_rows
from graphformer.tasks.comparison.settings import Graphs, Sizes, Timing
from graphformer.tasks.comparison.table import report
from graphformer.tasks.comparison.trial import check
from graphformer.tasks.device import device_name
from graphformer.tasks.interruption import Interrupted
from graphformer.tasks.plots import where_installed
from graphformer.tasks.progress import somebody_watches
from graphformer.tasks.randomness import seed_everything
from graphformer.tasks.record import summarize, write_metrics
from graphformer.tasks.run import resume_hint, seed_folders
from graphformer.tasks.settings import Job, keep_settings

RESULTS = "results.csv"
REPORT = "report.txt"
PICTURES = {TRAINING: "compare.svg", FORWARD: "compare-forward.svg"}
# Seconds between two lines on how far it has come, where nobody watches.
SILENCE = 10.0


class Comparison(NamedTuple):
    """What is compared, and how."""

    sizes: Sizes
    graphs: Graphs
    timing: Timing
    points: list[Point]
    device: torch.device


def compare(job: Job, sizes: Sizes, graphs: Graphs, timing: Timing) -> dict[str, float]:
    """Measure attention over sparse graphs against attention over the complete graph.

    Takes time, forward alone and with the backward, and peak memory of every backend on every
    graph, and how far the output is from that on the complete graph. Prints the tables and the
    density below which sparse attention wins, and leaves them in `job.out` with all figures
    (`results.csv`, `metrics.json`), the settings and plots.

    Args:
        job: where, and how often.
        sizes: the attention.
        graphs: who attends to whom.
        timing: how it is measured.

    Returns:
        The figures; of several seeds their means.

    Raises:
        ValueError: a topology, score, name or size makes no sense.
        Interrupted: Ctrl-C was pressed; what was measured is kept.
    """
    device = job.device
    check(sizes, graphs, device)
    if not job.resume:
        tables = [each / RESULTS for each in [job.out, *seed_folders(job.out)]]
        for table in filter(Path.exists, tables):
            raise ValueError(f"{table} is there already: write --resume, or choose another folder")
    keep_settings(job.out, (job, sizes, graphs, timing), job.resume)
    comparison = Comparison(sizes, graphs, timing, list_points(sizes, graphs), device)
    out = Path(job.out)
    with settled(timing.threads), interruptible():
        if job.seeds == 1:
            return compare_once(comparison, out, job.seed)
        figures = [compare_once(comparison, out / f"seed-{seed}", seed) for seed in job.all_seeds]
        summary = summarize(figures)
        write_metrics(out, summary, seeds=job.all_seeds, **described(comparison))
    for name, each in summary.items():
        print(f"{name}: {each['mean']:.4g} +- {each['std']:.2g} ({job.seeds} seeds)")
    return {name: float(str(each["mean"])) for name, each in summary.items()}


def compare_once(comparison: Comparison, out: Path, seed: int) -> dict[str, float]:
    """The figures of one comparison, which leaves its files in `out`."""
    rows = measure(comparison, out / RESULTS, seed)
    text = f"{headline(comparison)}\n\n{report(rows)}"
    print(text)
    write_text(out / REPORT, text + "\n")
    figures = figures_of(rows)
    write_metrics(out, figures, seeds=[seed], **described(comparison))
    with where_installed():
        for direction, name in PICTURES.items():
            plot_rows(rows, direction, out / name)
    return figures


def measure(comparison: Comparison, table: Path, seed: int) -> list[Row]:
    """All rows; those of each graph are in the table as soon as they are measured."""
    sizes, timing = comparison.sizes, comparison.timing
    rows = read_rows(table) if table.exists() else []
    done = {row.point for row in rows}
    todo = [point for point in comparison.points if point not in done]
    seed_everything(seed, device=comparison.device)
    score = Score.parse(comparison.graphs.score)
    stage = None
    for point in watched(todo):
        if stage is None or point.length != stage.length:
            stage = Stage.make(point.length, sizes, score, timing, comparison.device, seed)
        rows += measure_point(point, stage, seed)
        write_rows(rows, table)
    return rows


def watched(points: Sequence[Point]) -> Iterator[Point]:
    """The points one after another, with a bar on a terminal and a line now and then elsewhere."""
    start = line_at = time.monotonic()
    with tqdm(points, unit="graph", file=sys.stderr, disable=not somebody_watches()) as bar:
        for number, point in enumerate(bar):
            name = f"{point.length:,} tokens, {point.topology}"
            bar.set_description_str(name)
            now = time.monotonic()
            if bar.disable and (number == 0 or now - line_at >= SILENCE):
                line_at = now
                progress = f"graph {number + 1}/{len(points)}  {now - start:.0f} s"
                print(f"{progress}  {name}", file=sys.stderr, flush=True)
            yield point


@contextmanager
def settled(num_threads: int | None) -> Iterator[None]:
    """So many threads on the CPU in the block, where collecting garbage is quick.

    What was there before is not looked through: graphs refer to themselves, so that there is
    garbage to be collected before each measurement of memory.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(before if num_threads is None else num_threads)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Says at Ctrl-C how to go on: what was measured is kept, graph by graph."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\ninterrupted; {resume_hint()}", file=sys.stderr, flush=True)
        raise Interrupted(128 + signal.SIGINT) from None


def headline(comparison: Comparison) -> str:
    """What was measured, and on what."""
    threads = torch.get_num_threads()
    return (
        f"{described(comparison)['data']}; {comparison.graphs.score}\n"
        f"on {device_name(comparison.device)}, {threads} thread{'s' * (threads > 1)}"
    )


def described(comparison: Comparison) -> dict[str, Any]:
    """What the figures are called, for `write_metrics`."""
    sizes, timing = comparison.sizes, comparison.timing
    shape = f"batch {sizes.batch}, {sizes.heads} heads of {sizes.dim}, {sizes.dtype}"
    return {
        "data": f"random walks with noise, query = key = value; {shape}",
        "split": "none",
        "protocol": (
            f"{comparison.graphs.score}; medians of up to {timing.repeats} calls of each backend "
            "in turn after one that does not count, graphs bound and planned before, at most "
            f"{timing.seconds:g} s each; crossover: where the fastest backend other than dense "
            "takes as long as dense on the complete graph in the same rounds, on straight lines "
            "between logarithms; peak_bytes: of the process (of the GPU's allocator) at the peak "
            "of a call above what it held before"
        ),
        "device": comparison.device,
        "precision": sizes.dtype,
    }
