"""The rows for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean

from graphformer.tasks.comparison.findings import dense_seconds, find_crossovers, planner_ratios
from graphformer.tasks.comparison.points import Point
from graphformer.tasks.comparison.rows import DIRECTIONS, Row

# So many times as long as at its best, and a call was disturbed.
BUSY = 1.5


def report(rows: Sequence[Row]) -> str:
    """All tables, by length and direction, each with its crossovers, and the planner's score."""
    parts = []
    for length in dict.fromkeys(row.length for row in rows):
        for direction in DIRECTIONS:
            here = [row for row in rows if (row.length, row.direction) == (length, direction)]
            title = f"{length:,} tokens, {direction}"
            parts.append("\n".join([title, "", *tabulate(here), "", *conclude(here)]))
    ratios = planner_ratios(rows)
    if ratios:
        parts.append(
            f"The planner's choice takes {geometric_mean(ratios):.2f} times as long as the fastest "
            f"backend measured\n(geometric mean of {len(ratios)}), {max(ratios):.2f} at worst."
        )
    return "\n\n".join(parts)


def tabulate(rows: Sequence[Row]) -> list[str]:
    """A line for each graph, of one length and direction.

    Milliseconds of each backend, with a star at the planner's choice; a letter where it was not
    measured, which is explained below; the memory of the planner's choice.
    """
    measured = {row.backend for row in rows if row.seconds is not None}
    backends = [name for name in dict.fromkeys(row.backend for row in rows) if name in measured]
    notes: dict[str, str] = {}
    head = ["topology", "density", "edges", "gap", *(f"{name} ms" for name in backends), "MB"]
    lines = [head]
    graphs: dict[Point, dict[str, Row]] = {}
    for row in rows:
        graphs.setdefault(row.point, {})[row.backend] = row
    for point, found in graphs.items():
        first = next(iter(found.values()))
        cells = [_cell(found[name], notes) for name in backends]
        chosen = next((row for row in found.values() if row.chosen), first)
        memory = "" if chosen.peak_bytes is None else f"{chosen.peak_bytes / 1e6:,.1f}"
        gap = f"{first.gap:.3f}"
        lines.append(
            [
                point.topology,
                f"{100 * first.density:.3g}%",
                f"{first.num_edges:,}",
                gap,
                *cells,
                memory,
            ]
        )
    refused = {row.backend: row.why_not for row in rows if row.backend not in measured}
    return [
        *_aligned(lines),
        "",
        "*: the planner's choice, whose memory is given",
        *(f"{letter}: {why}" for why, letter in notes.items()),
        *(f"{name}: {why}" for name, why in refused.items()),
    ]


def conclude(rows: Sequence[Row]) -> list[str]:
    """The crossovers of one length and direction, a line each."""
    found = find_crossovers(rows)
    if not found:
        return [
            "No crossover: it needs a topology at several densities, such as window(n), and a "
            "backend other than dense that runs it within the patience."
        ]
    dense = dense_seconds(rows, found[0].length, found[0].direction)
    times = [row.dense_seconds for row in rows]
    doubt = []
    if max(times) > BUSY * min(times):
        doubt = [
            f"Doubtful: dense on the complete graph took {1000 * min(times):.3g} to "
            f"{1000 * max(times):.3g} ms, so the machine was busy with something else; measure "
            "again when it is quiet."
        ]
    return [
        *doubt,
        f"Against dense on the complete graph ({1000 * dense:.3g} ms):",
        *(f"  {each}" for each in found),
    ]


def _cell(row: Row, notes: dict[str, str]) -> str:
    mark = "*" if row.chosen else " "
    if row.seconds is not None:
        return f"{1000 * row.seconds:.4g}{mark}"
    # One note for all graphs that differ in their numbers only.
    reason = row.why_not.replace(row.topology, row.family)
    letter = notes.setdefault(reason, _letter(len(notes)))
    return f"{letter}{mark}"


def _letter(number: int) -> str:
    """One letter, and two from the 27th on."""
    before, last = divmod(number, 26)
    return ("" if before == 0 else _letter(before - 1)) + "abcdefghijklmnopqrstuvwxyz"[last]


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = []
    for first, *others in lines:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        aligned.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return aligned
