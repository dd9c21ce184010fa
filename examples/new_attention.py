"""A new attention in ten lines: cosine similarity, with one temperature per head.

python examples/new_attention.py

Tried on recall. A memory holds directions of random length, each with a symbol; a query is a noisy
copy of one direction, and its symbol is to be told. Length says nothing here, and a dot product
cannot help but hear it.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer import BilinearScore, DotProduct, Score, Tokens, complete, explain, sequences
from graphformer.layers import Attention

HEADS, DIRECTION, SYMBOLS = 2, 8, 24


class Cosine(BilinearScore):
    """Cosine similarity with one learned temperature per head."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads
        self.scale = nn.Parameter(torch.full((heads, 1), 10.0))

    def prepare_query(self, query, side):
        return F.normalize(query, dim=-1) * self.scale

    def prepare_key(self, key, side):
        return F.normalize(key, dim=-1)


def draw(num_examples: int) -> tuple[Tokens, Tokens, Tensor]:
    """Queries, memories of 4 to 16 tokens, and the symbol that each query should find."""
    lengths = torch.randint(4, 17, (num_examples,)).tolist()
    direction = F.normalize(torch.randn(sum(lengths), DIRECTION), dim=-1)
    symbol = torch.randint(SYMBOLS, (sum(lengths),))
    stretched = direction * torch.empty(sum(lengths), 1).uniform_(0.2, 5)
    memory = torch.cat([stretched, F.one_hot(symbol, SYMBOLS).float()], dim=1)
    noisy = F.pad(direction + 0.1 * torch.randn_like(direction), (0, SYMBOLS))
    return sequences(noisy.split(lengths)), sequences(memory.split(lengths)), symbol


def train(score: Score, num_steps: int) -> float:
    """Accuracy on examples never seen, after training one layer of attention."""
    torch.manual_seed(0)
    dim = DIRECTION + SYMBOLS
    attention, read = Attention(dim, HEADS, score=score), nn.Linear(dim, SYMBOLS)
    optimizer = torch.optim.Adam([*attention.parameters(), *read.parameters()], lr=3e-3)
    for _ in range(num_steps):
        queries, memory, answers = draw(32)
        graph = complete().bind(queries, keys=memory)
        loss = F.cross_entropy(read(attention(queries.x, graph, memory.x)), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    queries, memory, answers = draw(200)
    with torch.no_grad():
        found = read(attention(queries.x, complete().bind(queries, keys=memory), memory.x))
    return float((found.argmax(-1) == answers).float().mean())


def main(num_steps: int) -> None:
    for score in (DotProduct(), Cosine(HEADS)):
        print(f"{type(score).__name__:<12} recalls {train(score, num_steps):.1%}")
    queries, memory, _ = draw(32)
    print("\nIt runs where the dot product runs:\n")
    print(explain(complete().bind(queries, keys=memory), Cosine(HEADS), heads=HEADS, dim=16))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train for a few steps only")
    main(num_steps=5 if parser.parse_args().quick else 300)
