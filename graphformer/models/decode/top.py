"""The largest entries of long rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphformer.backends import kernels

# Entries up to which a kernel finds them: it compares each with those before it.
MOST = 64


class Best(NamedTuple):
    """What a search reads of rows of logits, in float32 or float64.

    Attributes:
        values: the largest entries in falling order.
        columns: where they are.
        log_sums: the logarithm of the sum of the exponentials of all entries of a row.
    """

    values: Float[Tensor, "row count"]
    columns: Int[Tensor, "row count"]
    log_sums: Float[Tensor, "row"]


def find_best(table: Float[Tensor, "row column"], count: int) -> Best:
    """The largest `count` entries of each row, at least one.

    Raises:
        ValueError: rows have fewer, or none is asked for.
    """
    if not 1 <= count <= table.shape[1]:
        raise ValueError(
            f"count is {count}, of rows of {table.shape[1]}: ask for one entry at least, and for "
            "no more than there are"
        )
    if (
        count <= MOST
        and table.device.type == "cpu"
        and table.dtype in kernels.DTYPES
        and kernels.why_missing() is None
    ):
        return Best(*kernels.find_best(table.contiguous(), count))
    precise = table.to(torch.promote_types(table.dtype, torch.float32))
    return Best(*precise.topk(count), precise.logsumexp(1))
