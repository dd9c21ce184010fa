"""How many edges end and begin at a token."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from graphformer.layout import Layout
from graphformer.positions.example_edges import ExampleEdges
from graphformer.tokens import Tokens


def degrees(
    edge_index: Int[Tensor, "2 edge"], tokens: Tokens | Layout | int
) -> tuple[Int[Tensor, "token"], Int[Tensor, "token"]]:
    """Edges that end (in-degree) and that begin (out-degree) at each token; 0 at virtual ones.

    A repeated edge counts as often as it is there.

    Args:
        edge_index: ids of source and target, counted without virtual tokens.
        tokens: the tokens, or the number of nodes of a single graph.

    Raises:
        ValueError: if an edge leaves the batch or its example.
    """
    edges = ExampleEdges.of(edge_index, tokens, "degrees")
    sources, targets = edges.edge_index
    counts = [edges.spread(ids.bincount(minlength=edges.num_nodes)) for ids in (targets, sources)]
    return counts[0].to(edge_index.device), counts[1].to(edge_index.device)


class Degree(nn.Module):
    """A learned vector of the in-degree plus one of the out-degree (centrality).

    Args:
        largest: degrees above it share its vector.
        dim: width.

    Source: Ying et al., "Do Transformers Really Perform Bad for Graph Representation?", 2021
    (Graphormer), equation 5.
    """

    def __init__(self, largest: int, dim: int) -> None:
        super().__init__()
        if largest < 0:
            raise ValueError(f"Degree got largest={largest}: give 0 or more edges.")
        self.largest = largest
        self.in_embedding = nn.Embedding(largest + 1, dim)
        self.out_embedding = nn.Embedding(largest + 1, dim)
        for embedding in (self.in_embedding, self.out_embedding):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(
        self, in_degree: Int[Tensor, "token"], out_degree: Int[Tensor, "token"]
    ) -> Float[Tensor, "token dim"]:
        """The vectors of the degrees: those of `degrees(edge_index, tokens)`, or of a graph."""
        arriving: Tensor = self.in_embedding(in_degree.clamp(max=self.largest))
        leaving: Tensor = self.out_embedding(out_degree.clamp(max=self.largest))
        return arriving + leaving

    def extra_repr(self) -> str:
        return f"largest={self.largest}"
