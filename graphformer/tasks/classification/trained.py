"""A trained network in one file, with all that predicting with it needs; read without pickle."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import graphformer
from graphformer.data.graph_data import GraphData
from graphformer.files import replacing
from graphformer.tasks.checkpoints import find_fault, first_line
from graphformer.tasks.classification.network import Network, Training, build_network
from graphformer.tasks.classification.source import Source, names_in
from graphformer.tasks.settings import flatten

BEST = "best.ckpt"
_FORMAT = 1
_KEY = "graphformer nodes"


class Trained(NamedTuple):
    """The best weights of a run, and what they were trained on.

    Attributes:
        weights: of the network.
        network: its complete settings.
        training: of the run.
        source: of the graph.
        num_features: of each node.
        class_names: of each class.
        validation: the metric that these weights validated with.
        feature_names: of each feature, in order; empty where the data did not say.
    """

    weights: dict[str, Tensor]
    network: Network
    training: Training
    source: Source
    num_features: int
    class_names: Sequence[str]
    validation: float
    feature_names: Sequence[str] = ()

    def build(self) -> nn.Module:
        """The network with its weights, in evaluation."""
        built = build_network(self.network, self.training, self.num_features, len(self.class_names))
        built.load_state_dict(self.weights)
        return built.eval()

    def suited(self, source: Source) -> Source:
        """The same, of which the features that were trained on are picked, where it names them.

        A column that is named as that of the classes in training is that of the classes.

        Raises:
            ValueError: it lacks a feature by name.
            FileNotFoundError: the file of the nodes is missing.
        """
        found = names_in(source)
        label = self.source.label if self.source.label in found else None
        source = replace(source, label=source.label or label)
        if not found or not self.feature_names:
            return replace(
                source, feature_names=None if self.feature_names else self.source.feature_names
            )
        lacking = [name for name in self.feature_names if name not in found]
        if lacking:
            raise ValueError(
                f"{source.features_file or source.data} lacks {', '.join(lacking)}: the network "
                f"was trained with the features {', '.join(self.feature_names)}, and it has "
                f"{', '.join(found)}; call them as in training"
            )
        return replace(source, feature_names=list(self.feature_names))

    def check_fits(self, data: GraphData) -> None:
        """Does nothing where the network can be called with this graph.

        Raises:
            ValueError: its nodes have other features.
        """
        if data.x.shape[1] != self.num_features:
            raise ValueError(
                f"{data.name} has {data.x.shape[1]} features a node, the network was trained with "
                f"{self.num_features}: give the same ones in the same order, and name the column "
                "of the classes (label) where there is one"
            )


def write_trained(folder: Path, trained: Trained) -> None:
    """`best.ckpt` in `folder` holds it, of tensors, numbers, strings, lists and dictionaries."""
    parts = {name: flatten([getattr(trained, name)]) for name in ("network", "training", "source")}
    names = {name: list(getattr(trained, name)) for name in ("class_names", "feature_names")}
    stored = trained._asdict() | parts | names
    with replacing(folder / BEST) as file:
        torch.save({_KEY: _FORMAT, "version": graphformer.__version__, **stored}, file)


def read_trained(path: Path) -> Trained:
    """What `write_trained` wrote.

    Raises:
        ValueError: the file is damaged, of another version, or none of ours.
    """
    if (fault := find_fault(path)) is not None:
        raise ValueError(f"{path} cannot be read: {fault}")
    try:
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"{path} is no checkpoint of graphformer: {first_line(error)}") from error
    if not isinstance(stored, dict) or _KEY not in stored:
        raise ValueError(
            f"{path} is no network that `graphformer nodes fit` has trained: give the folder of "
            f"such a run, or its {BEST}"
        )
    version = stored.pop("version", "of unknown version")
    if stored.pop(_KEY) != _FORMAT:
        raise ValueError(
            f"{path} was written by graphformer {version} in another format: install "
            "that version to predict with it, or train it anew"
        )
    kinds: dict[str, Callable[..., Any]] = {
        "network": Network,
        "training": Training,
        "source": Source.from_text,
    }
    try:
        made = {name: make(**stored[name]) for name, make in kinds.items()}
        trained = Trained(**stored | made)
        trained.build()
    except (LookupError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path} lacks what a trained network has, or has more ({first_line(error)}): train it "
            f"anew, or predict with the graphformer that wrote it ({version})"
        ) from error
    return trained


def find_trained(path: Path) -> Path:
    """The file of a run: `path` itself, the one in the folder, or of its seeds the best.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_file():
        return path
    if (path / BEST).is_file():
        return path / BEST
    seeds = sorted(path.glob(f"seed-*/{BEST}"))
    if not seeds:
        raise FileNotFoundError(
            f"{path} has no {BEST}, nor has a folder seed-* in it: give the folder of a run of "
            "`graphformer nodes fit` that has ended"
        )
    return max(seeds, key=lambda file: read_trained(file).validation)
