"""Edges sorted by one of their ends."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class CompressedRows(NamedTuple):
    """Edges sorted by query (CSR), or by key (CSC).

    Attributes:
        ptr: offset of each row's first edge; one more than rows.
        index: the other end of each edge, int32 where sizes allow.
        order: which of the edges that were sorted each one is.
    """

    ptr: Int[Tensor, "row_plus_one"]
    index: Int[Tensor, "edge"]  # type: ignore[assignment]  # not the method of tuples
    order: Int[Tensor, "edge"]


def compress(
    rows: Int[Tensor, "edge"], others: Int[Tensor, "edge"], num_rows: int, num_others: int
) -> CompressedRows:
    """Edges from `rows` to `others`, sorted by row; those of a row stay in their order."""
    order = torch.argsort(rows, stable=True)
    ptr = torch.zeros(num_rows + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(torch.bincount(rows, minlength=num_rows), 0, out=ptr[1:])
    small = max(num_rows, num_others, rows.shape[0]) < 2**31
    dtype = torch.int32 if small else torch.int64
    return CompressedRows(ptr.to(dtype), others[order].to(dtype), order.to(dtype))


def transpose(rows: CompressedRows, num_others: int) -> CompressedRows:
    """The edges sorted by their other end, those of one by row; `order` counts those of `rows`."""
    ptr, other, _ = rows
    num_rows = ptr.shape[0] - 1
    row = torch.arange(num_rows, dtype=ptr.dtype, device=ptr.device)
    row = torch.repeat_interleave(row, ptr.diff(), output_size=other.shape[0])
    return compress(other, row, num_others, num_rows)
