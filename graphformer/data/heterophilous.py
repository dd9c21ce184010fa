"""Graphs whose neighbors often differ in class, each with ten published splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch_geometric.datasets import HeterophilousGraphDataset

from graphformer.data.array_file import read_arrays
from graphformer.data.graph_data import GraphData, check_graph, clean_edges
from graphformer.data.published_files import check_name, find_or_download

HETEROPHILOUS = (
    "amazon-ratings",
    "chameleon_filtered",
    "minesweeper",
    "questions",
    "roman-empire",
    "squirrel_filtered",
    "tolokers",
)
_BINARY = ("minesweeper", "questions", "tolokers")
_ARRAYS = ("node_features", "node_labels", "edges", "train_masks", "val_masks", "test_masks")


def heterophilous(name: str, data_dir: str | Path | None = None) -> GraphData:
    """The graph `name` of `HETEROPHILOUS` with its ten splits (50% train, 25%, 25%).

    The binary ones (minesweeper, questions, tolokers) are scored by ROC-AUC, the others by
    accuracy. The files list each edge once; here it goes both ways.

    Args:
        name: one of `HETEROPHILOUS`.
        data_dir: folder with the published `.npz` (or with it in `heterophilous/` or
            `NAME/raw/`); None downloads it to the user's cache.

    Raises:
        ValueError: the name is unknown, or the file is truncated or not as published.
        FileNotFoundError: no file, and no network to get it.

    Source: Platonov et al., A critical look at the evaluation of GNNs under heterophily, 2023
    (arXiv 2302.11640).
    """
    check_name(name, HETEROPHILOUS, "the heterophilous collection")
    stem = name.replace("-", "_")
    folder = find_or_download(
        [f"{stem}.npz"], data_dir, ("heterophilous", f"{stem}/raw"), HeterophilousGraphDataset.url
    )
    path = folder / f"{stem}.npz"
    arrays = read_arrays(path)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"{path} is not as published: it lacks {', '.join(missing)}")
    y = torch.from_numpy(arrays["node_labels"].astype(np.int64))
    edge_index = torch.from_numpy(arrays["edges"].astype(np.int64)).T
    return check_graph(
        GraphData(
            torch.from_numpy(arrays["node_features"].astype(np.float32)),
            clean_edges(edge_index, len(y), source=str(path)),
            y,
            torch.from_numpy(arrays["train_masks"]),
            torch.from_numpy(arrays["val_masks"]),
            torch.from_numpy(arrays["test_masks"]),
            name=f"{name}, published splits",
            num_classes=int(y.max()) + 1,
            class_names=tuple(map(str, range(int(y.max()) + 1))),
            metric="roc_auc" if name in _BINARY else "accuracy",
        )
    )
