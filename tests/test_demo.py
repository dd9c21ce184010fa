"""The report is one file, and the demo fills it from what its parts have measured."""

from __future__ import annotations

import base64
import json
import re
from functools import partial
from pathlib import Path

import pytest

from graphformer.tasks import demo as demonstration
from graphformer.tasks.comparison.rows import read_rows
from graphformer.tasks.report import Section, Table, write_report


def test_a_report_needs_no_other_file(tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    picture.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>", "utf-8")
    section = Section(
        "A <part>",
        "1 < 2 & it holds",
        ["text"],
        [Table(["name", "value"], [["a<b", "3"]])],
        [(picture, "what it shows"), (tmp_path / "absent.svg", "never drawn")],
        "graphformer demo",
    )
    page = tmp_path / "folder" / "index.html"
    write_report(page, "title", "lead", [section])
    text = page.read_text("utf-8")
    assert "A &lt;part&gt;" in text
    assert "1 &lt; 2 &amp; it holds" in text
    assert "<td>a&lt;b</td><td>3</td>" in text
    assert "<pre>graphformer demo</pre>" in text
    assert "never drawn" not in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) == 1
    kind, data = sources[0].split(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == picture.read_bytes()


def test_a_report_refuses_other_pictures(tmp_path: Path) -> None:
    other = tmp_path / "picture.bmp"
    other.touch()
    section = Section("title", "result", pictures=[(other, "caption")])
    with pytest.raises(ValueError, match=r"picture\.bmp is no picture .* use \.svg or \.png"):
        write_report(tmp_path / "index.html", "title", "lead", [section])
    assert not (tmp_path / "index.html").exists()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same demo with the least of training and measuring."""
    for name, changed in {
        "Shape": {"dim": 16, "heads": 2, "layers": 1, "hidden": 16},
        "Training": {"steps": 2},
        "NodeTraining": {"epochs": 2},
        "Sizes": {"lengths": [32]},
        "Graphs": {"topologies": ["window(n)"], "densities": [0.1, 0.3]},
        "Timing": {"repeats": 1},
    }.items():
        monkeypatch.setattr(demonstration, name, partial(getattr(demonstration, name), **changed))
    monkeypatch.setattr(demonstration.translate, "SEARCH", demonstration.translate.Search(beam=1))
    monkeypatch.setattr(demonstration, "NUM_SEEDS", 2)


@pytest.mark.usefixtures("small")
def test_the_demo_reports_what_its_parts_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = demonstration.demo(tmp_path)
    assert report == tmp_path / "index.html"
    text = report.read_text("utf-8")
    for title in ("Sequence to sequence", "Nodes of a graph", "Dense and sparse attention"):
        assert title in text
    figures = json.loads((tmp_path / "dates" / "metrics.json").read_text("utf-8"))["figures"]
    assert f"{100 * figures['exact_match']:.1f} % of 1,000 dates" in text
    for model in demonstration.MODELS:
        measured = json.loads((tmp_path / "digits" / model / "metrics.json").read_text("utf-8"))
        assert measured["seeds"] == [0, 1]
        assert f"{100 * measured['figures']['test_accuracy']['mean']:.1f} %" in text
    assert "% ± " in text
    assert text.count("data:image/svg+xml;base64") == 3
    assert "<th>reference</th>" in text
    assert all("<pre>graphformer" in line for line in text.splitlines() if "<pre>" in line)
    for row in read_rows(tmp_path / "compare" / "results.csv"):
        assert f"<td>{row.topology}</td>" in text
    assert "compare/report.txt beside this page" in text
    spent = [json.loads(file.read_text())["seconds"] for file in tmp_path.glob("*/time.json")]
    assert len(spent) == 3
    assert f"in {sum(spent):.0f} seconds on" in text
    shown = capsys.readouterr().out
    assert str(report) in shown
    assert "Sequence to sequence: " in shown
    checkpoints = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")}
    demonstration.demo(tmp_path)
    lead = next(line for line in text.splitlines() if "seconds on" in line)
    assert lead in report.read_text("utf-8"), "what it took is not forgotten"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*.ckpt")} == {
        path: time for path, time in checkpoints.items() if path.name.startswith("step-")
    }, "what is there is not trained again"


def test_the_time_of_a_part_counts_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 3.0, 10.0, 14.0, 20.0, 29.0])
    monkeypatch.setattr(demonstration.time, "monotonic", lambda: next(clock))
    file = tmp_path / "time.json"
    with pytest.raises(KeyboardInterrupt), demonstration.timed(file):
        raise KeyboardInterrupt
    assert demonstration.read_time(file) == (3.0, False)
    for _ in range(2):
        with demonstration.timed(file):
            pass
        assert demonstration.read_time(file) == (7.0, True)
