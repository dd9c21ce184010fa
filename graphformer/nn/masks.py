"""Masks of torch's `MultiheadAttention`: graphs where they say who hears whom, else numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graphformer.graph import TokenGraph
from graphformer.layout import Layout, Pair
from graphformer.nn.memory import remembered
from graphformer.topology import Topology, causal, complete, where


class Sizes(NamedTuple):
    """Numbers of examples, and of the queries and keys of each, on a device."""

    examples: int
    queries: int
    keys: int
    device: torch.device


class Masks(NamedTuple):
    """What an attention may not hear; True or minus infinity where it may not.

    Attributes:
        pairs: [query, key], or [example * head, query, key], or None.
        padding: [example, key], or None.
        causal: whether the caller says that `pairs` is the causal mask.
    """

    pairs: Tensor | None
    padding: Tensor | None
    causal: bool

    def fit(self, shape: tuple[int, int, int, int], alone: bool) -> bool:
        """Whether they are masks of these examples, heads, queries and keys.

        Args:
            shape: numbers of examples, heads, queries and keys.
            alone: whether there is one example without an axis for it.
        """
        examples, heads, queries, keys = shape
        padding = (keys,) if alone else (examples, keys)
        pairs = ((queries, keys), (examples * heads, queries, keys))
        return (
            (self.pairs is None or tuple(self.pairs.shape) in pairs)
            and (self.padding is None or tuple(self.padding.shape) == padding)
            and all(
                mask is None or mask.dtype == torch.bool or mask.is_floating_point()
                for mask in (self.pairs, self.padding)
            )
        )

    def graph(self, sizes: Sizes) -> TokenGraph | None:
        """Who hears whom, bound once for all layers; None where it takes more to say it."""
        pairs = None if self.causal else self.pairs
        if pairs is not None and (pairs.dim() != 2 or self.padding is not None):
            return None
        for mask in (pairs, self.padding):
            if mask is not None and not _says_who(mask):
                return None
        padding = self.padding
        if padding is not None:
            settings = (sizes, self.causal)
            return remembered(padding, settings, lambda: _without_padding(padding, *settings))
        if pairs is not None:
            return remembered(pairs, sizes, lambda: _of_pairs(sizes, pairs))
        return _plain(sizes, self.causal)

    def numbers(self, sizes: Sizes, dtype: torch.dtype) -> Float[Tensor, "_ _ _ key"] | None:
        """What is added to the scores [example, head, query, key], or None."""
        total = None
        if self.pairs is not None:
            total = _float(self.pairs, dtype)
            total = (
                total.unflatten(0, (sizes.examples, -1)) if total.dim() == 3 else total[None, None]
            )
        if self.padding is not None:
            padding = _float(self.padding, dtype).view(-1, 1, 1, sizes.keys)
            total = padding if total is None else total + padding
        return total


def _says_who(mask: Tensor) -> bool:
    """Whether a mask adds nothing to the scores of those who are heard."""
    if mask.dtype == torch.bool:
        return True
    if mask.requires_grad:
        return False
    return remembered(mask, "says who", lambda: bool(((mask == 0) | (mask == -torch.inf)).all()))


def _float(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)


def _layout(examples: int, length: int, device: torch.device) -> Layout:
    ptr = torch.arange(examples + 1, device=device) * length
    at = torch.arange(length, device=device).repeat(examples).unsqueeze(1)
    return Layout(ptr, at, torch.full((examples,), length), 0, True)


# Such graphs hold little, and only the last of them.
@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _plain(sizes: Sizes, is_causal: bool) -> TokenGraph:
    return _bind(causal() if is_causal else complete(), sizes)


def _of_pairs(sizes: Sizes, mask: Tensor) -> TokenGraph:
    heard = mask == 0 if mask.is_floating_point() else ~mask

    def hears(pair: Pair) -> Bool[Tensor, "*pair 1"]:
        return heard[pair.query_position(), pair.key_position()]

    graph = _bind(where(hears), sizes)
    # Known without going through all pairs of all examples.
    graph._made["num_edges"] = int(heard.sum()) * sizes.examples
    return graph


def _bind(topology: Topology, sizes: Sizes) -> TokenGraph:
    queries = _layout(sizes.examples, sizes.queries, sizes.device)
    if sizes.queries == sizes.keys:
        return topology.bind(queries)
    return topology.bind(queries, _layout(sizes.examples, sizes.keys, sizes.device))


def _without_padding(padding: Tensor, sizes: Sizes, is_causal: bool) -> TokenGraph:
    """The graph whose keys are those that are no padding, in their places."""
    kept = (padding == 0 if padding.is_floating_point() else ~padding).view(sizes.examples, -1)
    lengths = kept.sum(1)
    ptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    at = kept.nonzero()[:, 1:]
    at_the_end = bool((kept[:, 1:] <= kept[:, :-1]).all())
    keys = Layout(ptr, at, lengths.cpu(), 0, at_the_end)
    queries = _layout(sizes.examples, sizes.queries, sizes.device)
    return (causal() if is_causal else complete()).bind(queries, keys)
