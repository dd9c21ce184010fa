"""Flat tokens in the order in which torch's recurrent layers read them."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from graphformer.tokens import Tokens


def time_major(tokens: Tokens) -> tuple[Int[Tensor, "token"], Int[Tensor, "step"]]:
    """The order that torch packs sequences in: all first tokens, those of the longest in front.

    Returns:
        The rows in this order, and how many there are of each step.
    """
    rank = torch.empty_like(tokens.lengths)
    longest_first = tokens.lengths.argsort(descending=True, stable=True)
    rank[longest_first] = torch.arange(tokens.num_examples)
    example = torch.arange(tokens.num_examples).repeat_interleave(tokens.lengths)
    start = tokens.lengths.cumsum(0) - tokens.lengths
    step = torch.arange(tokens.num_tokens) - start[example]
    order = (step * tokens.num_examples + rank[example]).argsort()
    return order.to(tokens.ptr.device), torch.bincount(step)
