"""Random splits of labeled nodes into training, validation and test."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graphformer.data.graph_data import UNLABELED


class Split(NamedTuple):
    """Three disjoint masks, one row a split, as `GraphData` has them."""

    train_mask: Bool[Tensor, "split node"]
    val_mask: Bool[Tensor, "split node"]
    test_mask: Bool[Tensor, "split node"]


def random_split(
    y: Int[Tensor, "node"], per_class: int, num_val: int, num_test: int | None, seed: int
) -> Split:
    """`per_class` training nodes of each class, then `num_val` and `num_test` of the others.

    Classes are drawn in increasing order from one generator, then the rest is shuffled: with
    (20, 500, 1000, seed 123) it is the "one random split" of the Cora, CiteSeer and PubMed
    figures that follow Kipf and Welling's sizes without their nodes.

    Args:
        y: classes; nodes with -1 are left out.
        per_class: training nodes of each class.
        num_val: validation nodes.
        num_test: test nodes; None takes all that are left.
        seed: of the draw.

    Raises:
        ValueError: a class or the rest is too small, or a count is below one.

    Source: the split of NodeFormer (Wu et al., 2022, arXiv 2306.08385), used by later work.
    """
    if per_class < 1 or num_val < 1 or (num_test is not None and num_test < 1):
        raise ValueError(
            f"a split of {per_class} a class, {num_val} to validate and {num_test} to test: "
            f"each must be at least 1"
        )
    generator = torch.Generator().manual_seed(seed)
    train, rest = [], []
    for label in y[y != UNLABELED].unique().tolist():
        nodes = (y == label).nonzero().flatten()
        if len(nodes) < per_class:
            raise ValueError(
                f"class {label} has {len(nodes)} nodes, fewer than the {per_class} to train on: "
                f"write a smaller per_class"
            )
        nodes = nodes[torch.randperm(len(nodes), generator=generator)]
        train.append(nodes[:per_class])
        rest.append(nodes[per_class:])
    others = torch.cat(rest) if rest else y.new_empty(0)
    num_test = len(others) - num_val if num_test is None else num_test
    if num_test < 1 or len(others) < num_val + num_test:
        raise ValueError(
            f"{len(others)} labeled nodes are left after {per_class} a class, fewer than "
            f"{num_val} to validate and {max(num_test, 1)} to test: write smaller counts"
        )
    others = others[torch.randperm(len(others), generator=generator)]
    return _split(len(y), torch.cat(train), others[:num_val], others[num_val : num_val + num_test])


def fraction_split(
    y: Int[Tensor, "node"], fractions: tuple[float, float, float], seed: int
) -> Split:
    """The labeled nodes, shuffled and cut by `fractions` (train, validation, test).

    Raises:
        ValueError: a fraction is not positive, they add to more than one, or a part gets no node.
    """
    if min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
        raise ValueError(
            f"fractions {fractions}: write three positive numbers (train, validation, test) that "
            f"add to at most 1, such as (0.6, 0.2, 0.2)"
        )
    labeled = (y != UNLABELED).nonzero().flatten()
    ends = [round(sum(fractions[: part + 1]) * len(labeled)) for part in range(3)]
    if not 0 < ends[0] < ends[1] < ends[2]:
        raise ValueError(
            f"fractions {fractions} of {len(labeled)} labeled nodes leave a part without a node"
        )
    order = torch.randperm(len(labeled), generator=torch.Generator().manual_seed(seed))
    nodes = labeled[order]
    return _split(len(y), nodes[: ends[0]], nodes[ends[0] : ends[1]], nodes[ends[1] : ends[2]])


def _split(num_nodes: int, *parts: Tensor) -> Split:
    masks = torch.zeros(3, 1, num_nodes, dtype=torch.bool)
    for mask, nodes in zip(masks, parts, strict=True):
        mask[0, nodes] = True
    return Split(*masks)
