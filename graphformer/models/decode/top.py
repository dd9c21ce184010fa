"""The largest entries of long rows."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Entries that share a maximum.
SHARE = 32


def largest(
    table: Float[Tensor, "row column"], count: int
) -> tuple[Float[Tensor, "row count"], Int[Tensor, "row count"]]:
    """The largest entries of each row in falling order, and their columns: what `topk` gives.

    Each of them is in one of the `count` groups of columns whose maxima are largest: a pass over
    the row finds these, and only what is in them is compared one by one, which is most of the time
    of `topk` where rows are long.
    """
    num_rows, size = table.shape
    num_groups = size // SHARE
    if num_groups <= 2 * count:
        found = table.topk(count)
        return found.values, found.indices
    # Group g has the columns g, g + num_groups, ...: maxima of neighbors are found side by side.
    whole = SHARE * num_groups
    groups = table[:, :whole].unflatten(1, (SHARE, num_groups))
    best = groups.amax(1).topk(count).indices
    inside = groups.gather(2, best.unsqueeze(1).expand(-1, SHARE, -1)).flatten(1)
    steps = torch.arange(SHARE, device=table.device) * num_groups
    columns = (steps.view(1, SHARE, 1) + best.unsqueeze(1)).flatten(1)
    beyond = torch.arange(whole, size, device=table.device).expand(num_rows, -1)
    values, place = torch.cat([inside, table[:, whole:]], 1).topk(count)
    return values, torch.cat([columns, beyond], 1).gather(1, place)


def log_normalizer(
    table: Float[Tensor, "row column"], highest: Float[Tensor, "row 1"]
) -> Float[Tensor, "row 1"]:
    """The logarithm of the sum of the exponentials of each row, whose entries are spent for it.

    Args:
        table: the rows; written into.
        highest: the largest entry of each.
    """
    return table.sub_(highest).exp_().sum(1, keepdim=True).log_().add_(highest)
