"""What a benchmark measured: printed as it comes, and kept as JSON and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from timing import Demand, Run, compare, machine, readable

from graphformer.files import write_json
from graphformer.tasks.plots import save_figure, where_installed
from graphformer.tasks.record import command_line


@dataclass
class Figures:
    """The tables and demands of one run of a benchmark.

    Attributes:
        what: what the tables have in common, such as the graph.
        tables: seconds by what took them, by title, by the picture that shows them.
        demands: what was measured against a bound.
        others: further figures by name.
        about: what the tables of a picture have in common, where it is something else.
    """

    what: str
    tables: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    demands: list[Demand] = field(default_factory=list)
    others: dict[str, float] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        print(f"{machine()}\n{self.what}", flush=True)

    def compare(
        self, picture: str, title: str, runs: Mapping[str, Run], rounds: int, patience: float = 20
    ) -> dict[str, float]:
        """Median seconds of runs in turns, printed as multiples of those of the last, ours."""
        found = compare(title, runs, rounds, patience, base=list(runs)[-1])
        self.tables.setdefault(picture, {})[title] = found
        return found

    def demand(self, what: str, measured: float, limit: float, unit: str = "x") -> None:
        """Keeps what may be at most its limit."""
        self.demands.append(Demand(what, measured, limit, unit))

    def demand_least(self, what: str, measured: float, limit: float, unit: str = "x") -> None:
        """Keeps what must be at least its limit."""
        self.demands.append(Demand(what, measured, limit, unit, "at least"))

    def finish(self, out: Path | None, name: str) -> None:
        """Prints the demands, and leaves `name.json` and pictures in the folder `out`, if any."""
        if self.demands:
            print("\nDemands")
        for demand in self.demands:
            print(f"  {demand}")
        if out is None:
            return
        found: dict[str, object] = {
            "command": command_line(),
            "machine": machine(),
            "what": self.what,
            "demands": [each._asdict() | {"is_met": each.is_met} for each in self.demands],
            **self.others,
        }
        if self.tables:
            found["median_seconds"] = self.tables
        write_json(out / f"{name}.json", found)
        with where_installed():
            for picture, tables in self.tables.items():
                headline = f"{self.about.get(picture, self.what)}\n{machine()}"
                plot_bars(tables, headline, out / f"{name}-{picture}.svg")


def plot_bars(tables: Mapping[str, Mapping[str, float]], headline: str, picture: Path) -> None:
    """`picture` (.svg, .png) has a panel of bars for each table, in units of the last, ours."""
    from matplotlib.figure import Figure

    columns = 2 if len(tables) > 1 else 1
    lines = math.ceil(len(tables) / columns)
    most = max(map(len, tables.values()), default=1)
    size = (5.6 * columns, (0.9 + 0.27 * most) * lines + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(headline, fontsize=9)
    for number, (title, taken) in enumerate(tables.items(), start=1):
        axes = figure.add_subplot(lines, columns, number)
        names, values = list(taken), list(taken.values())
        colors = ["C0" if name.startswith("ours") else "C7" for name in names]
        bars = axes.barh(names, values, color=colors)
        labels = [f" {readable(each)}, {each / values[-1]:.3g}x" for each in values]
        axes.bar_label(bars, labels, fontsize=8)
        axes.set(xscale="log", xlim=(min(values) / 2, max(values) * 8))
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_formatter(lambda value, _: readable(value))
        axes.spines[["top", "right"]].set_visible(False)
        axes.invert_yaxis()
    save_figure(figure, picture, 120)
