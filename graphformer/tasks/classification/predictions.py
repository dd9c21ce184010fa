"""What a trained network says of each node."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from graphformer.data.graph_data import UNLABELED, GraphData
from graphformer.files import write_text
from graphformer.tasks.classification.learner import Nodes
from graphformer.tasks.classification.trained import Trained


def probabilities(trained: Trained, graph: GraphData) -> Float[Tensor, "node class"]:
    """The probability of each class at each node."""
    nodes = Nodes.of(graph, trained.network, trained.training).to(torch.device("cpu"))
    with torch.no_grad():
        logits: Tensor = trained.build()(nodes.x, nodes.graph)
    return logits.softmax(1)


def write_predictions(
    table: Path, probability: Float[Tensor, "node class"], graph: GraphData
) -> None:
    """A row a node: its name, the likeliest class, its probability, and the class if known."""
    highest, predicted = (each.tolist() for each in probability.max(1))
    names = graph.node_names or range(graph.num_nodes)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["node", "predicted", "probability", "actual"])
    columns = names, predicted, highest, graph.y.tolist()
    for name, number, chance, label in zip(*columns, strict=True):
        known = "" if label == UNLABELED else graph.class_names[label]
        writer.writerow([name, graph.class_names[number], f"{chance:.4f}", known])
    write_text(table, text.getvalue())
