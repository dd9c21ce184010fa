"""How many pairs a topology holds, counted without listing them.

The indicator function of a union is `A + B - A B`, of a difference `A - A B`, of an intersection
`A B`. So whatever is built of bands, blocks and fixed distances is a signed sum of terms, each an
intersection of such leaves, and each term is counted in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from graphformer.layout import Layout

Form = Mapping["Term", int]

# A union of many dilated windows has exponentially many intersections: beyond this, list it.
LARGEST_FORM = 1024


@dataclass(frozen=True)
class Term:
    """The pairs of an example that meet all of these conditions.

    Attributes:
        low: least key position minus query position; None where unbounded.
        high: greatest key position minus query position; None where unbounded.
        step: the distance is a multiple of it.
        skips_virtual: neither query nor key is a virtual token.
        num_global: the query or the key is among the first so many tokens; None where any is.
        distances: the distance is one of these; None where it is any.
    """

    low: int | None = None
    high: int | None = None
    step: int = 1
    skips_virtual: bool = False
    num_global: int | None = None
    distances: frozenset[int] | None = None

    def __and__(self, other: Term) -> Term:
        step = math.lcm(self.step, other.step)
        low = _both(max, self.low, other.low)
        low, high = rounded(low, _both(min, self.high, other.high), step)
        return Term(
            low,
            high,
            step,
            self.skips_virtual or other.skips_virtual,
            _both(min, self.num_global, other.num_global),
            _both(frozenset.intersection, self.distances, other.distances),
        )

    @property
    def transposed(self) -> Term:
        """The term with queries and keys exchanged."""
        return replace(
            self,
            low=None if self.high is None else -self.high,
            high=None if self.low is None else -self.low,
            distances=self.distances and frozenset(-distance for distance in self.distances),
        )


def rounded(low: int | None, high: int | None, step: int) -> tuple[int | None, int | None]:
    """The same bounds, moved inward to multiples of `step`."""
    low = low if low is None else -(-low // step) * step
    high = high if high is None else high // step * step
    return low, high


def union(left: Form | None, right: Form | None) -> Form | None:
    """The form of `left | right`, or None where one has none."""
    return _combined((left, 1), (right, 1), (intersection(left, right), -1))


def intersection(left: Form | None, right: Form | None) -> Form | None:
    """The form of `left & right`, or None where one has none."""
    if left is None or right is None or len(left) * len(right) > LARGEST_FORM:
        return None
    return _combined(
        *(({first & second: 1}, a * b) for first, a in left.items() for second, b in right.items())
    )


def difference(left: Form | None, right: Form | None) -> Form | None:
    """The form of `left - right`, or None where one has none."""
    return _combined((left, 1), (intersection(left, right), -1))


def transposed(form: Form | None) -> Form | None:
    """The form with queries and keys exchanged, or None where there is none."""
    return form if form is None else {term.transposed: sign for term, sign in form.items()}


def count(form: Form, queries: Layout, keys: Layout) -> int:
    """Number of pairs of a form, by the lengths of the examples alone."""
    sizes = _Sizes.of(queries, keys)
    total = sum(sign * _count_term(term, sizes) for term, sign in form.items())
    return int((total * sizes.num_examples).sum())


class _Sizes(NamedTuple):
    """Distinct (query length, key length) pairs of a batch, each [size]."""

    num_queries: np.ndarray
    num_keys: np.ndarray
    num_examples: np.ndarray
    virtual_queries: int
    virtual_keys: int

    @classmethod
    def of(cls, queries: Layout, keys: Layout) -> _Sizes:
        query_lengths = queries.lengths.numpy().astype(np.int64, copy=False)
        key_lengths = keys.lengths.numpy().astype(np.int64, copy=False)
        base = 1 + max(keys.max_length, 0)
        code, examples = np.unique(query_lengths * base + key_lengths, return_counts=True)
        return cls(code // base, code % base, examples, queries.num_virtual, keys.num_virtual)


class _Span(NamedTuple):
    """Positions of queries and of keys, first to last, each [size] or a number."""

    first_query: np.ndarray
    last_query: np.ndarray
    first_key: np.ndarray
    last_key: np.ndarray


class _Steps(NamedTuple):
    """Distances `first * size` to `last * size`, each [example size]."""

    first: np.ndarray
    last: np.ndarray
    size: int


def _count_term(term: Term, sizes: _Sizes) -> np.ndarray:
    """Pairs of the term in an example of each size, [size]."""
    if term.distances is not None:
        return _count_distances(term, sizes)
    lowest_query = 0 if term.skips_virtual else -sizes.virtual_queries
    lowest_key = 0 if term.skips_virtual else -sizes.virtual_keys
    last_query = sizes.num_queries - sizes.virtual_queries - 1
    last_key = sizes.num_keys - sizes.virtual_keys - 1
    span = _Span(np.asarray(lowest_query), last_query, np.asarray(lowest_key), last_key)
    total = _count_band(term, span)
    if term.num_global is None:
        return total
    # All pairs of the band but those in which both are beyond the first tokens.
    rest = span._replace(
        first_query=np.maximum(span.first_query, term.num_global - sizes.virtual_queries),
        first_key=np.maximum(span.first_key, term.num_global - sizes.virtual_keys),
    )
    return total - _count_band(term, rest)


def _count_distances(term: Term, sizes: _Sizes) -> np.ndarray:
    total = np.zeros_like(sizes.num_queries)
    reach = int(max(sizes.num_queries.max(initial=0), sizes.num_keys.max(initial=0)))
    reach += sizes.virtual_queries + sizes.virtual_keys
    for distance in term.distances or ():
        inside = (term.low is None or term.low <= distance) and (
            term.high is None or distance <= term.high
        )
        if inside and distance % term.step == 0 and abs(distance) <= reach:
            one = replace(term, low=distance, high=distance, step=1, distances=None)
            total = total + _count_term(one, sizes)
    return total


def _count_band(term: Term, span: _Span) -> np.ndarray:
    """Pairs of the span whose distance is in the band.

    The number of pairs at distance d is a trapezoid: four ramps `max(0, d - corner)`.
    """
    num_queries = np.maximum(span.last_query - span.first_query + 1, 0)
    num_keys = np.maximum(span.last_key - span.first_key + 1, 0)
    least = span.first_key - span.last_query
    greatest = span.last_key - span.first_query
    low = least if term.low is None else np.maximum(least, term.low)
    high = greatest if term.high is None else np.minimum(greatest, term.high)
    # Distances of the band are the multiples first * step to last * step.
    steps = _Steps(-(-low // term.step), high // term.step, term.step)
    corner = least - 1
    return (
        _ramp(corner, steps)
        - _ramp(corner + np.minimum(num_queries, num_keys), steps)
        - _ramp(corner + np.maximum(num_queries, num_keys), steps)
        + _ramp(corner + num_queries + num_keys, steps)
    )


def _ramp(corner: np.ndarray, steps: _Steps) -> np.ndarray:
    """The sum of `max(0, distance - corner)` over distances, [size]."""
    first = np.maximum(steps.first, corner // steps.size + 1)
    count = np.maximum(steps.last - first + 1, 0)
    return steps.size * ((first + steps.last) * count // 2) - corner * count


def _both(choose: Callable[[Any, Any], Any], first: Any, second: Any) -> Any:
    """`choose(first, second)`, or the one that is not None."""
    if first is None:
        return second
    return first if second is None else choose(first, second)


def _combined(*parts: tuple[Form | None, int]) -> Form | None:
    total: dict[Term, int] = {}
    for form, factor in parts:
        if form is None:
            return None
        for term, sign in form.items():
            total[term] = total.get(term, 0) + factor * sign
    return {term: sign for term, sign in total.items() if sign}
