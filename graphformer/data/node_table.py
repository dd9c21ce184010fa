"""What files say of each node: features, and perhaps a name, a label and a part of the split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from graphformer.data.array_file import read_arrays
from graphformer.data.text_lines import read_lines
from graphformer.data.text_table import TEXT_TABLES, Table, read_table, suffix

ID, SPLIT = "id", "split"
PARTS = ("train", "val", "test")

_FEATURE_FILES = (".csv", ".tsv", ".npy", ".npz")
_LABEL_FILES = (".csv", ".tsv", ".txt", ".npy", ".npz")
_FEATURE_ARRAYS = ("x", "node_features", "features")
_LABEL_ARRAYS = ("y", "node_labels", "labels")


class NodeTable(NamedTuple):
    """What is known of each node, in one order.

    Attributes:
        features: float32 [node, feature], finite.
        names: the nodes' own names; None where row i is node i.
        labels: the class of each node, "" where it has none; None where the file has no labels.
        parts: "train", "val", "test" or "" of each node; None where the file has no split.
        feature_names: what each feature is called; empty where the file does not say.
    """

    features: np.ndarray
    names: list[str] | None
    labels: list[str] | None
    parts: list[str] | None
    feature_names: tuple[str, ...] = ()


def read_nodes(
    path: Path, label: str | None, feature_names: Sequence[str] | None, label_needed: bool
) -> NodeTable:
    """Features of each node from `.csv`, `.tsv`, `.npy` or `.npz`, one row a node.

    Args:
        path: a text table whose columns `id`, `label` and `split` are names, labels and parts, and
            whose other columns are features; or an array [node, feature], called `x`,
            `node_features` or `features` in an `.npz` (which may also hold labels, called `y`,
            `node_labels` or `labels`).
        label: name of the column of labels; None for a file without labels.
        feature_names: columns that are features; None for all that are nothing else.
        label_needed: whether the labels must be in this file.

    Raises:
        ValueError: an unknown extension, a truncated file, a cell that is no finite number, or
            a column that is not there.
    """
    _check_suffix(path, _FEATURE_FILES, "features")
    if suffix(path) in TEXT_TABLES:
        table = read_table(path)
        if label is not None and not label_needed and label not in table.columns:
            label = None
        return nodes_of_table(table, label, feature_names)
    if feature_names is not None:
        raise ValueError(f"{path}: an array has no column names; leave feature_names out")
    arrays = read_arrays(path)
    features = _features_of_array(path, _find(path, arrays, _FEATURE_ARRAYS))
    labels = None
    if label is not None and (label_needed or set(_LABEL_ARRAYS) & set(arrays)):
        if suffix(path) == ".npy":
            raise ValueError(f"{path} has features alone: write labels_file as well")
        labels = _labels_of_array(path, _find(path, arrays, _LABEL_ARRAYS))
    return NodeTable(features, None, labels, None)


def nodes_of_table(
    table: Table, label: str | None, feature_names: Sequence[str] | None
) -> NodeTable:
    """The nodes that the rows of `table` describe (see `read_nodes`)."""
    if feature_names is None:
        feature_names = [name for name in table.columns if name not in (ID, SPLIT, label)]
        _check_no_names(table, feature_names)
    if not feature_names:
        raise ValueError(
            f"{table.source} has no features: its columns are "
            f"{', '.join(map(repr, table.columns))}; write a features_file"
        )
    names = list(_row_of_name(table)) if ID in table.columns else None
    labels = None if label is None else table.labels(label)
    called = tuple(feature_names) if table.has_header else ()
    return NodeTable(table.numbers(feature_names), names, labels, _parts(table), called)


def _check_no_names(table: Table, feature_names: Sequence[str]) -> None:
    """Raises an error if a column looks like the names of the nodes, and would be a feature."""
    for name in feature_names:
        if re.fullmatch(r"(node|vertex)?[ _-]?(id|index|name)s?|nodes?|vertex", name.lower()):
            raise ValueError(
                f"{table.source} has a column {name!r}, which looks like the names of the nodes: "
                f"call it {ID!r} if it is, and name the features (feature_names) if it is one"
            )


def read_labels(path: Path, label: str, nodes: NodeTable) -> NodeTable:
    """`nodes` with the labels (and the split, if there is one) of a second file.

    Args:
        path: `.csv` or `.tsv` with a column `label`, or one column alone; rows follow the nodes,
            or name them in a column `id`. Or `.txt`, one label a line without a header, or an
            array [node] of integers (-1: no label) or strings.
        label: name of the column.
        nodes: the nodes in order.

    Raises:
        ValueError: the file is unreadable, holds NaN, or does not have one label for each node.
    """
    _check_suffix(path, _LABEL_FILES, "labels")
    if suffix(path) in (".npy", ".npz"):
        labels = _labels_of_array(path, _find(path, read_arrays(path), _LABEL_ARRAYS))
        return nodes._replace(labels=_one_each(path, labels, nodes))
    table = _one_a_line(path, label) if suffix(path) == ".txt" else read_table(path)
    if len(table.columns) == 1:
        table = table._replace(columns={label: next(iter(table.columns.values()))})
    labels, parts = table.labels(label), _parts(table)
    if ID in table.columns:
        rows = _rows_of(table, nodes)
        labels = [labels[row] for row in rows]
        parts = parts and [parts[row] for row in rows]
    return nodes._replace(
        labels=_one_each(path, labels, nodes), parts=nodes.parts if parts is None else parts
    )


def _one_a_line(path: Path, label: str) -> Table:
    lines = [line.strip() for line in read_lines(path)]
    return Table(
        {label: lines}, [f"{path}, line {row + 1}" for row in range(len(lines))], str(path)
    )


def _rows_of(table: Table, nodes: NodeTable) -> list[int]:
    row_of = _row_of_name(table)
    names = nodes.names or [str(node) for node in range(len(nodes.features))]
    missing = [name for name in names if name not in row_of]
    if missing:
        raise ValueError(
            f"{table.source} has no row for {len(missing)} nodes, the first of them {missing[0]!r}"
        )
    return [row_of[name] for name in names]


def _row_of_name(table: Table) -> dict[str, int]:
    """The row of each node, by its name, in the order of the rows."""
    row_of: dict[str, int] = {}
    for row, name in enumerate(table.columns[ID]):
        if name in row_of:
            raise ValueError(f"{table.where[row]}: node {name!r} has a second row")
        row_of[name] = row
    return row_of


def _parts(table: Table) -> list[str] | None:
    parts = table.columns.get(SPLIT)
    for where, part in zip(table.where, parts or [""] * len(table.where), strict=True):
        if part not in (*PARTS, ""):
            raise ValueError(
                f"{where}: {SPLIT!r} is {part!r}: write {', '.join(PARTS)}, or nothing"
            )
    return parts


def _one_each(path: Path, labels: list[str], nodes: NodeTable) -> list[str]:
    if len(labels) != len(nodes.features):
        raise ValueError(
            f"{path} has {len(labels)} labels, and {len(nodes.features)} nodes have features"
        )
    return labels


def _features_of_array(path: Path, array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape}: features must be numbers of "
            f"shape (node, feature)"
        )
    with np.errstate(over="ignore"):
        features = array.astype(np.float32)
    broken = np.argwhere(~np.isfinite(features))
    if len(broken):
        row, column = broken[0].tolist()
        raise ValueError(
            f"{path}, row {row}, column {column}: {array[row, column]} is no finite number"
        )
    return features


def _labels_of_array(path: Path, array: np.ndarray) -> list[str]:
    if array.dtype.kind == "f" and np.isnan(array).any():
        row = int(np.isnan(array).reshape(len(array), -1).any(axis=1).argmax())
        raise ValueError(f"{path}, row {row}: the label is nan")
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape}: labels must be integers or "
            f"strings of shape (node,)"
        )
    return ["" if label == "-1" else label for label in map(str, array.tolist())]


def _find(path: Path, arrays: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    for name in ("", *names):
        if name in arrays:
            return arrays[name]
    raise ValueError(f"{path} has the arrays {', '.join(arrays)}: call one {' or '.join(names)}")


def _check_suffix(path: Path, known: Sequence[str], what: str) -> None:
    if suffix(path) not in known:
        raise ValueError(
            f"{path}: cannot read {what} from {suffix(path)!r}; known are {', '.join(known)}"
        )
