"""Pictures of what training measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from graphformer.files import replacing
from graphformer.tasks.history import Measurement, read_history

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def where_installed() -> Iterator[None]:
    """What is drawn in the block is left out, with a notice, where matplotlib is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        print("no plots, since matplotlib is missing: pip install 'graphformer[plots]'")


def plot_history(table: Path, picture: Path) -> None:
    """`picture` (.svg, .png) shows each value of the table over the steps, losses together.

    Args:
        table: the `history.csv` of a run.
        picture: the file to write.
    """
    from matplotlib.figure import Figure

    panels = group(read_history(table))
    figure = Figure(figsize=(4.8 * max(len(panels), 1), 3.2), layout="constrained")
    for number, (title, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), number)
        for name, rows in curves.items():
            axes.plot([row.step for row in rows], [row.value for row in rows], label=name)
        axes.set(xlabel="step", title=title)
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    save_figure(figure, picture)


def save_figure(figure: Figure, picture: Path, dots_per_inch: int = 100) -> None:
    """`picture` (.svg, .png) shows the figure; in an SVG text stays text."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}), replacing(picture) as file:
        figure.savefig(file, dpi=dots_per_inch, format=picture.suffix.removeprefix("."))


def group(rows: Sequence[Measurement]) -> dict[str, dict[str, list[Measurement]]]:
    """The rows by panel (all losses share one) and by name."""
    panels: dict[str, dict[str, list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        panels["loss" if row.name.endswith("loss") else row.name][row.name].append(row)
    return panels
