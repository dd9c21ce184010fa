"""A graph attention network of PyG, made faster in place: one call, the same weights and results.

python examples/accelerate_gat.py

Nodes of a few communities have noisy features, and most edges lead to a node of one's own
community. A two-layer GAT, written with PyG alone, is trained for a while; then its layers are
swapped, and training goes on with the same optimizer.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATConv

from graphformer import accelerate

COMMUNITIES, DIM = 4, 16


class GAT(nn.Module):
    """Two layers, as in the paper: heads side by side, then one output for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = GATConv(DIM, 8, heads=8)
        self.conv2 = GATConv(64, COMMUNITIES, heads=1)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(F.elu(self.conv1(x, edge_index)), edge_index)


def draw(num_nodes: int, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, edges and communities of the nodes."""
    community = torch.arange(num_nodes) % COMMUNITIES
    x = torch.randn(COMMUNITIES, DIM)[community] + 3 * torch.randn(num_nodes, DIM)
    target = torch.arange(num_nodes).repeat_interleave(degree)
    source = torch.randint(num_nodes // COMMUNITIES, target.shape) * COMMUNITIES + community[target]
    stray = torch.rand(target.shape) < 0.2
    source = torch.where(stray, torch.randint(num_nodes, target.shape), source)
    return x, torch.stack([source, target]), community


def main(num_nodes: int, num_steps: int) -> None:
    torch.manual_seed(0)
    x, edge_index, community = draw(num_nodes, degree=8)
    half = num_nodes // 2
    model = GAT()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train() -> None:
        for _ in range(num_steps):
            loss = F.cross_entropy(model(x, edge_index)[:half], community[:half])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def report(when: str) -> Tensor:
        with torch.no_grad():
            out = model(x, edge_index)
        hit = (out[half:].argmax(-1) == community[half:]).float().mean()
        print(f"{when:<30} {hit:.1%} of the other half is right")
        return out

    train()
    before = report("trained with PyG's layers")
    print(accelerate(model))
    after = report("the same weights, our layers")
    print(f"largest difference of a logit: {(before - after).abs().max():.0e}")
    train()
    report("trained on")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train for a few steps only")
    quick = parser.parse_args().quick
    main(num_nodes=200 if quick else 2000, num_steps=3 if quick else 30)
