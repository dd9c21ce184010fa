"""How close the planner's choice comes to the fastest backend, from 0.1% to all of the pairs.

    python benchmarks/planner.py --out runs/planner            # about half an hour on two cores
    python benchmarks/planner.py --densities 0.01 0.1

It is `graphformer compare` on four families of graphs, with demands on what it finds: medians, in
turns. The folder, if one is given, gets all that `compare` leaves: results.csv, metrics.json, the
report and plots. Given the folder of a run that was interrupted and --resume, it goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory

from timing import Demand, machine

from graphformer.tasks.compare import RESULTS, compare
from graphformer.tasks.comparison.findings import planner_ratios
from graphformer.tasks.comparison.rows import TRAINING, Row, read_rows
from graphformer.tasks.comparison.settings import Graphs, Sizes, Timing
from graphformer.tasks.settings import Job

FAMILIES = ["window(n)", 'edges("random")', 'edges("blocks")', 'edges("power_law")']
DENSITIES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for figures and plots")
    parser.add_argument("--resume", action="store_true", help="go on with what is in the folder")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=3, help="after which a call is not repeated"
    )
    parser.add_argument(
        "--patience", type=float, default=4, help="seconds that a call may take by prediction"
    )
    given = parser.parse_args()
    print(machine(), flush=True)
    with TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        try:
            compare(
                Job(out, resume=given.resume, accelerator="cpu"),
                Sizes([given.tokens], heads=8, dim=64),
                Graphs(given.families, given.densities),
                Timing(given.rounds, given.seconds, given.patience),
            )
        except ValueError as error:
            parser.error(str(error))
        rows = [row for row in read_rows(out / RESULTS) if row.direction == TRAINING]
    print_points(rows)
    ratios = planner_ratios(rows)
    what = f"{TRAINING}, the planner's choice over the fastest"
    print("\nDemands")
    print(f"  {Demand(f'{what}, at worst of {len(ratios)}', max(ratios), 1.25)}")
    print(f"  {Demand(f'{what}, geometric mean', geometric_mean(ratios), 1.1)}")


def print_points(rows: Sequence[Row]) -> None:
    """A line for each graph: what was chosen, what was fastest, and how far they are apart."""
    print(f"\n{TRAINING}: the planner's choice, predicted and measured, and the fastest")
    for point in dict.fromkeys(row.point for row in rows):
        measured = {row: row.seconds for row in rows if row.point == point and row.seconds}
        fastest = min(measured, key=measured.__getitem__)
        chosen = next(row for row in measured if row.chosen)
        print(
            f"  {point.topology:<20} {chosen.density:8.3%}"
            f"  {chosen.backend:<9} {chosen.predicted or 0:8.4f} {measured[chosen]:8.4f} s"
            f"   {fastest.backend:<9} {measured[fastest]:8.4f} s"
            f"  {measured[chosen] / measured[fastest]:5.2f}x"
        )


if __name__ == "__main__":
    main()
