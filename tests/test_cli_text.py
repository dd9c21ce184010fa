"""Texts on the command line: read as they are typed, and shown wherever they are shown."""

from __future__ import annotations

import io
import sys

import pytest

from graphformer import cli, options


def say(text: str | None = None, name: str | None = None) -> None:
    """Says a text."""
    print(text)


@pytest.mark.parametrize("text", ["# a note", "null", "~", "", "1", "[a, b]", "a: b", "#1 ist gut"])
def test_a_text_is_taken_as_it_is_typed(text: str) -> None:
    for words in (["--text", text], [f"--text={text}"], ["--text", "other", "--text", text]):
        given = options.parse(options.make_parser("say", say), say, words)
        assert given["text"] == text
    assert options.parse(options.make_parser("say", say), say, ["--name", "a"])["text"] is None


def test_what_a_terminal_cannot_show_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMANDS", {"say": ("says", {"": "tests:say"})})
    monkeypatch.setattr(cli, "load", lambda path: say)
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "latin-1"))
    cli.main(["say", "--text", "mały"])
    sys.stdout.flush()
    assert shown.getvalue() == b"ma\\u0142y\n"
