"""Whether what a command is told in notation fits its sizes and data, in the command's words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from graphformer.scores import Score

_NAMED_EDGES = re.compile(r"""\bedges\(\s*(["'])(.*?)\1\s*\)""")


@contextmanager
def named(setting: str) -> Iterator[None]:
    """An error in the block says of which setting it is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error


def check_width(name: str, width: int, heads: int) -> None:
    """Does nothing where the heads divide the setting `name`, the width of the tokens.

    Raises:
        ValueError: they do not.
    """
    if width % heads:
        below = width // heads * heads
        near = f"{below} or {below + heads}" if below else f"{heads}"
        raise ValueError(
            f"{name} is {width}, and {heads} heads do not divide it evenly: write a multiple of "
            f"the heads, such as {near}, or another number of heads"
        )


def check_score(name: str, text: str, heads: int) -> None:
    """Does nothing where the setting `name`, a score in notation, is one for so many heads.

    Raises:
        ValueError: it is for another number of heads, or cannot be read.
    """
    with named(name):
        score = Score.parse(text)
    for part in (score.core, *score.biases):
        if part.heads is not None and part.heads != heads:
            written = re.sub(rf"\({part.heads}\b", f"({heads}", repr(part), count=1)
            raise ValueError(
                f"{name} has {part!r}, which was made for {part.heads} heads, and there are "
                f"{heads}: write it for {heads} heads, {written}, or heads={part.heads}"
            )


def check_edges(name: str, text: str, known: Sequence[str]) -> None:
    """Does nothing where the setting `name`, a topology in notation, names edges of the data.

    Args:
        name: of the setting.
        text: the topology.
        known: names of the edges that the data have.

    Raises:
        ValueError: it names others.
    """
    for _, edges in _NAMED_EDGES.findall(text):
        if edges not in known:
            listed = " and ".join(f'edges("{each}")' for each in known)
            have = f"the data have {listed} alone" if known else "the data have no edges"
            instead = f"write {listed}" if known else "leave it out, or write one such as window(4)"
            raise ValueError(f"{name} has edges({edges!r}), and {have}: {instead}")
