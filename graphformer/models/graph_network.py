"""What the networks for graphs have in common: blocks of convolutions, and what stands around."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.graph import TokenGraph
from graphformer.layers import Block
from graphformer.layers.dropout import Dropout
from graphformer.tokens import Tokens

Norm = Callable[[int], nn.Module]


class Frame(NamedTuple):
    """What stands around the convolutions of a network.

    Attributes:
        widths: width of the tokens before, between and behind the convolutions.
        norm: makes the norm behind a convolution of a width, or None.
        skip: makes what carries tokens past a convolution from its widths, or None.
        head: what tokens go through in the end, or None.
    """

    widths: list[int]
    norm: Norm | None = None
    skip: Callable[[int, int], nn.Module] | None = None
    head: nn.Module | None = None

    @classmethod
    def of(
        cls,
        dims: tuple[int, int, int],
        layers: int,
        norm: Norm | None = None,
        residual: bool = False,
    ) -> Frame:
        """The frame of the first papers; or, given a norm or residual, that of tuned networks.

        In the first the last convolution gives the outputs. In the second all are of the hidden
        width, each may have a linear map past it and a norm behind it, and a linear head follows.

        Args:
            dims: widths of features, between layers, and of outputs.
            layers: number of convolutions.
            norm: makes a norm of a width.
            residual: whether there are linear maps past the convolutions.

        Source: Luo et al. 2024, Classic GNNs are Strong Baselines (2406.08993), section 3.
        """
        in_dim, hidden, out_dim = dims
        if norm is None and not residual:
            return cls([in_dim, *[hidden] * (layers - 1), out_dim])
        skip = nn.Linear if residual else None
        return cls([in_dim, *[hidden] * layers], norm, skip, nn.Linear(hidden, out_dim))


class GraphNetwork(nn.Module):
    """Convolutions one after another, each in a block, with dropout and a nonlinearity between.

    Args:
        convolutions: the layers, each called as `layer(x, graph, ...)`.
        frame: what stands around them.
        dropout: probability of zero of what enters a block or the head while training; where there
            is a head, features enter whole.
        activation: the nonlinearity behind each block, but for the last where there is no head.
    """

    def __init__(
        self,
        convolutions: Sequence[nn.Module],
        frame: Frame,
        dropout: float,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        widths, norm, skip, self.head = frame
        self.blocks = nn.ModuleList(
            Block(
                width,
                convolution,
                norm=norm,
                norm_first=False,
                skip=None if skip is None else partial(skip, dim, width),
            )
            for convolution, (dim, width) in zip(convolutions, pairwise(widths), strict=True)
        )
        self.activation, self.dropout = activation, Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "node dim"] | Tokens, graph: TokenGraph
    ) -> Float[Tensor, "node out_dim"]:
        """Outputs of each node, such as logits of its class.

        Args:
            x: features, or tokens that have them.
            graph: who hears whom.
        """
        hidden = values_of(x)
        for number, block in enumerate(self.blocks):
            if number:
                hidden = self.activation(hidden)
            if number or self.head is None:
                hidden = self.dropout(hidden)
            hidden = block(hidden, graph)
        return hidden if self.head is None else self.head(self.dropout(self.activation(hidden)))


def values_of(x: Tensor | Tokens) -> Tensor:
    """The values themselves, or those of tokens."""
    return x.x if isinstance(x, Tokens) else x
