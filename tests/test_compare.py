"""`graphformer compare`: what it measures, leaves behind, goes on from, and refuses."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from graphformer import backends
from graphformer.backends import BACKENDS, name_of, reference
from graphformer.planner import constants
from graphformer.tasks import compare as command
from graphformer.tasks.compare import compare
from graphformer.tasks.comparison import measure, trial
from graphformer.tasks.comparison.points import Point, list_points
from graphformer.tasks.comparison.rows import DIRECTIONS, Row, read_rows
from graphformer.tasks.comparison.settings import Graphs, Sizes, Timing
from graphformer.tasks.settings import Job

SIZES = Sizes(lengths=[16, 24], batch=2, heads=2, dim=4)
GRAPHS = Graphs(topologies=["window(n)", 'edges("random")', "causal()"], densities=[0.2, 0.5])
TIMING = Timing(repeats=1, threads=1)
# Of each length: the complete graph, two windows, two random graphs, the causal one.
NUM_GRAPHS = 6


class Finished:
    """A comparison of tiny sizes, with what it printed."""

    def __init__(self, out: Path, figures: dict[str, float], printed: str) -> None:
        self.out, self.figures, self.printed = out, figures, printed
        self.rows = read_rows(out / "results.csv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *text, **_: printed.extend(map(str, text)))
        figures = compare(Job(out, accelerator="cpu"), SIZES, GRAPHS, TIMING)
    return Finished(out, figures, "\n".join(printed))


def test_every_backend_has_a_row_for_every_graph_and_direction(finished: Finished) -> None:
    names = [name_of(backend) for backend in BACKENDS]
    found = [(each.point, each.direction, each.backend) for each in finished.rows]
    points = list_points(SIZES, GRAPHS)
    expected = [(p, direction, name) for p in points for direction in DIRECTIONS for name in names]
    assert len(points) == 2 * NUM_GRAPHS
    assert found == expected


def test_a_backend_is_measured_or_says_why_not(finished: Finished) -> None:
    for each in finished.rows:
        assert (each.seconds is None) == bool(each.why_not), each
        assert each.seconds is None or each.seconds > 0
    kernels = [each for each in finished.rows if each.backend == "linear"]
    assert all("a softmax looks at each score" in each.why_not for each in kernels)


def test_the_planner_chooses_one_backend_for_each_graph(finished: Finished) -> None:
    chosen = [(each.point, each.direction) for each in finished.rows if each.chosen]
    assert len(chosen) == len(set(chosen)) == 2 * NUM_GRAPHS * len(DIRECTIONS)


def test_the_backend_that_the_planner_picks_is_the_one_that_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick = backends.pick
    monkeypatch.setattr(backends, "pick", lambda request: (reference, pick(request)[1]))
    compare(Job(tmp_path, accelerator="cpu"), Sizes(lengths=[8]), Graphs(["causal()"]), TIMING)
    rows = read_rows(tmp_path / "results.csv")
    assert {each.backend for each in rows if each.chosen} == {"reference"}


def test_the_complete_graph_has_no_gap_to_itself_and_others_have_one(finished: Finished) -> None:
    for each in finished.rows:
        if each.topology == "complete()":
            assert each.gap == 0.0
        else:
            assert 0.01 < each.gap < 2


def test_edges_and_density_are_those_of_the_batch(finished: Finished) -> None:
    causal = [each for each in finished.rows if each.topology == "causal()"]
    assert {each.num_edges for each in causal} == {2 * 16 * 17 // 2, 2 * 24 * 25 // 2}
    for each in finished.rows:
        assert each.density == pytest.approx(each.num_edges / (2 * each.length**2))


def test_the_table_has_a_line_for_every_graph(finished: Finished) -> None:
    for length in SIZES.lengths:
        for direction in DIRECTIONS:
            assert f"{length} tokens, {direction}\n" in finished.printed
    for point in list_points(SIZES, GRAPHS):
        lines = [line for line in finished.printed.splitlines() if line.startswith(point.topology)]
        assert len(lines) >= len(DIRECTIONS)
    assert (finished.out / "report.txt").read_text("utf-8").strip() in finished.printed
    assert "The planner's choice takes" in finished.printed


def test_the_folder_has_settings_figures_and_results(finished: Finished) -> None:
    settings = yaml.safe_load((finished.out / "settings.yaml").read_text("utf-8"))
    assert settings["lengths"] == [16, 24]
    assert settings["topologies"] == GRAPHS.topologies
    metrics = json.loads((finished.out / "metrics.json").read_text("utf-8"))
    assert metrics["figures"] == finished.figures
    assert metrics["seeds"] == [0]
    assert "batch 2, 2 heads of 4, float32" in metrics["data"]
    assert metrics["machine"]["precision"] == "float32"
    assert metrics["planner"], "the plans depend on it"
    kept = metrics["planner"]["executors"]
    assert kept.items() <= constants()["executors"].items()
    assert "medians of up to 1 calls" in metrics["protocol"]
    with (finished.out / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(finished.rows)


def test_the_figures_have_the_dense_times_and_the_planners_score(finished: Finished) -> None:
    assert finished.figures["planner_over_fastest"] >= 1
    for length in SIZES.lengths:
        for direction in DIRECTIONS:
            assert f"dense_seconds of complete(), {length} tokens, {direction}" in finished.figures


def test_the_pictures_show_every_family_and_the_crossover(finished: Finished) -> None:
    for name in ("compare.svg", "compare-forward.svg"):
        picture = (finished.out / name).read_text("utf-8")
        for text in ("window(n), 24 tokens", "density, %", "tokens", "dense, complete", "MB"):
            assert text in picture


def test_without_matplotlib_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    graphs = Graphs(['edges("random")'], densities=[0.2, 0.5])
    compare(Job(tmp_path, accelerator="cpu"), Sizes(lengths=[8]), graphs, TIMING)
    assert "no plots, since matplotlib is missing: pip install 'graph" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.svg"))


def test_a_resumed_comparison_measures_only_what_is_missing(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("settings.yaml", "results.csv"):
        (tmp_path / name).write_bytes((finished.out / name).read_bytes())
    lines = (tmp_path / "results.csv").read_text("utf-8").splitlines(keepends=True)
    of_last = len(BACKENDS) * len(DIRECTIONS)
    (tmp_path / "results.csv").write_text("".join(lines[:-of_last]), "utf-8")
    again: list[Point] = []
    measure_point = measure.measure_point

    def remember(point: Point, stage: measure.Stage, seed: int) -> list[Row]:
        again.append(point)
        return measure_point(point, stage, seed)

    monkeypatch.setattr(command, "measure_point", remember)
    compare(Job(tmp_path, resume=True, accelerator="cpu"), SIZES, GRAPHS, TIMING)
    assert again == [list_points(SIZES, GRAPHS)[-1]]
    assert len(read_rows(tmp_path / "results.csv")) == len(finished.rows)
    with pytest.raises(ValueError, match="repeats 1 \\(now 2\\): a run is resumed with the"):
        compare(Job(tmp_path, resume=True), SIZES, GRAPHS, replace(TIMING, repeats=2))


def test_an_interrupted_comparison_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure_point = measure.measure_point

    def interrupted(point: Point, stage: measure.Stage, seed: int) -> list[Row]:
        if point.topology != "complete()":
            raise KeyboardInterrupt
        return measure_point(point, stage, seed)

    monkeypatch.setattr(command, "measure_point", interrupted)
    with pytest.raises(SystemExit, match="130"):
        compare(Job(tmp_path, accelerator="cpu"), SIZES, GRAPHS, TIMING)
    assert "interrupted; go on with it by" in capsys.readouterr().err
    kept = read_rows(tmp_path / "results.csv")
    assert {each.topology for each in kept} == {"complete()"}


def test_several_seeds_give_means_and_a_folder_each(tmp_path: Path) -> None:
    job = Job(tmp_path, seeds=2, seed=3, accelerator="cpu")
    graphs = Graphs(['edges("random")'], densities=[0.5])
    figures = compare(job, Sizes(lengths=[8]), graphs, TIMING)
    metrics = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert metrics["seeds"] == [3, 4]
    for name, value in figures.items():
        assert metrics["figures"][name]["mean"] == value
        assert len(metrics["figures"][name]["values"]) == 2
    gaps = [read_rows(tmp_path / f"seed-{seed}" / "results.csv")[-1].gap for seed in (3, 4)]
    assert gaps[0] != gaps[1], "a seed draws other graphs and other tokens"


def test_what_is_predicted_to_take_longer_than_the_patience_is_left_out(tmp_path: Path) -> None:
    timing = replace(TIMING, patience=1e-9)
    compare(Job(tmp_path, accelerator="cpu"), Sizes(lengths=[16]), Graphs(["causal()"]), timing)
    for each in read_rows(tmp_path / "results.csv"):
        assert (each.seconds is not None) == each.chosen
        if each.backend == "reference":
            assert "longer than the patience" in each.why_not


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: Sizes(lengths=[]), "lengths is empty: write at least one number of tokens"),
        (lambda: Sizes(lengths=[512, 1]), "lengths has 1: attention is compared over at least 2"),
        (lambda: Sizes(heads=0), "heads is 0: write a number of at least 1"),
        (lambda: Sizes(dim=-1), "dim is -1: write a number of at least 1"),
        (lambda: Sizes(batch=0), "batch is 0: write a number of at least 1"),
        (
            lambda: Sizes(dtype="float8"),
            "dtype is 'float8': write one of float32, float64, bfloat16, float16",
        ),
        (lambda: Graphs(topologies=[]), "topologies is empty: write at least one to compare"),
        (lambda: Graphs(densities=[0.1, 1.5]), "write shares of all pairs, above 0 and up to 1"),
        (lambda: Graphs(densities=[]), "write shares of all pairs, above 0 and up to 1"),
        (lambda: Timing(repeats=0), "repeats is 0: write a number of at least 1"),
        (lambda: Timing(seconds=0.0), "seconds is 0.0: write a number above 0"),
        (lambda: Timing(patience=-1.0), "patience is -1.0: write a number above 0"),
        (lambda: Timing(threads=0), "threads is 0: write a number of at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings()


@pytest.mark.parametrize(
    ("graphs", "message"),
    [
        (Graphs(["widow(n)"]), "^topologies: unknown name 'widow' in the topology 'widow\\(n\\)'"),
        (Graphs(["window(n"]), "^topologies: cannot read the topology 'window\\(n' at column 7"),
        (Graphs(['edges("bonds")']), "edges 'bonds', which are not drawn here; known are random"),
        (Graphs(['window(n) | edges("random")']), "both n and drawn edges"),
        (Graphs(["grid((2, 2), 1)"]), "grid"),
        (Graphs(score="Dot()"), "^score: unknown name 'Dot'"),
        (Graphs(score="GATv2(4)"), "^score: there is no dense attention with GATv2"),
        (Graphs(score="DotProduct() + ALiBi(8)"), r"made for 8 heads.* ALiBi\(4\), or heads=8"),
        (Graphs(score="GATv2(4, 32)"), "there is no dense attention with GATv2"),
    ],
)
def test_graphs_that_cannot_be_compared_are_refused_before_any_work(
    graphs: Graphs, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(Job(tmp_path / "out", accelerator="cpu"), Sizes(), graphs, TIMING)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("topologies", "message"),
    [
        (["window(n)"], "attention over the complete graph takes about .* GB at 64 tokens, and"),
        (['edges("random")'], "drawing a graph of density 0.5 takes about .* GB at 64 tokens"),
    ],
)
def test_sizes_that_do_not_fit_into_memory_are_refused(
    topologies: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = 1.0 if "complete" in message else 1e5
    monkeypatch.setattr(trial, "machine_bytes", lambda device: few)
    with pytest.raises(ValueError, match=message):
        compare(Job(tmp_path, accelerator="cpu"), Sizes(lengths=[64]), Graphs(topologies), TIMING)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("accelerator", ["tpu", "mps"])
def test_an_unknown_accelerator_is_refused_by_every_command(accelerator: Any) -> None:
    message = f"accelerator '{accelerator}' is unknown: known are auto, cpu, gpu"
    with pytest.raises(ValueError, match=message):
        Job(Path("out"), accelerator=accelerator)


def test_a_gpu_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="accelerator is gpu, and there is none that torch can"):
        compare(Job(out, accelerator="gpu"), SIZES, GRAPHS, TIMING)
    assert not out.exists()


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_comparison_is_not_overwritten(finished: Finished, tmp_path: Path, seeds: int) -> None:
    folder = tmp_path / "seed-1" if seeds > 1 else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / "results.csv").write_bytes((finished.out / "results.csv").read_bytes())
    job = Job(tmp_path, seeds=seeds, accelerator="cpu")
    with pytest.raises(ValueError, match=r"results\.csv is there already: write --resume"):
        compare(job, Sizes(lengths=[8]), Graphs(), TIMING)
    assert not (tmp_path / "settings.yaml").exists()
    assert len(read_rows(folder / "results.csv")) == len(finished.rows)


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: ["", *lines[1:]],
        lambda lines: [lines[0], lines[1], lines[2][:20]],
        lambda lines: [lines[0], lines[1].replace("complete()", "complete(),")],
        lambda lines: [lines[0].replace("gap", "hole"), *lines[1:]],
        lambda lines: [lines[0].replace(",gap", ""), *lines[1:]],
        lambda lines: [lines[0], lines[1], '"open'],
        lambda lines: [*lines[:2], lines[2].replace("complete()", "xcomplete()"), *lines[3:]],
    ],
)
def test_a_damaged_table_is_refused_by_name(
    damage: Callable[[list[str]], list[str]], finished: Finished, tmp_path: Path
) -> None:
    table = tmp_path / "results.csv"
    table.write_text("\n".join(damage((finished.out / "results.csv").read_text().splitlines())))
    (tmp_path / "settings.yaml").write_bytes((finished.out / "settings.yaml").read_bytes())
    with pytest.raises(ValueError, match=r"results\.csv.*: this is no table .* or it is damaged"):
        compare(Job(tmp_path, resume=True, accelerator="cpu"), SIZES, GRAPHS, TIMING)


def test_damaged_settings_are_refused_by_name(tmp_path: Path) -> None:
    for text in ("a: [", "- 1\n", ""):
        (tmp_path / "settings.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"settings\.yaml is damaged: choose another folder"):
            compare(Job(tmp_path, resume=True, accelerator="cpu"), SIZES, GRAPHS, TIMING)
