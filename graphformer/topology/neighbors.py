"""Nearest neighbors in a feature space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphformer.layout import Layout
from graphformer.topology.arguments import whole_number
from graphformer.topology.edge_list import Pending

# Distances held at once: 64 MiB in float32.
CHUNK = 2**24


@dataclass(frozen=True, eq=False, repr=False)
class Nearest(Pending):
    """Edges to each token from those of its example whose features are nearest.

    Attributes:
        x: features of the tokens, without virtual ones.
        num_neighbors: keys of each query.
    """

    x: Float[Tensor, "token dim"]
    num_neighbors: int

    def find(
        self, queries: Layout, keys: Layout, edge_index_by_name: Mapping[str, Tensor]
    ) -> Int[Tensor, "2 edge"]:
        lengths = queries.lengths - queries.num_virtual
        if not torch.equal(lengths, keys.lengths - keys.num_virtual):
            raise ValueError(
                f"{self!r} joins tokens of one set, but queries and keys differ in length: bind it "
                "without keys"
            )
        if self.x.shape[0] != int(lengths.sum()):
            raise ValueError(
                f"{self!r} got features of {self.x.shape[0]} tokens, the batch has "
                f"{int(lengths.sum())} (virtual ones not counted): give nearest() one row a token"
            )
        parts = list(self._chunks(lengths))
        if not parts:
            return torch.zeros(2, 0, dtype=torch.int64, device=self.x.device)
        key, query = torch.cat(parts, 1)
        order = torch.argsort(query, stable=True)
        return torch.stack([key[order], query[order]])

    def _chunks(self, lengths: Int[Tensor, "example"]) -> Iterator[Int[Tensor, "2 edge"]]:
        """Edges of some examples of one length, and of some queries of each, at a time."""
        start = lengths.cumsum(0) - lengths
        for size in torch.unique(lengths).tolist():
            if size < 2:
                continue
            rows = max(1, min(size, CHUNK // size))
            for first in start[lengths == size].split(max(1, CHUNK // size**2)):
                token = (first[:, None] + torch.arange(size)).to(self.x.device)
                for begin in range(0, size, rows):
                    yield self._nearest(token, begin, min(begin + rows, size))

    def _nearest(
        self, token: Int[Tensor, "example token"], begin: int, end: int
    ) -> Int[Tensor, "2 edge"]:
        wide = torch.promote_types(self.x.dtype, torch.float32)
        x = self.x.detach()[token].to(wide)
        # Not by matrix products, whose rounding depends on what else is in the batch.
        distance = torch.cdist(x[:, begin:end], x, compute_mode="donot_use_mm_for_euclid_dist")
        distance.diagonal(begin, 1, 2).fill_(float("inf"))
        count = min(self.num_neighbors, token.shape[1] - 1)
        nearest = distance.topk(count, largest=False).indices
        query = token[:, begin:end, None].expand_as(nearest)
        key = token[:, None].expand(-1, end - begin, -1).gather(2, nearest)
        return torch.stack([key.flatten(), query.flatten()])

    def __repr__(self) -> str:
        return f"nearest(..., {self.num_neighbors})"


def nearest(x: Tensor, k: int) -> Nearest:
    """Every token attends to the `k` others of its example that are nearest to it.

    By Euclidean distance; to all others where an example has fewer. Distances are never held for
    all pairs at once.

    Args:
        x: features of the batch's tokens without virtual ones, floating [token, dim].
        k: keys of each query.

    Raises:
        TypeError: if `x` is no floating tensor, or `k` no whole number.
        ValueError: if `x` has another shape or is not finite, or `k` is below 1.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"nearest() got x of {what}: write floating features [token, dim]")
    if x.dim() != 2:
        raise ValueError(
            f"nearest() got x of shape {list(x.shape)}: write features [token, dim], such as "
            "tokens.x"
        )
    if not bool(x.isfinite().all()):
        raise ValueError("nearest() got x with NaN or infinite values: no distance compares them")
    return Nearest(x, whole_number("nearest", "k", k, 1))
