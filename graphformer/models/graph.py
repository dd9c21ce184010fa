"""Networks for graphs: settings of one block, over `edges(...) | self_loops()` and the like."""

from __future__ import annotations

import copy
from functools import partial
from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.graph import TokenGraph
from graphformer.layers import Attention, Block, FeedForward, GraphConvolution
from graphformer.layers.dropout import Dropout
from graphformer.models.graph_network import Frame, GraphNetwork, Norm, values_of
from graphformer.scores import Additive, Mean, Score, SymmetricDegree
from graphformer.tokens import Tokens

__all__ = ["GAT", "GCN", "MLP", "GraphNetwork", "GraphSAGE", "GraphTransformer"]


class GCN(GraphNetwork):
    """Graph convolutions: nodes are averaged by the inverse roots of their degrees.

    Args:
        in_dim: number of features.
        hidden: width between layers.
        out_dim: number of outputs.
        layers: number of convolutions.
        dropout: probability of zero of what enters a layer.
        norm: makes a norm of a width, such as `nn.BatchNorm1d`; see `Frame.of`.
        residual: whether there are linear maps past the convolutions; see `Frame.of`.

    Source: Kipf and Welling 2017 (1609.02907), with 16 hidden and dropout 0.5.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        out_dim: int,
        layers: int = 2,
        dropout: float = 0.5,
        norm: Norm | None = None,
        residual: bool = False,
    ) -> None:
        frame = Frame.of((in_dim, hidden, out_dim), layers, norm, residual)
        convolutions = [
            GraphConvolution(dim, 1, SymmetricDegree(), head_dim=width, normalize="none")
            for dim, width in pairwise(frame.widths)
        ]
        super().__init__(convolutions, frame, dropout)


class GAT(GraphNetwork):
    """Graph attention: each node learns whom to hear, with several heads side by side.

    Args:
        in_dim: number of features.
        hidden: width of a head between layers.
        out_dim: number of outputs.
        layers: number of convolutions.
        heads: number of heads; the layer that gives the outputs has one.
        dropout: probability of zero of what enters a layer, and, without norm and residual, of an
            attention weight.
        norm: makes a norm of a width, such as `nn.BatchNorm1d`; see `Frame.of`.
        residual: whether there are linear maps past the convolutions; see `Frame.of`.

    Source: Velickovic et al. 2018 (1710.10903), with 8 heads of 8 and dropout 0.6.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        out_dim: int,
        layers: int = 2,
        heads: int = 8,
        dropout: float = 0.6,
        norm: Norm | None = None,
        residual: bool = False,
    ) -> None:
        frame = Frame.of((in_dim, heads * hidden, out_dim), layers, norm, residual)
        counts = [heads] * layers
        if frame.head is None:
            counts[-1] = 1
        convolutions = [
            GraphConvolution(
                dim,
                count,
                Additive(count),
                head_dim=width // count,
                shared=True,
                dropout=dropout if frame.head is None else 0.0,
            )
            for count, (dim, width) in zip(counts, pairwise(frame.widths), strict=True)
        ]
        super().__init__(convolutions, frame, dropout, F.elu)


class GraphSAGE(GraphNetwork):
    """A linear map of each node, plus one of the mean of those it hears.

    Bind it to the edges without self loops: a node reaches itself by a map of its own.

    Args:
        in_dim: number of features.
        hidden: width between layers.
        out_dim: number of outputs.
        layers: number of convolutions.
        dropout: probability of zero of what enters a layer.
        norm: makes a norm of a width, such as `nn.BatchNorm1d`; see `Frame.of`.

    Source: Hamilton et al. 2017 (1706.02216), algorithm 1 with means, without its normalization.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        out_dim: int,
        layers: int = 2,
        dropout: float = 0.5,
        norm: Norm | None = None,
    ) -> None:
        frame = Frame.of((in_dim, hidden, out_dim), layers, norm)
        convolutions = [
            GraphConvolution(dim, 1, Mean(), head_dim=width)
            for dim, width in pairwise(frame.widths)
        ]
        frame = frame._replace(skip=partial(nn.Linear, bias=False))
        super().__init__(convolutions, frame, dropout)


class MLP(GraphNetwork):
    """Linear maps of each node alone: what a graph network has to beat.

    Args:
        in_dim: number of features.
        hidden: width between layers.
        out_dim: number of outputs.
        layers: number of maps.
        dropout: probability of zero of what enters a layer.
        norm: makes a norm of a width, such as `nn.BatchNorm1d`; see `Frame.of`.
        residual: whether there are linear maps past the maps; see `Frame.of`.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        out_dim: int,
        layers: int = 2,
        dropout: float = 0.5,
        norm: Norm | None = None,
        residual: bool = False,
    ) -> None:
        frame = Frame.of((in_dim, hidden, out_dim), layers, norm, residual)
        convolutions = [Alone(*widths) for widths in pairwise(frame.widths)]
        super().__init__(convolutions, frame, dropout)


class GraphTransformer(nn.Module):
    """The Transformer's blocks over the nodes of a graph.

    Args:
        in_dim: number of features.
        hidden: width of the tokens; twice as much inside the feed-forward networks.
        out_dim: number of outputs.
        layers: number of blocks.
        heads: number of heads.
        dropout: probability of zero behind the features, behind each part of a block, and inside
            the feed-forward networks.
        score: how strongly a node hears another, or its notation; each layer has a copy.

    Source: Dwivedi and Bresson 2021 (2012.09699), with norms before the parts of a block.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: int,
        out_dim: int,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.5,
        score: Score | str = "DotProduct()",
    ) -> None:
        super().__init__()
        score = Score.parse(score) if isinstance(score, str) else score
        self.features = nn.Linear(in_dim, hidden)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                hidden,
                Attention(hidden, heads, copy.deepcopy(score)),
                FeedForward(hidden, 2 * hidden, dropout),
                dropout=dropout,
            )
            for _ in range(layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, out_dim))

    def forward(
        self, x: Float[Tensor, "node dim"] | Tokens, graph: TokenGraph
    ) -> Float[Tensor, "node out_dim"]:
        """Outputs of each node, such as logits of its class.

        Args:
            x: features, or tokens that have them.
            graph: who hears whom.
        """
        x = self.dropout(self.features(values_of(x)))
        for block in self.blocks:
            x = block(x, graph)
        out: Tensor = self.head(x)
        return out


class Alone(nn.Linear):
    """A linear map called as attention is, which hears nobody."""

    def forward(self, x: Float[Tensor, "node dim"], *unheard: Any) -> Float[Tensor, "node width"]:
        return super().forward(x)
