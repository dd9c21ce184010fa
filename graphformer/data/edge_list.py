"""Edges from files: lists of `source target`, and what networkx reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx

from graphformer.data.node_table import ID
from graphformer.data.text_lines import read_lines
from graphformer.data.text_table import Table, suffix


def _read_gml(path: Path) -> nx.Graph:
    try:
        return nx.read_gml(path)
    except nx.NetworkXError as error:
        if "label" not in str(error):
            raise
        return nx.read_gml(path, label="id")


_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": None, ".edges": None, ".edgelist": None}
_NETWORKX: dict[str, Callable[[Path], nx.Graph]] = {
    ".graphml": nx.read_graphml,
    ".gml": _read_gml,
    ".adjlist": nx.read_adjlist,
}
GRAPH_FILES = (*_DELIMITERS, *_NETWORKX)
# Those whose nodes may have attributes.
ATTRIBUTED = (".graphml", ".gml")


class NamedEdges(NamedTuple):
    """Edges between nodes called by name.

    Attributes:
        pairs: (source, target).
        where: where each edge was read; empty where the file has no lines to name.
        source: the file.
        nodes: attributes of the nodes, a row each in the order of the file; None where the format
            has none.
        undirected: whether the file itself says that its edges have no direction.
    """

    pairs: list[tuple[str, str]]
    where: list[str]
    source: str
    nodes: Table | None
    undirected: bool


def read_edges(path: Path) -> NamedEdges:
    """The edges of a file, by its extension: one of `GRAPH_FILES`, also with `.gz`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the extension is unknown (listing the known ones), or the file is truncated
            or not what its extension says.
    """
    if suffix(path) not in GRAPH_FILES:
        raise ValueError(
            f"{path}: cannot read a graph from {suffix(path)!r}; known are {', '.join(GRAPH_FILES)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    return _read_list(path) if suffix(path) in _DELIMITERS else _read_networkx(path)


def _read_list(path: Path) -> NamedEdges:
    delimiter = _DELIMITERS[suffix(path)]
    pairs, where = [], []
    lines = read_lines(path, "edges, a source and a target a line")
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split(delimiter)]
        if len(cells) != 2 or not all(cells):
            raise ValueError(
                f"{path}, line {number}: {line.strip()!r} is no edge: write a source and a target "
                f"separated by {'white space' if delimiter is None else repr(delimiter)}, and "
                f"nothing else"
            )
        pairs.append((cells[0], cells[1]))
        where.append(f"{path}, line {number}")
    return NamedEdges(pairs, where, str(path), nodes=None, undirected=False)


def _read_networkx(path: Path) -> NamedEdges:
    extension = suffix(path)
    try:
        graph = _NETWORKX[extension](path)
    # networkx lets through whatever its parsers stumble over; a SyntaxError is one of XML's.
    except (
        nx.NetworkXException,
        SyntaxError,
        LookupError,
        TypeError,
        ValueError,
        EOFError,
        OSError,
    ) as error:
        raise ValueError(
            f"{path} is truncated, or no {extension.removeprefix('.')} file: {error}"
        ) from error
    pairs = [(str(source), str(target)) for source, target in graph.edges()]
    has_attributes = extension in ATTRIBUTED
    return NamedEdges(
        pairs,
        where=[],
        source=str(path),
        nodes=_attributes(path, graph) if has_attributes else None,
        undirected=has_attributes and not graph.is_directed(),
    )


def _attributes(path: Path, graph: nx.Graph) -> Table:
    """One row a node and one column an attribute; an attribute that a node lacks is empty."""
    names = list(dict.fromkeys(name for _, data in graph.nodes(data=True) for name in data))
    columns = {
        name: [_text(data.get(name, "")) for _, data in graph.nodes(data=True)] for name in names
    }
    columns[ID] = [str(node) for node in graph.nodes]
    return Table(columns, [f"{path}, node {node!r}" for node in graph.nodes], str(path))


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value).strip()
