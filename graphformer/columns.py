"""Tensors that are columns of one, as a product with several weights at once leaves them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def has_whole_rows(x: Tensor) -> bool:
    """Whether the numbers of a row follow each other, whatever stands between rows."""
    stride = 1
    for size, found in zip(reversed(x.shape[1:]), reversed(x.stride()[1:]), strict=True):
        if size != 1 and found != stride:
            return False
        stride *= size
    return True


def side_by_side(parts: Sequence[Tensor]) -> Tensor | None:
    """The tensor [row, column] that is cut into these parts [row, ...], in their order.

    None where they are not the columns, one beside the other, of one tensor.
    """
    first = parts[0]
    storage = first.untyped_storage().data_ptr()
    stride, start = first.stride(0), first.storage_offset()
    width = 0
    for part in parts:
        if (
            part.storage_offset() != start + width
            or part.stride(0) != stride
            or part.shape[0] != first.shape[0]
            or part.dtype != first.dtype
            or part.untyped_storage().data_ptr() != storage
            or not has_whole_rows(part)
        ):
            return None
        width += part[:1].numel()
    return first.as_strided((first.shape[0], width), (stride, 1)) if stride >= width else None


def cut(whole: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """The columns of a tensor, in the shapes of these parts."""
    widths = [part[:1].numel() for part in parts]
    columns = whole.split(widths, 1)
    return [column.view(part.shape) for column, part in zip(columns, parts, strict=True)]
