"""Rules about the distance from a query to its key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.layout import Layout, Pair
from graphformer.topology import counting
from graphformer.topology.algebra import Topology
from graphformer.topology.arguments import whole_number
from graphformer.topology.listing import FAR, list_ranges


@dataclass(frozen=True, repr=False)
class Band(Topology):
    """Keys at distances `low` to `high` that are multiples of `step`.

    A distance is key position minus query position, in tokens. The bounds are kept as multiples of
    `step`; a band whose `low` is above its `high` is empty.

    Attributes:
        low: least distance; None where unbounded.
        high: greatest distance; None where unbounded.
        step: distances are multiples of it.
        skips_virtual: pairs with a virtual token are left out.
    """

    low: int | None = None
    high: int | None = None
    step: int = 1
    skips_virtual: bool = False

    def __post_init__(self) -> None:
        step = whole_number("Band", "step", self.step, 1)
        low = None if self.low is None else whole_number("Band", "low", self.low)
        high = None if self.high is None else whole_number("Band", "high", self.high)
        low, high = counting.rounded(low, high, step)
        for name, value in (("low", low), ("high", high), ("step", step)):
            object.__setattr__(self, name, value)

    @classmethod
    def of_form(cls, form: counting.Form | None) -> Band | None:
        """The band that a closed form is, or None where it is none."""
        if form is None or len(form) != 1:
            return None
        term, sign = next(iter(form.items()))
        if sign != 1 or term.num_global is not None or term.distances is not None:
            return None
        return cls(term.low, term.high, term.step, term.skips_virtual)

    @cached_property
    def closed_form(self) -> counting.Form | None:
        return {counting.Term(self.low, self.high, self.step, self.skips_virtual): 1}

    def contains(self, pair: Pair) -> Bool[Tensor, "*pair 1"]:
        distance = pair.distance
        inside = torch.ones_like(distance, dtype=torch.bool)
        if self.low is not None:
            inside = inside & (distance >= self.low)
        if self.high is not None:
            inside = inside & (distance <= self.high)
        if self.step > 1:
            inside = inside & (distance % self.step == 0)
        return inside & are_real(pair) if self.skips_virtual else inside

    def list_edges(
        self, queries: Layout, keys: Layout
    ) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
        query = torch.arange(queries.num_tokens, device=queries.device)
        position = queries.at[:, 0]
        # Any multiple of the step stands for no lower bound, so that keys keep its rhythm.
        low = -(FAR // self.step) * self.step if self.low is None else self.low
        high = FAR if self.high is None else self.high
        return list_ranges(
            query,
            position + low,
            position + high,
            queries,
            keys,
            step=self.step,
            skips_virtual=self.skips_virtual,
        )

    def transposed(self) -> Topology:
        low = None if self.high is None else -self.high
        return Band(low, None if self.low is None else -self.low, self.step, self.skips_virtual)

    def __repr__(self) -> str:
        bounds = (self.low, self.high)
        if self.step == 1 and not self.skips_virtual and bounds in _PLAIN_NAMES:
            return f"{_PLAIN_NAMES[bounds]}()"
        if self.skips_virtual and bounds == (None, None):
            return f"strided({self.step})"
        radius = -1 if self.high is None else self.high // self.step
        if self.skips_virtual and radius >= 0 and self.low == -radius * self.step:
            dilation = f", dilation={self.step}" if self.step > 1 else ""
            return f"window({radius}{dilation})"
        step = f", step={self.step}" if self.step > 1 else ""
        skips = ", skips_virtual=True" if self.skips_virtual else ""
        return f"Band({self.low}, {self.high}{step}{skips})"


_PLAIN_NAMES = {(None, None): "complete", (None, 0): "causal", (0, 0): "self_loops"}


def complete() -> Band:
    """Every token attends to every token of its example, virtual ones included."""
    return Band()


def causal() -> Band:
    """Every token attends to itself and to what stands before it, virtual tokens included."""
    return Band(high=0)


def self_loops() -> Band:
    """Every token attends to the token at its own position."""
    return Band(0, 0)


def window(radius: int, dilation: int = 1) -> Band:
    """Every token attends to the `radius` nearest on either side, and to itself.

    Virtual tokens are left out. Source: Beltagy et al. 2020 (Longformer), section 3.1.

    Args:
        radius: keys on each side.
        dilation: tokens from one key to the next.

    Raises:
        TypeError: if an argument is no whole number.
        ValueError: if `radius` is negative, or `dilation` below 1.
    """
    radius = whole_number("window", "radius", radius, 0)
    dilation = whole_number("window", "dilation", dilation, 1)
    return Band(-radius * dilation, radius * dilation, dilation, skips_virtual=True)


def strided(step: int) -> Band:
    """Every token attends to those at distances divisible by `step`, on either side.

    Virtual tokens are left out. Source: Child et al. 2019 (Sparse Transformer), section 4.3.

    Args:
        step: tokens from one key to the next.

    Raises:
        TypeError: if `step` is no whole number.
        ValueError: if it is below 1.
    """
    return Band(step=whole_number("strided", "step", step, 1), skips_virtual=True)


def are_real(pair: Pair) -> Bool[Tensor, "*pair 1"]:
    """Whether neither the query nor the key is a virtual token."""
    return (pair.query_position() >= 0) & (pair.key_position() >= 0)
