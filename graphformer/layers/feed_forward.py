"""What a block does to each token alone, or to each token and its neighbors in the sequence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.graph import TokenGraph
from graphformer.layers.cache import Cache
from graphformer.layers.dropout import Dropout
from graphformer.layout import Layout


class FeedForward(nn.Module):
    """Two linear maps with a nonlinearity between them, the same for every token.

    Args:
        dim: width of the tokens.
        hidden: width between the maps.
        dropout: probability with which a hidden entry is zero while training.
        activation: the nonlinearity. It may work in place: what it is given is read by nobody else.

    Source: Vaswani et al. 2017 (1706.03762), section 3.3.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        dropout: float = 0.0,
        activation: Callable[[Tensor], Tensor] = F.relu_,
    ) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)
        self.activation = activation
        self.dropout = Dropout(dropout)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Float[Tensor, "token dim"],
        graph: TokenGraph | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "token dim"]:
        """The tokens, each mapped by itself; neither graph nor cache is read."""
        out: Tensor = self.contract(self.dropout(self.activation(self.expand(x))))
        return out


class ConvFeedForward(nn.Module):
    """Two convolutions over the positions of each example, with a nonlinearity between them.

    Nothing crosses from one example to the next, and beyond an example's ends there are zeros.

    Args:
        dim: width of the tokens.
        hidden: width between the convolutions.
        kernel: tokens that a convolution reads: the token itself and, odd, as many on either side;
            where `causal`, those before it.
        dropout: probability with which a hidden entry is zero while training.
        activation: the nonlinearity.
        causal: whether a token is to read none after it.

    Raises:
        ValueError: if `kernel` is even and not `causal`.

    Source: Ren et al. 2019, FastSpeech (1905.09263), section 3.1.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        kernel: int = 3,
        dropout: float = 0.0,
        activation: Callable[[Tensor], Tensor] = F.relu_,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if kernel < 1 or (kernel % 2 == 0 and not causal):
            raise ValueError(
                f"ConvFeedForward got kernel={kernel}: one that reads as many tokens before as "
                "after is odd; write an odd number, or causal=True"
            )
        self.kernel, self.causal = kernel, causal
        self.expand = _convolution(dim, hidden, kernel)
        self.contract = _convolution(hidden, dim, kernel)
        self.activation = activation
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "token dim"], graph: TokenGraph, cache: Cache | None = None
    ) -> Float[Tensor, "token dim"]:
        """The tokens, each mapped with its neighbors in the order of its example.

        Args:
            x: the tokens.
            graph: says where they stand; its edges are not read.
            cache: what a decoder remembers: here the last tokens before these.

        Raises:
            ValueError: if the queries are some of the tokens only, as those of a bipartite graph
                are, and the others are neither in a cache nor all before them.
        """
        if cache is not None and not self.causal:
            raise ValueError(
                "a decoder with a cache has no tokens that follow, and this ConvFeedForward reads "
                "them; write ConvFeedForward(..., causal=True)"
            )
        if cache is None and graph.bipartite:
            raise ValueError(
                "ConvFeedForward reads neighbors in the sequence, and the queries of a bipartite "
                "graph may lack theirs; pass the cache that has them, or write FeedForward"
            )
        layout = graph.queries if cache is None else cache.new
        hidden = self.dropout(self.activation(self._convolve(self.expand, x, layout, cache)))
        return self._convolve(self.contract, hidden, layout, cache)

    def _convolve(
        self,
        convolution: nn.Conv1d,
        x: Float[Tensor, "token _"],
        layout: Layout,
        cache: Cache | None,
    ) -> Float[Tensor, "token _"]:
        """One convolution over all examples, laid end to end with zeros between them.

        With a cache, what it has of the tokens before an example's stands there instead.
        """
        gap = self.kernel - 1
        rows = torch.arange(layout.num_tokens, device=x.device) + gap * (layout.example + 1)
        num_rows = layout.num_tokens + gap * (layout.num_examples + 1)
        spaced = x.new_zeros(num_rows, x.shape[1]).index_copy_(0, rows, x)
        if cache is not None:
            count = torch.arange(layout.num_examples, device=x.device).unsqueeze(1)
            before = gap * count + torch.arange(gap, device=x.device)
            past = cache.recall(convolution)
            if past is not None and past[0] is not None:
                spaced[layout.ptr[:-1].unsqueeze(1) + before] = past[0]
            cache.keep(convolution, (spaced[layout.ptr[1:].unsqueeze(1) + before],))
        out = convolution(spaced.T.unsqueeze(0)).squeeze(0).T
        return out.index_select(0, rows - (gap if self.causal else gap // 2))


def _convolution(dim: int, width: int, kernel: int) -> nn.Conv1d:
    convolution = nn.Conv1d(dim, width, kernel)
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
