"""Batches whose numbers of tokens repeat, so that what is made for products of a size serves many.

A product in bfloat16 is compiled for its sizes, and flat batches have as many tokens as their
sentences happen to have. But which of many sentences of like length stands in which of two batches
does not matter: some change places until the tokens of a batch, on each side, are a multiple.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

# What the tokens of a batch are multiples of; a batch is left as it is after so many changes.
EVEN, MOST_CHANGES = 128, 64

Numbers = Int64[np.ndarray, " example"]


def even_out(
    examples: Numbers,
    cuts: Int64[np.ndarray, " cut"],
    costs: Numbers,
    sizes: Int64[np.ndarray, "example side"],
) -> Numbers:
    """The same examples, of which some of one cost have changed places with ones of the next batch.

    Args:
        examples: numbers of the examples, batch after batch, by cost.
        cuts: where batches begin, and the end of the last.
        costs: of each example: what a batch holds does not change.
        sizes: tokens of each example, by side.
    """
    examples = examples.copy()
    # A number for each pair of sizes.
    kinds = sizes @ (int(sizes.max(initial=0)) + 1) ** np.arange(sizes.shape[1])
    for first, middle, last in zip(cuts[:-2], cuts[1:-1], cuts[2:], strict=True):
        batch, following = examples[first:middle], examples[middle:last]
        if not len(batch):
            continue
        cost = costs[batch[-1]]
        own, other = (np.flatnonzero(costs[each] == cost) for each in (batch, following))
        lacking = -sizes[batch].sum(0) % EVEN
        lacking[lacking > EVEN // 2] -= EVEN
        for _ in range(MOST_CHANGES if len(other) else 0):
            if not lacking.any():
                break
            given, taken = (
                each[np.unique(kinds[part[each]], return_index=True)[1]]
                for part, each in ((batch, own), (following, other))
            )
            gains = sizes[following[taken]] - sizes[batch[given]][:, np.newaxis]
            left = np.abs(lacking - gains).sum(-1)
            best = np.unravel_index(left.argmin(), left.shape)
            if left[best] >= np.abs(lacking).sum():
                break
            lacking = lacking - gains[best]
            here, there = given[best[0]], taken[best[1]]
            batch[here], following[there] = following[there], batch[here]
    return examples
