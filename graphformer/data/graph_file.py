"""Any graph in files: edges, features, labels, and a split if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from graphformer.data.edge_list import NamedEdges, read_edges
from graphformer.data.graph_data import UNLABELED, GraphData, check_graph, clean_edges
from graphformer.data.node_table import (
    PARTS,
    NodeTable,
    nodes_of_table,
    read_labels,
    read_nodes,
)
from graphformer.data.splits import Split, fraction_split


def graph_file(
    path: str | Path,
    features_file: str | Path | None = None,
    labels_file: str | Path | None = None,
    label: str | None = "label",
    feature_names: Sequence[str] | None = None,
    directed: bool = False,
    fractions: tuple[float, float, float] | None = (0.6, 0.2, 0.2),
    seed: int = 0,
) -> GraphData:
    """The graph in `path`, with features and labels from the same or from other files.

    Args:
        path: edges, one `source target` a line (`.csv`, `.tsv`; `.txt`, `.edges`, `.edgelist`
            with white space; a header and lines that begin with # are skipped), or what
            networkx reads (`.graphml`, `.gml`, `.adjlist`).
        features_file: one row a node (`.csv`, `.tsv`, `.npy`, `.npz`). Without a column `id`,
            edges call row i node i. None where the attributes of a GraphML or GML file are the
            features.
        labels_file: one label a node (`.csv`, `.tsv`, `.txt`, `.npy`, `.npz`); None where they
            stand with the features.
        label: the column or attribute that holds the label; an empty one (-1 in an array of
            integers) is unknown. None reads a graph without labels, to predict them.
        feature_names: columns or attributes that are the features; None takes all others.
        directed: keep the direction of the edges; otherwise each goes both ways.
        fractions: of the labeled nodes that train, validate and test, where there is no column
            or attribute `split` with "train", "val", "test" or nothing. None reads no split, to
            predict the nodes.
        seed: of that split.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated or of unknown extension, features or labels hold NaN, an
            edge names a node without features, or the split does not fit; naming file and line.
    """
    path = Path(path)
    edges = read_edges(path)
    nodes = _read_nodes(edges, features_file, labels_file, label, feature_names)
    if directed and edges.undirected:
        raise ValueError(f"{path} says that its edges have no direction: leave directed out")
    edge_index = clean_edges(_number_edges(edges, nodes), len(nodes.features), str(path), directed)
    y, class_names = _number_labels(nodes, path, fractions is not None)
    split, protocol = _split(nodes, y, class_names, fractions, seed)
    return check_graph(
        GraphData(
            torch.from_numpy(nodes.features),
            edge_index,
            y,
            split.train_mask,
            split.val_mask,
            split.test_mask,
            name=f"{path.name}, {protocol}",
            num_classes=len(class_names),
            class_names=class_names,
            node_names=tuple(nodes.names or ()),
            drawn=len(split.train_mask) > 0 and nodes.parts is None,
            feature_names=nodes.feature_names,
        )
    )


def _read_nodes(
    edges: NamedEdges,
    features_file: str | Path | None,
    labels_file: str | Path | None,
    label: str | None,
    feature_names: Sequence[str] | None,
) -> NodeTable:
    if labels_file is not None and label is None:
        raise ValueError(f"label is None, and labels_file {labels_file}: write one of the two")
    if features_file is not None:
        nodes = read_nodes(Path(features_file), label, feature_names, labels_file is None)
    elif edges.nodes is None:
        raise ValueError(f"{edges.source} has edges alone: write features_file as well")
    else:
        nodes = nodes_of_table(edges.nodes, label if labels_file is None else None, feature_names)
    if labels_file is None or label is None:
        return nodes
    return read_labels(Path(labels_file), label, nodes)


def _number_edges(edges: NamedEdges, nodes: NodeTable) -> Int[Tensor, "2 edge"]:
    names = nodes.names or [str(node) for node in range(len(nodes.features))]
    number = {name: node for node, name in enumerate(names)}
    first = 1 if _is_header(edges, number) else 0
    rows = []
    for edge in range(first, len(edges.pairs)):
        for name in edges.pairs[edge]:
            if name not in number:
                where = edges.where[edge] if edges.where else edges.source
                known = f"{len(names)} nodes have features: {names[0]} to {names[-1]}"
                raise ValueError(f"{where}: node {name!r} is unknown; {known}")
        source, target = edges.pairs[edge]
        rows.append((number[source], number[target]))
    if not rows:
        raise ValueError(f"{edges.source} is empty: expected edges, a source and a target a line")
    return torch.tensor(rows, dtype=torch.int64).T


def _is_header(edges: NamedEdges, number: dict[str, int]) -> bool:
    """Whether the first line names columns: words, neither of which is a node."""
    first = edges.pairs[0] if edges.where else ()
    return bool(first) and not any(name in number or name.isdecimal() for name in first)


def _number_labels(
    nodes: NodeTable, path: Path, to_train: bool
) -> tuple[Int[Tensor, "node"], tuple[str, ...]]:
    if nodes.labels is None:
        return torch.full((len(nodes.features),), UNLABELED), ()
    known = {label for label in nodes.labels if label}
    if to_train and len(known) < 2:
        raise ValueError(
            f"{path}: the labels name {len(known)} class{'' if len(known) == 1 else 'es'}; at "
            f"least two are needed, or label=None for a graph without labels"
        )
    if to_train and len(known) == len(nodes.labels):
        raise ValueError(
            f"{path}: each of its {len(known)} nodes has a label of its own; name the column or "
            f"attribute that holds the class"
        )
    numeric = all(label.removeprefix("-").isdecimal() for label in known)
    class_names = sorted(known, key=int if numeric else None)
    number = {"": UNLABELED} | {name: index for index, name in enumerate(class_names)}
    return torch.tensor([number[label] for label in nodes.labels]), tuple(class_names)


def _split(
    nodes: NodeTable,
    y: Int[Tensor, "node"],
    class_names: tuple[str, ...],
    fractions: tuple[float, float, float] | None,
    seed: int,
) -> tuple[Split, str]:
    """The three masks and what they are called; without labels or fractions, no split at all."""
    if not class_names or fractions is None:
        no_split = torch.zeros(0, len(y), dtype=torch.bool)
        return Split(no_split, no_split, no_split), "no split" if class_names else "no labels"
    if nodes.parts is None:
        return fraction_split(y, fractions, seed), f"random split {fractions}, seed {seed}"
    masks = [torch.tensor([[part == name for part in nodes.parts]]) for name in PARTS]
    return Split(*masks), "split of the file"
