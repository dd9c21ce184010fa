"""What `graphformer compare` stands on: crossovers, tables, graphs of a density, time, memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphformer.tasks.comparison import measure, memory
from graphformer.tasks.comparison.drawn import DRAWN, draw_edges
from graphformer.tasks.comparison.findings import (
    crossing,
    figures_of,
    find_crossovers,
    planner_ratios,
)
from graphformer.tasks.comparison.memory import peak_bytes
from graphformer.tasks.comparison.plot import plot_rows
from graphformer.tasks.comparison.points import density_at, fill_in, list_points, with_number
from graphformer.tasks.comparison.rows import FORWARD, Row
from graphformer.tasks.comparison.settings import Graphs, Sizes, Timing
from graphformer.tasks.comparison.table import report

CPU = torch.device("cpu")


def row(density: float, seconds: float | None, backend: str = "band", chosen: bool = True) -> Row:
    """A made-up measurement; dense attention on the complete graph takes a second."""
    reach = round(1000 * density)
    return Row(
        64, "window(n)", f"window({reach})", density, density, reach, 0.5, FORWARD, backend,
        chosen, seconds, seconds, 1.0, 2_500_000, "" if seconds else "too slow",
    )  # fmt: skip


@given(slope=st.floats(0.1, 3), density=st.floats(0.011, 0.49), below=st.integers(1, 3))
def test_a_crossover_between_power_laws_is_found_exactly(
    slope: float, density: float, below: int
) -> None:
    densities = [*(0.01 / 2**k for k in reversed(range(below))), 0.5, 1.0]
    ratios = [(each / density) ** slope for each in densities]
    assert crossing(densities, ratios) == pytest.approx(density, rel=1e-9)


def test_where_times_never_meet_there_is_no_crossover() -> None:
    assert crossing([0.01, 0.1], [1.5, 3.0]) is None
    assert crossing([0.01, 0.1], [0.1, 0.9]) is None
    assert crossing([0.01, 0.1, 0.2], [0.5, 1.0, 2.0]) == pytest.approx(0.1)


def test_of_several_crossings_the_last_counts() -> None:
    assert crossing([0.01, 0.02, 0.1, 0.4], [0.5, 1.1, 0.5, 2.0]) == pytest.approx(0.2)


def test_the_crossover_of_made_up_times_is_told() -> None:
    rows = [row(0.01, 0.1), row(0.1, 10.0), row(0.1, 1.0, "dense", chosen=False)]
    (found,) = find_crossovers(rows)
    assert found.density == pytest.approx(math.sqrt(0.01 * 0.1))
    assert str(found) == "window(n): sparse wins below a density of 3.16% (band)"
    assert figures_of(rows)["crossover_density of window(n), 64 tokens, forward"] == found.density


def test_the_fastest_backend_other_than_dense_is_the_sparse_path() -> None:
    rows = [row(0.01, 2.0), row(0.01, 0.5, "reference"), row(0.1, 2.0), row(0.1, 0.1, "dense")]
    (found,) = find_crossovers(rows)
    assert [each.backend for each in found.sparse] == ["reference", "band"]
    assert str(found).endswith("below a density of 3.16% (reference)")


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        ((1.5, 3.0), "sparse wins at no density measured, at 1.00% it takes 1.5 times as long"),
        ((0.1, 0.5), "sparse wins at every density measured, at 10.00% still 2 times as fast"),
    ],
)
def test_no_crossover_is_told_in_a_sentence(times: tuple[float, float], sentence: str) -> None:
    rows = [row(0.01, times[0]), row(0.1, times[1])]
    assert f"  window(n): {sentence} (band)" in report(rows)
    assert not [name for name in figures_of(rows) if name.startswith("crossover")]


def test_a_crossover_beyond_what_was_measured_is_told_as_such() -> None:
    rows = [row(0.01, 0.5), row(0.1, None, chosen=False), row(0.1, 1.0, "dense")]
    (found,) = find_crossovers(rows)
    assert found.density is None
    assert str(found).endswith(
        "at 1.00% still 2 times as fast (band); denser graphs were not measured"
    )
    (found,) = find_crossovers([row(0.01, None), row(0.1, 1.0, "dense")])
    assert str(found) == "window(n): no backend but dense was measured"


def test_a_single_density_has_no_crossover_and_the_report_says_what_it_needs() -> None:
    assert "No crossover: it needs a topology at several densities" in report([row(0.1, 0.5)])


def test_the_table_marks_the_planners_choice_and_explains_what_is_missing() -> None:
    rows = [
        row(0.1, 0.25), row(0.1, 0.125, "dense", chosen=False),
        row(0.2, None, chosen=False), row(0.2, 0.5, "dense"),
        row(0.1, None, "reference", chosen=False), row(0.2, None, "reference", chosen=False),
    ]  # fmt: skip
    text = report(rows)
    first, second = (line.split() for line in text.splitlines() if line.startswith("window("))
    assert first == ["window(100)", "10%", "100", "0.500", "250*", "125", "2.5"]
    assert second == ["window(200)", "20%", "200", "0.500", "a", "500*", "2.5"]
    assert "a: too slow" in text
    assert "reference: too slow" in text
    assert planner_ratios(rows) == [2.0, 1.0]
    assert "1.41 times as long as the fastest" in text
    assert "2.00 at worst" in text


def test_the_picture_shows_the_crossover_and_the_planners_choice(tmp_path: Path) -> None:
    rows = [row(0.01, 0.1), row(0.1, 10.0), row(0.1, 1.0, "dense", chosen=False)]
    plot_rows(rows, FORWARD, tmp_path / "picture.svg")
    picture = (tmp_path / "picture.svg").read_text("utf-8")
    for text in ("window(n), 64 tokens", "band", "crossover", "3.2%", "planner's choice"):
        assert text in picture
    plot_rows(rows[:1], FORWARD, tmp_path / "nothing.svg")
    assert not (tmp_path / "nothing.svg").exists(), "one density is no curve"


@pytest.mark.parametrize("family", ["window(n)", "strided(n)", "window(n) | global_tokens(2)"])
@given(density=st.floats(0.001, 1.0))
def test_n_stands_for_the_number_that_comes_nearest_to_the_density(
    family: str, density: float
) -> None:
    def miss(number: int) -> float:
        return abs(math.log(density_at(family, number, 30) / density))

    best = min(map(miss, range(1, 30)))
    (number,) = (n for n in range(1, 30) if with_number(family, n) == fill_in(family, 30, density))
    assert miss(number) == best


def test_densities_with_the_same_nearest_graph_give_one_graph() -> None:
    graphs = Graphs(["window(n)", 'edges("blocks")', "complete()"], densities=[1e-4, 1e-3, 0.5])
    points = list_points(Sizes(lengths=[20]), graphs)
    names = [each.topology for each in points]
    assert names == ["complete()", "window(1)", "window(5)", 'edges("blocks")', 'edges("blocks")']


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("density", [0.01, 0.3, 1.0])
def test_drawn_edges_are_distinct_in_range_and_as_many_as_asked(name: str, density: float) -> None:
    length = 50
    edges = draw_edges(name, length, density, seed=1)
    assert edges.min() >= 0
    assert edges.max() < length
    codes = edges[1] * length + edges[0]
    assert (codes.diff() > 0).all(), "sorted by query, none twice"
    assert len(codes) / length**2 == pytest.approx(density, rel=0.2, abs=1 / length)
    assert torch.equal(edges, draw_edges(name, length, density, seed=1))


def test_a_power_law_has_hubs() -> None:
    edges = draw_edges("power_law", 400, 0.01, seed=0)
    for end in edges:
        degree = end.bincount(minlength=400).sort(descending=True).values
        assert degree[0] > 5 * degree.float().mean(), (
            "the greatest of 400 has about 10 times the mean"
        )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a peak was")
@pytest.mark.parametrize("megabytes", [8, 64])
def test_the_peak_of_a_known_allocation_is_measured(megabytes: int) -> None:
    def allocate() -> torch.Tensor:
        once = torch.ones(megabytes * 2**20 // 8)
        return once + torch.ones(megabytes * 2**20 // 8)[:1]

    allocate()
    measured = peak_bytes(allocate, CPU)
    assert measured is not None
    expected = 1.5 * megabytes * 2**20
    assert abs(measured - expected) < 2**20 + 0.02 * expected


def test_memory_that_was_free_before_is_not_taken_unseen() -> None:
    def allocate() -> list[torch.Tensor]:
        # Below the size from which the C library asks the system for each piece.
        return [torch.ones(2**12) for _ in range(512)]

    first, second = (peak_bytes(allocate, CPU) for _ in range(2))
    assert first is None or abs(first - second) < 2**20


def test_where_the_system_does_not_tell_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "no" / "such")
    assert peak_bytes(lambda: None, CPU) is None


def test_a_call_that_has_used_up_its_seconds_is_left_out_of_further_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, calls = [0.0], {"slow": 0, "quick": 0}

    def taking(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            now[0] += seconds
            calls[name] += 1

        return call

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    timing = Timing(repeats=5, seconds=1.0)
    in_turn = {"slow": taking("slow", 0.75), "quick": taking("quick", 0.125)}
    assert measure.time_in_turn(in_turn, timing, CPU) == {"slow": 0.75, "quick": 0.125}
    assert calls == {"slow": 3, "quick": 6}, "one does not count"


def test_a_busy_machine_is_suspected() -> None:
    rows = [row(0.1, 0.5), row(0.3, 2.0)]
    assert "Doubtful" not in report(rows)
    disturbed = replace(rows[0], dense_seconds=1.6)
    assert "took 1e+03 to 1.6e+03 ms, so the machine was busy" in report([disturbed, rows[1]])
