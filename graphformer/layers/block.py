"""A block: attention, attention to a memory and a feed-forward network, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from graphformer.graph import TokenGraph
from graphformer.layers.cache import Cache
from graphformer.layers.dropout import Dropout


class Block(nn.Module):
    """One layer of a transformer or of a graph network, as its settings have it.

    Args:
        dim: width of the tokens that leave each of its parts, where they are normalized.
        attention: a layer called as `attention(x, graph, memory, cache)`.
        feed_forward: a layer called as `feed_forward(x, graph)`, and with a cache as
            `feed_forward(x, graph, cache)`, or None.
        cross: a layer called as `attention` is, with the memory, or None.
        norm: makes the norm of a width, or None for no norms.
        norm_first: whether a part sees normalized tokens and adds to the others, instead of sums
            being normalized.
        dropout: probability with which an entry of what a part gives is zero while training.
        skip: makes what carries tokens past a part: the identity, a linear map where widths
            differ, or None for nothing.

    Attributes:
        checkpoint: whether training keeps only what enters the block, and computes it once more
            in the backward, with the same dropout. May be set at any time.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        feed_forward: nn.Module | None = None,
        cross: nn.Module | None = None,
        *,
        norm: Callable[[int], nn.Module] | None = nn.LayerNorm,
        norm_first: bool = True,
        dropout: float = 0.0,
        skip: Callable[[], nn.Module] | None = nn.Identity,
    ) -> None:
        super().__init__()

        def part(layer: nn.Module) -> Part:
            made = None if norm is None else norm(dim)
            return Part(layer, made, norm_first, dropout, None if skip is None else skip())

        self.attention = part(attention)
        self.cross = None if cross is None else part(cross)
        self.feed_forward = None if feed_forward is None else part(feed_forward)
        self.checkpoint = False

    def forward(
        self,
        x: Float[Tensor, "token dim"],
        graph: TokenGraph,
        memory: Float[Tensor, "key dim"] | None = None,
        memory_graph: TokenGraph | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "token width"]:
        """The tokens, one layer on.

        Args:
            x: the tokens.
            graph: who attends to whom among them, or with a cache to what it remembers.
            memory: the tokens that `cross` attends to.
            memory_graph: who attends to whom there.
            cache: what a decoder remembers.

        Raises:
            ValueError: if there is a memory without `cross`, or `cross` without a memory.
        """
        if (memory is None) != (self.cross is None):
            raise ValueError(_memory_refusal(memory))
        arguments = (x, graph, memory, memory_graph, cache)
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(self._run, *arguments, use_reentrant=False)
        return self._run(*arguments)

    def _run(
        self,
        x: Tensor,
        graph: TokenGraph,
        memory: Tensor | None,
        memory_graph: TokenGraph | None,
        cache: Cache | None,
    ) -> Tensor:
        x = self.attention(x, graph, None, cache)
        if self.cross is not None:
            x = self.cross(x, memory_graph, memory, cache)
        if self.feed_forward is None:
            return x
        return self.feed_forward(x, graph, *(() if cache is None else (cache,)))


class Part(nn.Module):
    """A layer with what stands around it: a norm, dropout, and a way past it.

    Args:
        layer: what is called with the tokens and further arguments.
        norm: the norm, or None.
        norm_first: whether the norm stands before the layer instead of behind the sum.
        dropout: probability with which an entry of what the layer gives is zero while training.
        skip: what carries the tokens past the layer, or None.
    """

    def __init__(
        self,
        layer: nn.Module,
        norm: nn.Module | None,
        norm_first: bool,
        dropout: float,
        skip: nn.Module | None,
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.norm_first, self.skip = layer, norm, norm_first, skip
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "token dim"], *arguments: Any) -> Tensor:
        before = self.norm if self.norm_first else None
        behind = None if self.norm_first else self.norm
        out = self.layer(x if before is None else before(x), *arguments)
        out = self.dropout(out)
        if self.skip is not None:
            out = self.skip(x) + out
        return out if behind is None else behind(out)


def _memory_refusal(memory: Tensor | None) -> str:
    if memory is None:
        return "this block attends to a memory; call it as block(x, graph, memory, memory_graph)"
    return "this block has nothing that attends to a memory; give it cross=Attention(dim, heads)"
