"""Pictures of a classification: which classes are taken for which, and what the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.tasks.classification.learner import NodeClassifier
from graphformer.tasks.plots import save_figure

# Beyond these, cells and colors can no longer be told apart.
_MAX_NAMED = 20
_MAX_POINTS = 5000


def hidden_layer(network: nn.Module, *inputs: Any) -> Float[Tensor, "node width"]:
    """What enters the last layer, when the network is called with these inputs."""
    entered: list[Tensor] = []
    head = getattr(network, "head", None)
    last: Any = network.blocks[-1] if head is None else head  # type: ignore[index]
    handle = last.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        handle.remove()
    x = entered[0]
    return x if x.layout is torch.strided else x.to_dense()


def principal_plane(x: Float[Tensor, "node width"]) -> Float[Tensor, "node 2"]:
    """The rows in the two directions in which they differ most."""
    centered = (x - x.mean(0)).double()
    centered = F.pad(centered, (0, max(2 - x.shape[1], 0)))
    _, vectors = torch.linalg.eigh(centered.T @ centered)
    plane = centered @ vectors[:, -2:].flip(1)
    # Where a row of eigenvectors points is arbitrary: the largest entry is made positive.
    largest = plane.gather(0, plane.abs().argmax(0, keepdim=True))
    return (plane * largest.sign()).float()


def confusion(
    predicted: Int[Tensor, "node"], labels: Int[Tensor, "node"], num_classes: int
) -> Float[Tensor, "class class"]:
    """The share of the nodes of each class (row) that are taken for each class (column)."""
    counts = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    table = counts.view(num_classes, num_classes).double()
    return (table / table.sum(1, keepdim=True).clamp(min=1)).float()


def draw_classes(
    learner: NodeClassifier,
    logits: Float[Tensor, "node class"],
    class_names: Sequence[str],
    picture: Path,
) -> None:
    """`picture` shows the confusion of the test nodes, and all nodes as the last layer sees them.

    Args:
        learner: trained.
        logits: of all nodes.
        class_names: of each class.
        picture: the file to write (.svg, .png).
    """
    from matplotlib.figure import Figure

    nodes, test = learner.nodes, learner.parts[2]
    labels = nodes.y.cpu()
    table = confusion(logits[test].argmax(1), nodes.y[test], len(class_names))
    plane = principal_plane(hidden_layer(learner.network, nodes.x, nodes.graph)).cpu()
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    image = left.imshow(table.cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=left, shrink=0.8)
    left.set(xlabel="predicted class", ylabel="class", title="test nodes, share of each class")
    if len(class_names) <= _MAX_NAMED:
        upright = max(map(len, class_names)) > 2
        left.set_xticks(
            range(len(class_names)), class_names, rotation=90 * upright, parse_math=False
        )
        left.set_yticks(range(len(class_names)), class_names, parse_math=False)
    shown = (labels >= 0).nonzero().flatten()
    shown = shown[:: -(-len(shown) // _MAX_POINTS)]
    x, y = plane[shown].T.numpy()
    colors = "tab10" if len(class_names) <= 10 else "tab20"
    right.scatter(x, y, s=4, c=labels[shown].numpy(), cmap=colors, rasterized=True)
    right.set(xlabel="first component", ylabel="second component", title="what the last layer sees")
    save_figure(figure, picture, 150)
