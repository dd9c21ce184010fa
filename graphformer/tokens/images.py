"""Images as tokens: one a patch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphformer.tokens.flat import flat, refuse_mixture
from graphformer.tokens.tokens import Tokens


def patches(images: Tensor | Sequence[Tensor], size: int | tuple[int, int]) -> Tokens:
    """One token for each patch of each image, row by row; its row and column are axes 1 and 2.

    `x` is the flattened patch [channel * height * width], in the order of a convolution's weight,
    so that a linear layer on it is a convolution whose stride is the patch.

    Args:
        images: images [image, channel, height, width], or a list of [channel, height, width], whose
            heights and widths may differ.
        size: pixels of a patch, on each side or as (height, width).

    Raises:
        TypeError: if an image is not a tensor.
        ValueError: if there is no image, an image has other axes, is no multiple of the patch,
            differs from the others in channels, dtype or device, or holds NaN.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"patches got size {size}: a patch has at least 1 pixel a side.")
    groups = _of_equal_size(images)
    for group in groups:
        _refuse_remainder(group, height, width)
    cut = [_cut(group, height, width) for group in groups]
    refuse_mixture([x for x, _, _ in cut], "patches")
    lengths = [
        x.shape[0] // group.shape[0]
        for (x, _, _), group in zip(cut, groups, strict=True)
        for _ in range(group.shape[0])
    ]
    x, rows, columns = (torch.cat(part) for part in zip(*cut, strict=True))
    return flat(x, lengths, rows, columns)


def _of_equal_size(images: Tensor | Sequence[object]) -> list[Tensor]:
    """The images as tensors [image, channel, height, width], checked."""
    groups = []
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise ValueError(
                f"patches got images of shape {tuple(images.shape)}: give [image, channel, height, "
                "width], or a list of [channel, height, width]."
            )
        groups.append(images)
    else:
        for index, image in enumerate(images):
            if not isinstance(image, Tensor):
                raise TypeError(
                    f"patches takes tensors, and image {index} is a {type(image).__name__}: write "
                    "torch.as_tensor(image)."
                )
            if image.ndim != 3:
                raise ValueError(
                    f"patches got image {index} of shape {tuple(image.shape)}: give [channel, "
                    "height, width]."
                )
            groups.append(image[None])
    if not groups or groups[0].shape[0] == 0:
        raise ValueError("patches got no image: a batch needs at least one.")
    return groups


def _refuse_remainder(images: Tensor, height: int, width: int) -> None:
    rows, columns = images.shape[2:]
    if rows % height or columns % width:
        raise ValueError(
            f"patches of {height} x {width} pixels do not fill an image of {rows} x {columns}: "
            f"crop it to {rows - rows % height} x {columns - columns % width}, or pad it to "
            f"{rows + -rows % height} x {columns + -columns % width}."
        )


def _cut(images: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The patches of equal images [token, channel * height * width], their rows and columns."""
    num_images, channels = images.shape[:2]
    rows, columns = images.shape[2] // height, images.shape[3] // width
    apart = images.reshape(num_images, channels, rows, height, columns, width)
    x = apart.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * height * width)
    row = torch.arange(rows).repeat_interleave(columns).repeat(num_images)
    column = torch.arange(columns).repeat(num_images * rows)
    return x, row, column
