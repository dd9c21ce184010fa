"""A graph in files that cannot be trained on is refused by file and line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from graphformer.data.graph_file import graph_file


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(message: str, error: type[Exception] = ValueError) -> Any:
    return pytest.raises(error, match=re.escape(message))


NODES = "height,weight,label\n1,2,owl\n3,4,fox\n5,6,owl\n7,8,fox\n9,10,owl\n"
EDGES = "0,1\n1,2\n3,4\n"


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ("0,1\n1,9\n", "edges.csv, line 2: node '9' is unknown; 5 nodes have features: 0 to 4"),
        ("source,target\n0,1\n-1,2\n", "edges.csv, line 3: node '-1' is unknown"),
        ("7,8\n0,1\n", "edges.csv, line 1: node '7' is unknown"),
        ("0,1\n1,2,0.5\n", "edges.csv, line 2: '1,2,0.5' is no edge: write a source and a target"),
        ("0,1\n3,", "edges.csv, line 2: '3,' is no edge"),
        ("source,target\n", "edges.csv is empty: expected edges, a source and a target a line"),
        ("# nothing\n", "edges.csv is empty: expected edges, a source and a target a line"),
        ("", "edges.csv is empty: expected edges, a source and a target a line"),
    ],
)
def test_edges_are_refused_by_line(tmp_path: Path, edges: str, message: str) -> None:
    nodes = write(tmp_path / "nodes.csv", NODES)
    with refused(message):
        graph_file(write(tmp_path / "edges.csv", edges), nodes)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (NODES.replace("4", "NaN"), "nodes.csv, line 3: 'weight' is 'NaN', which is no finite"),
        (NODES.replace("4", ""), "nodes.csv, line 3: 'weight' is ''"),
        (NODES.replace("4", "tall"), "nodes.csv, line 3: 'weight' is 'tall'"),
        (NODES.replace("4", "1e39"), "nodes.csv, line 3: 'weight' is '1e39'"),
        (NODES.replace("4,fox", "4,nan"), "nodes.csv, line 3: the label 'label' is 'nan'"),
        (NODES[:-6], "nodes.csv, line 6: 2 cells, but the first row has 3; is the file truncated"),
        (NODES.replace("weight", "height"), "nodes.csv: the header names a column twice"),
        (NODES.replace("label", "kind"), "nodes.csv has no 'label': it has 'height', 'weight'"),
        ("height,label\n", "nodes.csv has a header and no row"),
        ("label\nowl\nfox\n", "nodes.csv has no features: its columns are 'label'"),
        (
            NODES.replace("height", "id").replace("3,", "1,"),
            "nodes.csv, line 3: node '1' has a second row",
        ),
        (NODES.replace("fox", "owl"), "edges.csv: the labels name 1 class; at least two"),
        (
            "height,label\n1,a\n2,b\n3,c\n4,d\n5,e\n",
            "each of its 5 nodes has a label of its own",
        ),
        (
            "height,label,split\n1,a,train\n2,b,dev\n",
            "nodes.csv, line 3: 'split' is 'dev': write train, val, test, or nothing",
        ),
    ],
)
def test_nodes_are_refused_by_line(tmp_path: Path, nodes: str, message: str) -> None:
    edges = write(tmp_path / "edges.csv", EDGES)
    with refused(message):
        graph_file(edges, write(tmp_path / "nodes.csv", nodes))


def test_arrays_are_refused_by_row(tmp_path: Path) -> None:
    edges, path = write(tmp_path / "edges.csv", EDGES), tmp_path / "features.npy"
    labels = tmp_path / "labels.npy"
    np.save(labels, np.array([0, 1, 0, 1, 0]))

    def refuse(array: np.ndarray, message: str, **options: Any) -> None:
        np.save(path, array)
        with refused(message):
            graph_file(edges, path, labels, **options)

    broken = np.ones((5, 2))
    broken[3, 1] = np.nan
    refuse(broken, "features.npy, row 3, column 1: nan is no finite number")
    refuse(np.ones(5), "holds float64 of shape (5,): features must be numbers of shape (node")
    refuse(np.ones((4, 2)), "labels.npy has 5 labels, and 4 nodes have features")
    refuse(np.ones((5, 2)), "an array has no column names", feature_names=["height"])
    refuse(np.array([[{}]]), "features.npy is truncated, or not an array file")
    np.save(labels, np.array([0, 1, np.nan, 1, 0]))
    refuse(np.ones((5, 2)), "labels.npy, row 2: the label is nan")
    np.save(labels, np.array([0.5, 1, 0, 1, 0]))
    refuse(np.ones((5, 2)), "labels must be integers or strings of shape (node,)")
    with refused("features.npy has features alone: write labels_file as well"):
        graph_file(edges, path)
    write(path, path.read_bytes()[:-8])
    with refused("features.npy is truncated, or not an array file"):
        graph_file(edges, path, labels)
    np.savez(tmp_path / "features.npz", other=np.ones((5, 2)))
    with refused("has the arrays other: call one x or node_features or features"):
        graph_file(edges, tmp_path / "features.npz", labels)


def test_labels_must_be_there_for_every_node(tmp_path: Path) -> None:
    edges = write(tmp_path / "edges.csv", EDGES)
    nodes = write(tmp_path / "nodes.csv", "1,2\n3,4\n5,6\n7,8\n9,10\n")
    labels = write(tmp_path / "labels.csv", "id,label\n0,a\n1,b\n2,a\n3,b\n")
    with refused("labels.csv has no row for 1 nodes, the first of them '4'"):
        graph_file(edges, nodes, labels)
    twice = write(tmp_path / "twice.csv", "id,label\n0,a\n1,b\n1,a\n")
    with refused("twice.csv, line 4: node '1' has a second row"):
        graph_file(edges, nodes, twice)
    with refused("label is None, and labels_file"):
        graph_file(edges, nodes, labels, label=None)
    with refused("labels.csv has no 'kind': it has 'id', 'label'"):
        graph_file(edges, nodes, labels, label="kind")


@pytest.mark.parametrize("name", ["cut.graphml", "cut.gml", "cut.graphml.gz"])
def test_truncated_graph_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    graph = nx.path_graph(8)
    nx.set_node_attributes(graph, 1.0, "height")
    path = tmp_path / name
    (nx.write_gml if name.endswith("gml") else nx.write_graphml)(graph, path)
    write(path, path.read_bytes()[: path.stat().st_size // 2])
    with refused(f"{path} is truncated, or no "):
        graph_file(path)


def test_attributes_must_be_numbers_on_every_node(tmp_path: Path) -> None:
    graph = nx.path_graph(4)
    path = tmp_path / "graph.graphml"
    for key, value in ((0, 1.0), (1, 2.0), (2, float("nan")), (3, 4.0)):
        graph.nodes[key].update(height=value, kind="ab"[key % 2])
    nx.write_graphml(graph, path)
    with refused(f"{path}, node '2': 'height' is 'nan'"):
        graph_file(path, label="kind")
    del graph.nodes[2]["height"]
    nx.write_graphml(graph, path)
    with refused(f"{path}, node '2': 'height' is ''"):
        graph_file(path, label="kind")
    with refused("has no 'label': it has 'height', 'kind', 'id'"):
        graph_file(path)
    with refused("says that its edges have no direction"):
        graph_file(path, label="kind", features_file=None, feature_names=["id"], directed=True)


def test_unknown_extensions_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    edges = write(tmp_path / "edges.csv", EDGES)
    with refused("cannot read a graph from '.dot'; known are .csv, .tsv, .txt, .edges, .edgelist"):
        graph_file(write(tmp_path / "graph.dot", "graph {}"))
    with refused("cannot read features from '.xlsx'; known are .csv, .tsv, .npy, .npz"):
        graph_file(edges, tmp_path / "nodes.xlsx")
    with refused("cannot read labels from '.xlsx'; known are .csv"):
        graph_file(edges, write(tmp_path / "nodes.csv", "1\n2\n"), tmp_path / "labels.xlsx")
    with refused("edges.csv has edges alone: write features_file as well"):
        graph_file(edges)
    for path in ("edges2.csv", "graph.gml"):
        with refused(f"{tmp_path / path} does not exist", FileNotFoundError):
            graph_file(tmp_path / path)
