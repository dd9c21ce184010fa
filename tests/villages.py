"""A graph of three villages in files, and short runs of `graphformer nodes` on it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from graphformer.tasks.classification.network import (
    Network,
    Training,
)
from graphformer.tasks.classification.source import Source
from graphformer.tasks.settings import Job

NUM_EPOCHS = 12
SMALL = Network("gcn", hidden=8)
SHORT = Training(epochs=NUM_EPOCHS, learning_rate=0.05)
KINDS = ("fox", "owl", "elk")
PARTS = ("train", "val", "test", "test", "")


def villages(num_nodes: int = 60) -> nx.Graph:
    """Three circles whose members know each other; what they tell of themselves is noisy."""
    generator = np.random.default_rng(0)
    graph = nx.Graph()
    for node in range(num_nodes):
        kind = node % 3
        told = generator.normal(0, 0.7, 4).round(3) + 2 * np.eye(4)[kind]
        columns = {f"f{at}": float(value) for at, value in enumerate(told)}
        graph.add_node(f"n{node}", **columns, label=KINDS[kind], split=PARTS[node // 3 % 5])
    ring = range(num_nodes)
    graph.add_edges_from((f"n{node}", f"n{(node + 3) % num_nodes}") for node in ring)
    return graph


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_graph(folder: Path, graph: nx.Graph, *hidden: str) -> tuple[Path, Path]:
    """Two tables: edges, and what is known of each node but for the `hidden` columns."""
    edges = [{"source": one, "target": other} for one, other in graph.edges]
    known = [{"id": node, **columns} for node, columns in graph.nodes(data=True)]
    nodes = [{name: row[name] for name in row if name not in hidden} for row in known]
    return write_table(folder / "edges.csv", edges), write_table(folder / "nodes.csv", nodes)


def source_of(folder: Path) -> Source:
    """The villages in two tables."""
    edges, nodes = write_graph(folder, villages())
    return Source(str(edges), features_file=nodes)


def job(out: Path, **settings: Any) -> Job:
    return Job(out, accelerator="cpu", **settings)


def read_predictions(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
