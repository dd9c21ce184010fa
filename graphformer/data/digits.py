"""The embedded graph: handwritten digits, each joined to those that look most like it."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.metrics.pairwise import euclidean_distances

from graphformer.data.graph_data import GraphData, check_graph, clean_edges
from graphformer.data.splits import random_split

_LARGEST_PIXEL = 16


def digits(neighbors: int = 8, per_class: int = 10, num_val: int = 400, seed: int = 0) -> GraphData:
    """The symmetric nearest-neighbor graph of scikit-learn's 1,797 digits.

    Features are the 64 pixels, scaled to 0..1; two digits are joined if one is among the
    `neighbors` nearest of the other by Euclidean distance. Labels play no part in the edges.

    Args:
        neighbors: nearest digits that each one is joined to.
        per_class: training digits of each class.
        num_val: validation digits; all others are the test set.
        seed: of the split.

    Raises:
        ValueError: `neighbors` is not between 1 and 1,796, or the split does not fit (see
            `random_split`).
    """
    pixels, labels = load_digits(return_X_y=True)
    if not 1 <= neighbors < len(pixels):
        raise ValueError(
            f"neighbors is {neighbors}: write a number from 1 to {len(pixels) - 1}, such as 8"
        )
    nearest = torch.from_numpy(_nearest(pixels, neighbors))
    targets = torch.arange(len(pixels)).repeat_interleave(neighbors)
    edge_index = torch.stack([nearest.flatten(), targets])
    y = torch.from_numpy(labels.astype(np.int64))
    split = random_split(y, per_class, num_val, num_test=None, seed=seed)
    return check_graph(
        GraphData(
            torch.from_numpy((pixels / _LARGEST_PIXEL).astype(np.float32)),
            clean_edges(edge_index, len(y), source="digits"),
            y,
            split.train_mask,
            split.val_mask,
            split.test_mask,
            name=f"digits, {neighbors} nearest neighbors, {per_class} a class, seed {seed}",
            num_classes=10,
            class_names=tuple(map(str, range(10))),
            drawn=True,
        )
    )


def _nearest(
    pixels: Float[np.ndarray, "node feature"], neighbors: int
) -> Int[np.ndarray, "node neighbor"]:
    """The nearest others of each node, equally near ones in their order."""
    # Squared distances of whole numbers are exact, and a stable sort settles ties: searching
    # trees or threads would break them differently from machine to machine.
    distance = euclidean_distances(pixels, squared=True)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, :neighbors]
