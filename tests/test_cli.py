"""The command line: options from settings, errors in a line, each command as one types it."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml

import graphformer
from graphformer import cli, options
from graphformer.backends import kernels
from graphformer.data import published_files
from graphformer.tasks import info as information


@dataclass(frozen=True)
class Size:
    """How large it is.

    Attributes:
        width: in tokens.
        tall: whether it is tall.
        form: how it looks.
        marks: where it is scratched.
        heavy: whether it is heavy; left out, it is not known.
    """

    width: int | None = None
    tall: bool = False
    form: Literal["round", "flat"] = "flat"
    marks: list[int] | None = None
    heavy: bool | None = None


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
    cli.main(["measure", "--name", "a", "--tall", "false", "--heavy"])
    assert called[1][0] == Size(None, False, heavy=True)
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
        (["measure", "--name", "a", "--width", "0"], "--width is 0: write a number of at least 1"),
        (["measure", "--name", "a", "--width", "wide"], "--width is 'wide': write a whole number"),
        (["measure", "--name", "a", "--width"], "--width needs a value: write a whole number"),
        (["measure", "--name", "a", "--tall", "so"], "--tall is 'so': write true or false"),
        (["measure", "--name", "a", "--form", "oval"], "--form is 'oval': write round or flat"),
        (["measure", "--name", "a", "--marks", "1"], "--marks is '1': write whole numbers in brac"),
        (["measure", "--name", "a", "--widt", "3"], "there is no option --widt: did you mean --wi"),
        (["measure", "--name", "a", "--wdith=3"], "there is no option --wdith: did you mean --wi"),
        (["measure", "--name", "a", "--colour", "1"], "no option --colour: --help lists those th"),
        (["measure", "--name", "a", "b"], "'b' belongs to no option"),
        (["measure", "--config", "none.yaml"], "--config: File does not exist: "),
        (["measure"], "--name must be given"),
        (["measur"], "graphformer knows no 'measur': write one of: measure"),
        (["--name", "a", "measure"], "graphformer knows no '--name': write one of: measure"),
        ([], "what is graphformer to do? Write one of: measure"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert len(shown.splitlines()) == 1
    assert not called


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("text", ["widht: 3", "[", "- 1", "width: wide"])
def test_a_file_of_other_settings_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["measure", "--name", "a", "--config", str(settings)])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert len(shown.splitlines()) == 1
    assert not called


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("data_dir is missing: write data_dir", "--data_dir is missing: write --data_dir"),
        ("gcn has no setting heads=2: it has data", "gcn has no setting --heads 2: it has data"),
        ("go on (data=True), or with data=None", "go on (--data), or with --data null"),
        ("name its file as well (data)", "name its file as well (--data)"),
        ("data 'x' is unknown", "--data 'x' is unknown"),
        ("data: no such name", "--data: no such name"),
        ("the data in data_dir/a has data_dir.txt", "the data in data_dir/a has data_dir.txt"),
        ("there is --data_dir and no data", "there is --data_dir and no data"),
    ],
)
def test_arguments_are_called_as_one_types_them(message: str, expected: str) -> None:
    assert options.as_options(message, ["data", "data_dir", "heads"]) == expected


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "nodes fit --model transformer --heads 4 --score Cosine(3)",
            "--score has Cosine(3), which was made for 3 heads, and there are 4: write it for 4 "
            "heads, Cosine(4), or --heads 3",
        ),
        (
            "translate fit --dim 30 --heads 4",
            "--dim is 30, and 4 heads do not divide it evenly: write a multiple of the heads, such "
            "as 28 or 32, or another number of heads",
        ),
        (
            "nodes fit --topology edges('grpah')",
            "--topology has edges('grpah'), and the data have edges(\"graph\") alone: write "
            'edges("graph")',
        ),
        (
            "translate fit --decoder.topology edges('a')",
            "--decoder.topology has edges('a'), and the data have no edges: leave it out, or write "
            "one such as window(4)",
        ),
        (
            "translate fit --encoder.feed_forward conv(3)",
            "--encoder.feed_forward: unknown feed_forward 'conv(3)': write 'linear()', or a "
            "convolution with the number of tokens that it reads, such as 'convolution(3)'",
        ),
        (
            "translate fit --model lstm --decoder.score Gaussian()",
            "--decoder.score is Gaussian(), and an LSTM reads its tokens one after another, with "
            "no graph among them: leave it out, or where a --config has it write --decoder.score "
            "null; or write --model transformer",
        ),
        (
            "translate fit --encoder.topologie window(2)",
            "there is no option --encoder.topologie: did you mean --encoder.topology?",
        ),
        (
            "translate fit --encoder.topology",
            "--encoder.topology needs a value: write a text",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_options(
    command: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--out", str(tmp_path / "run")])
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_had_are_said_to_be_looked_for_in_data_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(published_files, "download_url_to_file", fail)
    monkeypatch.setenv("GRAPHFORMER_CACHE", str(tmp_path))
    with pytest.raises(SystemExit):
        cli.main(["nodes", "fit", "--data", "cora", "--out", str(tmp_path / "run")])
    assert "pass their folder as --data_dir" in capsys.readouterr().err


def test_warnings_are_a_line() -> None:
    before = warnings.formatwarning
    with cli.warnings_in_a_line():
        shown = warnings.formatwarning(UserWarning("it is late"), UserWarning, "clock.py", 12)
    assert shown == "warning: it is late\n"
    assert warnings.formatwarning is before


@pytest.mark.usefixtures("command")
def test_too_little_memory_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill_memory(name: str) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes\nat line 3")

    monkeypatch.setattr(cli, "load", lambda path: fill_memory)
    with pytest.raises(SystemExit):
        cli.main(["measure", "--name", "a"])
    assert capsys.readouterr().err.startswith("error: there is too little memory, write smaller")


@pytest.mark.usefixtures("command")
def test_debugging_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cli.DEBUG, "1")
    with pytest.raises(ValueError, match="width is 0"):
        cli.main(["measure", "--name", "a", "--width", "0"])


def test_missing_packages_are_named_with_what_installs_them() -> None:
    error = ModuleNotFoundError("No module named 'tokenizers'", name="tokenizers")
    expected = "tokenizers is not installed, and this command needs it: pip install "
    assert cli.explained(error) == f"{expected}'graphformer[all]'"


def test_the_version_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"graphformer {graphformer.__version__}\n"


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
    for word in ("python", "torch", "thread", "reference", "kernels", "missing      nothing"):
        assert word in shown


def test_info_says_how_to_get_kernels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAPHFORMER_KERNELS", "/nowhere/kernels.so")
    kernels._load.cache_clear()
    try:
        information.info()
    finally:
        kernels._load.cache_clear()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "kernels.so" in line)
    assert line == (
        "kernels      none: its C++ kernels are not there (/nowhere/kernels.so): install GCC or "
        "Clang, then graphformer again from its source: pip install --force-reinstall --no-deps ."
    )


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


# A core-only install: what the extras bring can neither be imported nor asked for its version.
CORE_ONLY = """
import importlib.metadata, sys
outer = ["babel", "jsonargparse", "lightning", "matplotlib", "sacrebleu", "safetensors", "sklearn"]
sys.modules |= dict.fromkeys([*outer, "tokenizers", "yaml"])
found = importlib.metadata.version
def version(name):
    if name in {"scikit-learn", "tokenizers", *outer}:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
from graphformer.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("arguments", [["info"], ["info", "--help"], ["--help"]])
def test_info_and_help_need_no_extra(arguments: list[str]) -> None:
    command = [sys.executable, "-c", CORE_ONLY, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    if arguments == ["info"]:
        assert "missing      jsonargparse: pip install 'graphformer[training]'" in finished.stdout


def test_other_commands_say_which_extra_they_need() -> None:
    command = [sys.executable, "-c", CORE_ONLY, "nodes", "fit", "--out", "nowhere"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.endswith(
        "is not installed, and this command needs it: pip install 'graphformer[all]'"
    )


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(32, "Broken pipe"), 141)]
)
def test_who_is_stopped_or_heard_no_more_ends_in_silence(
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr(cli, "run", run)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["info"])
    assert ended.value.code == status
    assert capsys.readouterr().err == ""
