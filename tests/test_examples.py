"""Each example, and the code of each first page, runs to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_with_a_tiny_budget(example: Path, tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, example, "--quick"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip(), "an example shows its result"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short(example: Path) -> None:
    assert len(example.read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_first_code_of_a_page_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = (ROOT / page).read_text("utf-8").split("```python\n")[1].split("```")[0]
    exec(compile(code, page, "exec"), {})
    assert "runs on" in capsys.readouterr().out
