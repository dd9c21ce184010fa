"""Pictures of a comparison: time and memory over density, time over length."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphformer.tasks.comparison.findings import Crossover, dense_seconds, find_crossovers
from graphformer.tasks.comparison.points import COMPLETE
from graphformer.tasks.comparison.rows import Row
from graphformer.tasks.plots import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Value = Callable[[Row], float | None]

RING: dict[str, Any] = {"s": 90, "facecolors": "none", "edgecolors": "gray"}


def plot_rows(rows: Sequence[Row], direction: str, picture: Path) -> None:
    """`picture` (.svg, .png) has a line of panels for each family of several densities, if any.

    Over density, at the longest length: the time of each backend, and its memory. Over length, if
    there are several: its time, at the densities next to the crossover. A ring is the planner's
    choice, the dashed line dense attention on the complete graph, the dotted one the crossover.
    """
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.direction == direction]
    longest = max(row.length for row in rows)
    families = families_of([row for row in rows if row.length == longest])
    if not families:
        return
    found = {each.family: each for each in find_crossovers(rows) if each.length == longest}
    columns = 3 if len({row.length for row in rows}) > 1 else 2
    figure = Figure(figsize=(4.2 * columns, 3.2 * len(families) + 0.4), layout="constrained")
    names = dict.fromkeys(row.backend for row in rows if row.seconds is not None)
    colors = {name: f"C{number}" for number, name in enumerate(names)}
    for line, family in enumerate(families):
        panels = [figure.add_subplot(len(families), columns, line * columns + number)
                  for number in range(1, columns + 1)]  # fmt: skip
        here = [row for row in rows if row.length == longest and row.family in (family, COMPLETE)]
        over_density(panels[0], here, milliseconds, colors)
        over_density(panels[1], here, megabytes, colors)
        mark_crossover(panels[0], found.get(family))
        for panel, ylabel in zip(panels, (f"ms, {direction}", "MB at the peak"), strict=False):
            panel.set(title=f"{family}, {longest:,} tokens", ylabel=ylabel)
        if columns == 3:
            of_family = [row for row in rows if row.family in (family, COMPLETE)]
            over_length(panels[2], of_family, density_between(found.get(family), here), colors)
            panels[2].set(ylabel=f"ms, {direction}")
    add_legend(figure)
    save_figure(figure, picture, 120)


def milliseconds(row: Row) -> float | None:
    """The time of a call."""
    return None if row.seconds is None else 1000 * row.seconds


def megabytes(row: Row) -> float | None:
    """The memory of a call; nothing where it was too little to be seen."""
    return row.peak_bytes / 1e6 if row.peak_bytes else None


def families_of(rows: Sequence[Row]) -> list[str]:
    """The families that have several densities."""
    densities: dict[str, set[float]] = {}
    for row in rows:
        densities.setdefault(row.family, set()).add(row.density)
    return [family for family, found in densities.items() if len(found) > 1]


def over_density(axes: Axes, rows: Sequence[Row], value: Value, colors: dict[str, str]) -> None:
    """A curve for each backend, from the rows of one family and of the complete graph."""
    sparse = [row for row in rows if row.family != COMPLETE]
    for name, color in colors.items():
        mine = [row for row in sparse if row.backend == name]
        _curve(axes, mine, lambda row: 100 * row.density, value, name, color)
    for row in whole_rows(rows):
        level = value(row)
        if level is not None:
            axes.axhline(level, color=colors["dense"], linestyle="--", label="dense, complete")
    _scale(axes, "density, %")


def over_length(axes: Axes, rows: Sequence[Row], density: float, colors: dict[str, str]) -> None:
    """A curve for each backend, of the graphs of a family that come nearest to a density."""
    sparse = [row for row in rows if row.family != COMPLETE]
    near = {
        length: min(
            (row.density for row in sparse if row.length == length),
            key=lambda found: abs(math.log(found / density)),
        )
        for length in sorted({row.length for row in sparse})
    }
    for name, color in colors.items():
        mine = [row for row in sparse if row.backend == name and row.density == near[row.length]]
        _curve(axes, mine, lambda row: row.length, milliseconds, name, color)
    whole = whole_rows(rows)
    x, y = [row.length for row in whole], [milliseconds(row) for row in whole]
    axes.plot(x, y, color=colors["dense"], linestyle="--")  # type: ignore[arg-type]
    low, high = min(near.values()), max(near.values())
    about = f"{100 * low:.2g}%" if high < 1.1 * low else f"{100 * low:.2g} to {100 * high:.2g}%"
    axes.set_title(f"{sparse[0].family}, density {about}")
    _scale(axes, "tokens")
    axes.set_xticks(sorted(near), [f"{length:,}" for length in sorted(near)])


def whole_rows(rows: Sequence[Row]) -> list[Row]:
    """Those of dense attention on the complete graph, with its time over the rounds of all rows."""
    return [
        replace(row, seconds=dense_seconds(rows, row.length, row.direction))
        for row in rows
        if row.family == COMPLETE and row.backend == "dense"
    ]


def density_between(found: Crossover | None, rows: Sequence[Row]) -> float:
    """The density whose times are shown over length: that of the crossover, or a middle one."""
    if found is not None and found.density is not None:
        return found.density
    return statistics.median_low({row.density for row in rows if row.family != COMPLETE})


def mark_crossover(axes: Axes, found: Crossover | None) -> None:
    """A dotted line at the crossover, with its density."""
    if found is not None and found.density is not None:
        at = 100 * found.density
        axes.axvline(at, color="black", linestyle=":", label="crossover")
        place = axes.get_xaxis_transform()
        axes.text(at, 0.02, f" {at:.2g}%", transform=place, ha="left", va="bottom")


def add_legend(figure: Figure) -> None:
    """One legend below the panels for what any of them shows."""
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    ring = figure.axes[0].scatter([], [], **RING)
    names = [*shown, "planner's choice"]
    handles = [*shown.values(), ring]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)


def _curve(
    axes: Axes, rows: Sequence[Row], place: Value, value: Value, name: str, color: str
) -> None:
    shown = sorted((row for row in rows if value(row) is not None), key=lambda row: place(row) or 0)
    x, y = [place(row) for row in shown], [value(row) for row in shown]
    if shown:
        axes.plot(x, y, color=color, marker=".", label=name)  # type: ignore[arg-type]
    chosen = [row for row in shown if row.chosen]
    x, y = [place(row) for row in chosen], [value(row) for row in chosen]
    axes.scatter(x, y, **RING | {"edgecolors": color})  # type: ignore[arg-type]


def _scale(axes: Axes, xlabel: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set(xscale="log", yscale="log", xlabel=xlabel)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
