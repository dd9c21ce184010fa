"""Networks for nodes by name, with the settings that their papers print."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import nn

from graphformer.data.planetoid import PLANETOID
from graphformer.models.graph import GAT, GCN, MLP, GraphSAGE, GraphTransformer
from graphformer.tasks.fitting import check_edges, check_score, check_width
from graphformer.tasks.settings import check_least, check_positive, check_probabilities, fill

NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


@dataclass(frozen=True)
class Network:
    """Which network; what is left out is as in the papers of gcn and gat, else much as gcn's.

    Attributes:
        model: gcn, gat, sage, transformer, or mlp, which sees no edges.
        hidden: width between layers; of gat, of a head.
        layers: number of layers.
        heads: number of heads, of gat and transformer.
        norm: norm behind each layer: batch or layer.
        residual: a linear map past each layer.
        score: how strongly a node hears another, of transformer, such as "Cosine(4)".
        topology: who hears whom, such as 'edges("graph") | self_loops() | expander(3)'.
    """

    model: str = "gcn"
    hidden: int | None = None
    layers: int | None = None
    heads: int | None = None
    norm: Literal["batch", "layer"] | None = None
    residual: bool = False
    score: str | None = None
    topology: str | None = None

    def __post_init__(self) -> None:
        _check_name("norm", self.norm, NORMS)
        check_least(self, hidden=1, layers=1, heads=1)


@dataclass(frozen=True)
class Training:
    """How it is trained; what is left out is as in the papers of gcn and gat, else much as gcn's.

    Attributes:
        epochs: number of epochs, each one step over the whole graph.
        learning_rate: size of a step of Adam.
        weight_decay: share of a weight that is added to its gradient.
        decayed: which weights decay: those of the first layer, or all.
        dropout: probability of zero of what enters a layer.
        normalize_rows: features of a node are divided by their sum; of Planetoid by default.
    """

    epochs: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    decayed: Literal["first", "all"] | None = None
    dropout: float | None = None
    normalize_rows: bool | None = None

    def __post_init__(self) -> None:
        _check_name("decayed", self.decayed, ("first", "all"))
        check_least(self, epochs=1, weight_decay=0)
        check_positive(self, "learning_rate")
        check_probabilities(self, "dropout")


class Recipe(NamedTuple):
    """A network and its published settings.

    Attributes:
        kind: the class.
        network: settings of its layers.
        training: settings of its training.
    """

    kind: type[nn.Module]
    network: dict[str, Any]
    training: dict[str, Any]


# What a topology calls the edges of the data.
NAMED = "graph"
GRAPH = f'edges("{NAMED}")'
LOOPED = f"{GRAPH} | self_loops()"

RECIPES = {
    # Kipf and Welling 2017 (1609.02907), section 5.2.
    "gcn": Recipe(
        GCN,
        {"hidden": 16, "layers": 2, "topology": LOOPED},
        {"epochs": 200, "learning_rate": 0.01, "weight_decay": 5e-4, "decayed": "first"}
        | {"dropout": 0.5},
    ),
    # Velickovic et al. 2018 (1710.10903), section 3.3.
    "gat": Recipe(
        GAT,
        {"hidden": 8, "layers": 2, "heads": 8, "topology": LOOPED},
        {"epochs": 200, "learning_rate": 0.005, "weight_decay": 5e-4, "decayed": "all"}
        | {"dropout": 0.6},
    ),
    # The layer of Hamilton et al. 2017 (1706.02216), trained as GCN is.
    "sage": Recipe(
        GraphSAGE,
        {"hidden": 64, "layers": 2, "topology": GRAPH},
        {"epochs": 200, "learning_rate": 0.01, "weight_decay": 5e-4, "decayed": "all"}
        | {"dropout": 0.5},
    ),
    # The block of Dwivedi and Bresson 2021 (2012.09699), trained as GCN is.
    "transformer": Recipe(
        GraphTransformer,
        {"hidden": 64, "layers": 2, "heads": 4, "score": "DotProduct()", "topology": LOOPED},
        {"epochs": 200, "learning_rate": 0.005, "weight_decay": 5e-4, "decayed": "all"}
        | {"dropout": 0.5},
    ),
    # The control of Kipf and Welling 2017, wider, which helps it.
    "mlp": Recipe(
        MLP,
        {"hidden": 64, "layers": 2, "topology": "self_loops()"},
        {"epochs": 200, "learning_rate": 0.01, "weight_decay": 5e-4, "decayed": "all"}
        | {"dropout": 0.5},
    ),
}


def complete_settings(network: Network, training: Training, data: str) -> tuple[Network, Training]:
    """The settings with those of the recipe where none were given.

    Args:
        network: with a known model.
        training: of it.
        data: name of the data set.

    Raises:
        ValueError: the model is unknown (listing the known ones), has no such setting, or its
            settings do not fit each other.
    """
    if network.model not in RECIPES:
        raise ValueError(f"model {network.model!r} is unknown: known are {', '.join(RECIPES)}")
    recipe = RECIPES[network.model]
    network = fill(network, recipe.network)
    _check_settings(network, recipe)
    if recipe.kind is GraphTransformer:
        check_width("hidden", network.hidden or 0, network.heads or 1)
        check_score("score", str(network.score), network.heads or 1)
    check_edges("topology", str(network.topology), [NAMED])
    # As the papers on Planetoid do, whose features are words that a text has or has not.
    normalized = {"normalize_rows": data in PLANETOID}
    return network, fill(training, recipe.training | normalized)


def build_network(network: Network, training: Training, in_dim: int, out_dim: int) -> nn.Module:
    """The network of complete settings, with new weights.

    Raises:
        ValueError: sizes do not fit each other, or the score cannot be read.
    """
    kind = RECIPES[network.model].kind
    norm = None if network.norm is None else NORMS[network.norm]
    settings = vars(network) | {"norm": norm, "dropout": training.dropout}
    known = inspect.signature(kind).parameters
    own = {name: value for name, value in settings.items() if name in known}
    return kind(in_dim, out_dim=out_dim, **own)


def _check_name(setting: str, name: str | None, known: Iterable[str]) -> None:
    if name not in (None, *known):
        raise ValueError(f"{setting} {name!r} is unknown: known are {', '.join(known)}")


def _check_settings(network: Network, recipe: Recipe) -> None:
    known = {*inspect.signature(recipe.kind).parameters, "model"}
    if recipe.kind is not MLP:
        known.add("topology")
    for name, value in vars(network).items():
        if value not in (None, False, recipe.network.get(name)) and name not in known:
            own = ", ".join(each for each in vars(network) if each in known)
            raise ValueError(f"{network.model} has no setting {name}={value!r}: it has {own}")
