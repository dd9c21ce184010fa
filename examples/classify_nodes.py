"""One block, three scores, three topologies: handwritten digits, each beside those like it.

python examples/classify_nodes.py

Ten digits of each class have a label. Where a digit hears itself alone, the network is a
perceptron, whatever the score; over its neighbors it is a graph convolution, a graph attention
network or a graph transformer; and two steps away is one more word.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from graphformer import (
    Additive,
    DotProduct,
    SymmetricDegree,
    TokenGraph,
    edges,
    hops,
    nodes,
    self_loops,
)
from graphformer.data.digits import digits
from graphformer.data.graph_data import GraphData
from graphformer.layers import Attention, Block

DIM, HEADS, LAYERS = 64, 4, 2

SCORES: dict[str, Callable[[], nn.Module]] = {
    "SymmetricDegree": lambda: Attention(DIM, 1, SymmetricDegree(), normalize="none"),
    "Additive": lambda: Attention(DIM, HEADS, Additive(HEADS), shared=True),
    "DotProduct": lambda: Attention(DIM, HEADS, DotProduct()),
}


class Classifier(nn.Module):
    """Blocks with this attention, between two linear maps."""

    def __init__(self, attention: Callable[[], nn.Module], in_dim: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Linear(in_dim, DIM)
        self.blocks = nn.ModuleList(Block(DIM, attention(), dropout=0.5) for _ in range(LAYERS))
        self.classes = nn.Linear(DIM, num_classes)

    def forward(self, x: Tensor, graph: TokenGraph) -> Tensor:
        x = self.features(x)
        for block in self.blocks:
            x = F.relu(block(x, graph))
        return self.classes(x)


def train(model: Classifier, data: GraphData, graph: TokenGraph, num_epochs: int) -> float:
    """Accuracy on the test nodes after training on the few that have labels."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    seen, held_out = data.train_mask[0], data.test_mask[0]
    for _ in range(num_epochs):
        loss = F.cross_entropy(model(data.x, graph)[seen], data.y[seen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model(data.x, graph).argmax(-1)
    return float((found == data.y)[held_out].float().mean())


def main(num_epochs: int) -> None:
    data = digits()
    tokens = nodes(Data(x=data.x, edge_index=data.edge_index))
    topologies = {
        "itself": self_loops(),
        "neighbors": edges(data.edge_index) | self_loops(),
        "two steps": hops(data.edge_index, 2) | self_loops(),
    }
    graphs = {name: topology.bind(tokens) for name, topology in topologies.items()}
    print(data.name)
    print(f"{'':<16}" + "".join(f"{name:>12}" for name in graphs))
    for score, attention in SCORES.items():
        row = []
        for graph in graphs.values():
            torch.manual_seed(0)
            model = Classifier(attention, data.x.shape[1], data.num_classes)
            row.append(train(model, data, graph, num_epochs))
        print(f"{score:<16}" + "".join(f"{accuracy:>12.1%}" for accuracy in row))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train for a few epochs only")
    main(num_epochs=3 if parser.parse_args().quick else 60)
