"""The one type of graph that every reader returns, and what is checked of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch_geometric.utils import coalesce, remove_self_loops, to_undirected

Metric = Literal["accuracy", "roc_auc"]

UNLABELED = -1


class GraphData(NamedTuple):
    """A graph whose nodes are to be classified, with one or several splits.

    Attributes:
        x: features, float32.
        edge_index: source and target of each edge, int64; both directions of an undirected edge,
            no repeated edges, no self loops, sorted by target.
        y: classes, int64; -1 where a node has no label, which no mask may then hold.
        train_mask: nodes trained on, one row a split.
        val_mask: nodes that choose the epoch.
        test_mask: nodes that are reported.
        name: the data set and its split, for reports.
        num_classes: number of classes.
        metric: what is published for this data set.
        class_names: what each class is called; its number where the data set gives no names.
        node_names: what each node is called in the file; empty where nodes are numbered.
        drawn: whether the split was drawn when the graph was read, since the data has none.
        feature_names: what each feature is called in the file; empty where it does not say.
    """

    x: Float[Tensor, "node feature"]
    edge_index: Int[Tensor, "2 edge"]
    y: Int[Tensor, "node"]
    train_mask: Bool[Tensor, "split node"]
    val_mask: Bool[Tensor, "split node"]
    test_mask: Bool[Tensor, "split node"]
    name: str
    num_classes: int
    metric: Metric = "accuracy"
    class_names: tuple[str, ...] = ()
    node_names: tuple[str, ...] = ()
    drawn: bool = False
    feature_names: tuple[str, ...] = ()

    @property
    def num_nodes(self) -> int:
        return self.x.shape[0]

    @property
    def sentence(self) -> str:
        """What was read, for people to see whether it is what they meant."""
        return (
            f"{self.name}: {self.num_nodes:,} nodes, {self.edge_index.shape[1]:,} edges, "
            f"{self.x.shape[1]:,} features, {self.num_classes} classes"
        )

    @property
    def num_splits(self) -> int:
        return self.train_mask.shape[0]

    def align_classes(self, class_names: Sequence[str]) -> GraphData:
        """The same graph with the classes numbered as in `class_names`, those of a trained model.

        Raises:
            ValueError: a label of this graph is not among `class_names`.
        """
        unknown = [name for name in self.class_names if name not in class_names]
        if unknown:
            raise ValueError(
                f"{self.name} has the unknown label{'s' * (len(unknown) > 1)} "
                f"{', '.join(unknown)}: known are {', '.join(class_names)}"
            )
        # The last entry is what -1 finds: no label stays no label.
        number = [class_names.index(name) for name in self.class_names] + [UNLABELED]
        return self._replace(
            y=torch.tensor(number)[self.y],
            num_classes=len(class_names),
            class_names=tuple(class_names),
        )


def clean_edges(
    edge_index: Int[Tensor, "2 edge"], num_nodes: int, source: str, directed: bool = False
) -> Int[Tensor, "2 kept"]:
    """The edges without self loops and repeats, sorted by target; both ways unless `directed`.

    Raises:
        ValueError: an end is no node (naming `source`, where the edges were read).
    """
    _check_edges(edge_index, num_nodes, source)
    edge_index, _ = remove_self_loops(edge_index)
    if not directed:
        edge_index = to_undirected(edge_index, num_nodes=num_nodes)
    return coalesce(edge_index, num_nodes=num_nodes, sort_by_row=False)


def check_graph(data: GraphData) -> GraphData:
    """`data` itself, when training on it makes sense.

    Raises:
        ValueError: NaN or infinite features, edges or labels out of range, sizes that do not
            agree, a node in two parts of one split, or a part without a node.
    """
    _check_features(data)
    _check_edges(data.edge_index, data.num_nodes, data.name)
    _check_labels(data)
    for split in range(data.num_splits):
        _check_split(data, split)
    return data


def _check_features(data: GraphData) -> None:
    if data.x.shape[0] == 0 or data.x.shape[1] == 0:
        raise ValueError(f"{data.name}: features are {tuple(data.x.shape)}: no node or no feature")
    broken = ~torch.isfinite(data.x)
    if broken.any():
        node, feature = broken.nonzero()[0].tolist()
        raise ValueError(
            f"{data.name}: feature {feature} of node {node} is {data.x[node, feature].item()}, "
            f"one of {int(broken.sum())} values that are not finite: fill or drop them first"
        )


def _check_edges(edge_index: Int[Tensor, "2 edge"], num_nodes: int, source: str) -> None:
    outside = (edge_index < 0) | (edge_index >= num_nodes)
    if outside.any():
        edge = int(outside.any(dim=0).nonzero()[0])
        ends = " and ".join(map(str, edge_index[:, edge].tolist()))
        raise ValueError(
            f"{source}: edge {edge} joins {ends}, but nodes are numbered 0 to {num_nodes - 1}"
        )


def _check_labels(data: GraphData) -> None:
    if data.y.shape[0] != data.num_nodes:
        raise ValueError(
            f"{data.name}: {data.y.shape[0]} labels for {data.num_nodes} nodes: each node needs "
            f"one ({UNLABELED} for none)"
        )
    outside = (data.y < UNLABELED) | (data.y >= data.num_classes)
    if outside.any():
        node = int(outside.nonzero()[0])
        raise ValueError(
            f"{data.name}: label {data.y[node].item()} of node {node} is no class: classes are "
            f"numbered 0 to {data.num_classes - 1}"
        )


def _check_split(data: GraphData, split: int) -> None:
    parts = {"train": data.train_mask, "val": data.val_mask, "test": data.test_mask}
    for part, mask in parts.items():
        if mask.shape != (data.num_splits, data.num_nodes):
            raise ValueError(
                f"{data.name}: the {part} mask is {tuple(mask.shape)}, and must be (split, node) "
                f"= {(data.num_splits, data.num_nodes)}"
            )
    rows = torch.stack([mask[split] for mask in parts.values()])
    shared = (rows.sum(dim=0) > 1).nonzero().flatten()
    if len(shared):
        node = int(shared[0])
        names = [part for part, row in zip(parts, rows, strict=True) if row[node]]
        raise ValueError(
            f"{data.name}: node {node} is in both {' and '.join(names)} of split {split}: "
            f"a node belongs to one part at most"
        )
    unlabeled = (rows.any(dim=0) & (data.y == UNLABELED)).nonzero().flatten()
    if len(unlabeled):
        raise ValueError(
            f"{data.name}: node {int(unlabeled[0])} is in split {split} and has no label"
        )
    for part, row in zip(parts, rows, strict=True):
        if not row.any():
            raise ValueError(f"{data.name}: the {part} part of split {split} has no node")
