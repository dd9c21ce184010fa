"""The command line: options from settings, errors in a line, each command as one types it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from graphformer import cli
from graphformer.tasks import info as information


@dataclass(frozen=True)
class Size:
    """How large it is.

    Attributes:
        width: in tokens.
        tall: whether it is tall.
    """

    width: int | None = None
    tall: bool = False


def measure(size: Size, name: str, out: Path = Path("out")) -> None:
    """Measures a thing.

    Args:
        size: of the thing.
        name: what to call it.
        out: folder.
    """
    if size.width == 0:
        raise ValueError("width is 0: write a number of at least 1")
    called.append((size, name, out))


called: list[tuple[Size, str, Path]] = []


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    called.clear()
    monkeypatch.setattr(cli, "COMMANDS", {"measure": ("measures", {"": "tests:measure"})})
    monkeypatch.setattr(cli, "load", lambda path: measure)


@pytest.mark.usefixtures("command")
def test_fields_of_settings_are_options(tmp_path: Path) -> None:
    cli.main(["measure", "--name", "a", "--width", "3", "--tall"])
    assert called == [(Size(3, True), "a", Path("out"))]
    cli.main(["measure", "--name", "a", "--tall", "false"])
    assert called[1][0] == Size(None, False)
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"name": "b", "width": 7, "tall": True, "out": "there"}))
    cli.main(["measure", "--config", str(settings), "--width", "8"])
    assert called[2] == (Size(8, True), "b", Path("there"))


@pytest.mark.usefixtures("command")
def test_help_is_made_of_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["measure", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for sentence in ("Measures a thing.", "How large it is", "in tokens", "what to call it"):
        assert sentence in shown


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "--name", "a", "--width", "0"], "error: width is 0: write a number"),
        (["measure", "--name", "a", "--width", "wide"], "width"),
        (["measure", "--name", "a", "--depth", "1"], "unrecognized arguments: --depth"),
        (["measure"], "name"),
        (["measur"], "invalid choice: 'measur' (choose from 'measure')"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not called


@pytest.mark.usefixtures("command")
def test_debugging_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cli.DEBUG, "1")
    with pytest.raises(ValueError, match="width is 0"):
        cli.main(["measure", "--name", "a", "--width", "0"])


def test_missing_packages_are_named_with_what_installs_them() -> None:
    error = ModuleNotFoundError("No module named 'tokenizers'", name="tokenizers")
    expected = "tokenizers is not installed, and this command needs it: pip install "
    assert cli.explained(error) == f"{expected}'graphformer[all]'"


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for action in cli.COMMANDS[name][1]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*f"{name} {action}".split(), "--help"])
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert f"usage: graphformer {name}" in shown
        if name != "info":
            assert "--out" in shown or action == "predict"


def test_a_process_classifies_nodes_and_its_settings_do_it_again(tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    command = [sys.executable, "-m", "graphformer", "nodes", "fit"]
    options = ["--model", "mlp", "--epochs", "3", "--accelerator", "cpu", "--out", str(first)]
    once = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert once.returncode == 0, once.stderr
    repeated = ["--config", str(first / "settings.yaml"), "--out", str(again)]
    twice = subprocess.run([*command, *repeated], capture_output=True, text=True, timeout=300)
    assert twice.returncode == 0, twice.stderr
    figures = [
        json.loads((out / "metrics.json").read_text("utf-8"))["figures"] for out in (first, again)
    ]
    for each in figures:
        del each["seconds"]
    assert figures[0] == figures[1]
    assert "nodes fit --model mlp" in json.loads((first / "metrics.json").read_text())["command"]


def test_info_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    information.info()
    shown = capsys.readouterr().out
    for word in ("python", "torch", "threads", "reference", "kernels", "missing      nothing"):
        assert word in shown


def test_info_says_how_to_get_what_is_missing() -> None:
    needed = [
        information.Requirement("torch", None),
        information.Requirement("no-such-package", "text"),
    ]
    assert information.missing(needed) == [
        "missing      no-such-package: pip install 'graphformer[text]'"
    ]
    extras = {extra for _, extra in information.requirements()}
    assert extras == {None, *information.EXTRAS}
