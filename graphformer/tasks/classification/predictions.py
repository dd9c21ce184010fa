"""What a trained network says of each node."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from graphformer.data.graph_data import UNLABELED, GraphData
from graphformer.tasks.classification.learner import Nodes
from graphformer.tasks.classification.network import build_network
from graphformer.tasks.classification.trained import Trained


def probabilities(trained: Trained, graph: GraphData) -> Float[Tensor, "node class"]:
    """The probability of each class at each node."""
    network, training = trained.network, trained.training
    built = build_network(network, training, trained.num_features, len(trained.class_names))
    built.load_state_dict(trained.weights)
    nodes = Nodes.of(graph, network, training).to(torch.device("cpu"))
    with torch.no_grad():
        return built.eval()(nodes.x, nodes.graph).softmax(1)


def write_predictions(
    table: Path, probability: Float[Tensor, "node class"], graph: GraphData
) -> None:
    """A row a node: its name, the likeliest class, its probability, and the class if known."""
    highest, predicted = (each.tolist() for each in probability.max(1))
    names = graph.node_names or range(graph.num_nodes)
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["node", "predicted", "probability", "class"])
        columns = names, predicted, highest, graph.y.tolist()
        for name, number, chance, label in zip(*columns, strict=True):
            known = "" if label == UNLABELED else graph.class_names[label]
            writer.writerow([name, graph.class_names[number], f"{chance:.4f}", known])
