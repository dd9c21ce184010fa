"""Imports run one way, the core stays light, and every file can be read in one sitting."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (
    {"layout", "files", "machine", "columns"},
    {"topology", "tokens", "edge_data"},
    {"graph", "compressed_rows", "drawing", "padding", "rectangle"},
    {"scores", "positions"},
    {"backends"},
    {"attend", "planner", "refusals"},
    {"layers"},
    {"models"},
    {"nn", "data", "tasks"},
    {"cli", "options", "__main__"},
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
OUTER = {"data", "tasks", "cli", "options", "__main__"}
HEAVY = {"babel", "jsonargparse", "lightning", "matplotlib", "sacrebleu", "sklearn", "tokenizers"}

MODULES = sorted((ROOT / "graphformer").rglob("*.py"))
PARTS = [path for path in MODULES if path != ROOT / "graphformer" / "__init__.py"]


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "graphformer").with_suffix("").parts[0]


def imports(body: list[ast.stmt]) -> Iterator[str]:
    """Full names of what is imported when the module is: not in functions, nor for types only."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from imports(node.body)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from imports(node.body + node.orelse)


def imported(path: Path) -> list[list[str]]:
    return [name.split(".") for name in imports(ast.parse(path.read_text("utf-8")).body)]


@pytest.mark.parametrize("path", PARTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    here = part_of(path)
    assert here in LEVEL, f"say in LEVELS where {here} stands"
    for _, part, *_ in ([*name, ""] for name in imported(path) if name[0] == "graphformer"):
        if part not in LEVEL:
            assert here in OUTER, "import from the module, not from the package"
            continue
        assert LEVEL[part] <= LEVEL[here], f"{here} is imported by {part}, not the other way round"
        assert part != "data" or here in {"data", "tasks"}, "data sets are read by tasks only"
        if here == "data":
            known = {"data", "files", "layout", "machine", "tokens"}
            assert part in known, "data makes tokens, and knows the machine, no more"


@pytest.mark.parametrize("path", PARTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_core_imports_neither_training_nor_text_nor_plots(path: Path) -> None:
    if part_of(path) not in OUTER:
        assert not {name[0] for name in imported(path)} & HEAVY


def test_an_import_leaves_no_file_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import graphformer"], env=environment, check=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400


def test_a_prompt_completes_to_the_public_names() -> None:
    import graphformer

    names = dir(graphformer)
    assert set(graphformer.__all__) <= set(names)
    assert all(hasattr(graphformer, name) for name in names)
