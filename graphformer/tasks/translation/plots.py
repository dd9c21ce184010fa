"""Pictures of translations."""

from __future__ import annotations

from pathlib import Path

from graphformer.tasks.plots import save_figure
from graphformer.tasks.translation.alignment import Alignment


def plot_alignment(alignment: Alignment, picture: Path) -> None:
    """`picture` (.svg, .png) shows how much each word attends to each word of the source.

    Args:
        alignment: of one line.
        picture: the file to write.
    """
    from matplotlib.figure import Figure

    source, target, weights = alignment
    # Inches a cell, and a letter of the longest word beside them.
    width = 0.6 + 0.45 * len(source) + 0.1 * max(map(len, target), default=0)
    height = 0.6 + 0.35 * len(target) + 0.1 * max(map(len, source), default=0)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(weights.numpy(), cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(source)), source, rotation=60, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(target)), target)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    save_figure(figure, picture)
