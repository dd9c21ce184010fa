"""Graphs by name or from files, and the split that a run trains on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphformer.data.digits import digits
from graphformer.data.edge_list import ATTRIBUTED, read_edges
from graphformer.data.graph_data import GraphData
from graphformer.data.graph_file import graph_file
from graphformer.data.heterophilous import HETEROPHILOUS, heterophilous
from graphformer.data.planetoid import PLANETOID, planetoid
from graphformer.data.splits import Split, fraction_split, random_split
from graphformer.data.text_table import TEXT_TABLES, read_header, suffix
from graphformer.tasks.settings import fill

DIGITS = "digits"
KNOWN = (DIGITS, *PLANETOID, *HETEROPHILOUS)
PUBLIC, RANDOM = "public", "random"
RANDOM_SEED = 123
FRACTIONS = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class Source:
    """Which graph, and which of its splits.

    Attributes:
        data: digits (embedded), cora, citeseer, pubmed, a heterophilous graph (such as
            minesweeper), or a file: edges (.csv, .tsv, .txt) or a graph (.graphml, .gml).
        data_dir: folder of the published files (ind.cora.x and the like, perhaps in planetoid/;
            minesweeper.npz, perhaps in heterophilous/); without it they are downloaded.
        features_file: one row a node, beside a file of edges (.csv, .tsv, .npy, .npz).
        labels_file: one label a node, where they do not stand with the features.
        label: column or attribute that holds the class, in a file.
        feature_names: columns or attributes that are the features; all others if left out.
        directed: keep the direction of the edges of a file, instead of going both ways.
        split: public (the published ones, or that of the file, in turn by seed), the number of one
            of them, or random (drawn once: 20 nodes a class of Planetoid, 10 of digits, half of a
            heterophilous graph, and of a file 60% are trained on). Left out, it is public where
            there is such a split, else random.
    """

    data: str = DIGITS
    data_dir: Path | None = None
    features_file: Path | None = None
    labels_file: Path | None = None
    label: str | None = "label"
    feature_names: list[str] | None = None
    directed: bool = False
    split: int | str | None = None

    def over(self, data: GraphData) -> Source:
        """The same, with the split of this graph where none was named."""
        return fill(self, {"split": RANDOM if data.drawn else PUBLIC})

    @classmethod
    def from_text(cls, **fields: Any) -> Source:
        """The source of these fields, whose paths are text, as files have them."""
        paths = ("data_dir", "features_file", "labels_file")
        given = {name: Path(fields[name]) for name in paths if fields[name] is not None}
        return cls(**fields | given)


def read_graph(source: Source, split: bool = True) -> GraphData:
    """The graph that `source` names, checked.

    Args:
        source: which graph.
        split: whether the nodes of a file need to be split, as for training.

    Raises:
        ValueError: there is no data set and no file of this name (listing the known ones), or
            what is read makes no sense.
        FileNotFoundError: a file is missing.
    """
    name = source.data
    if name in KNOWN:
        _check_no_files(source)
    if name == DIGITS:
        return digits()
    if name in PLANETOID:
        return planetoid(name, source.data_dir)
    if name in HETEROPHILOUS:
        return heterophilous(name, source.data_dir)
    if not Path(name).suffix and not Path(name).is_file():
        raise ValueError(
            f"data {name!r} is unknown: known are {', '.join(KNOWN)}, or write the path of a file "
            "of edges or of a graph, such as graph.csv or graph.graphml"
        )
    return graph_file(
        name,
        source.features_file,
        source.labels_file,
        source.label,
        source.feature_names,
        directed=source.directed,
        fractions=FRACTIONS if split else None,
    )


def names_in(source: Source) -> list[str]:
    """The columns or attributes that the nodes have by name; none of arrays and without a header.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it cannot be read.
    """
    if source.features_file is not None:
        is_text = suffix(source.features_file) in TEXT_TABLES
        return read_header(source.features_file) if is_text else []
    if suffix(Path(source.data)) not in ATTRIBUTED:
        return []
    nodes = read_edges(Path(source.data)).nodes
    return [] if nodes is None else list(nodes.columns)


def _check_no_files(source: Source) -> None:
    """Raises what is said of a file, where no file is read."""
    of_files = ("features_file", "labels_file", "feature_names", "directed")
    given = [name for name in of_files if getattr(source, name)]
    if given:
        raise ValueError(
            f"{given[0]} is said of a file, and the graph is {source.data}: leave it out, or "
            "write the file of the edges (data)"
        )


def choose_split(data: GraphData, source: Source, seed: int) -> tuple[Split, str]:
    """The masks [1, node] that a run of this seed trains on, and what to call them.

    Raises:
        ValueError: the graph has no labels, or no such split.
    """
    if not data.num_splits:
        raise ValueError(
            f"{data.name} has no labels to learn from: name the column or attribute that has "
            "them (label), or write a labels_file"
        )
    source = source.over(data)
    if source.split == RANDOM and not data.drawn:
        split, name = _draw(data, source.data)
    else:
        number = _number(data, source.split, seed)
        masks = (data.train_mask, data.val_mask, data.test_mask)
        split = Split(*(mask[number : number + 1] for mask in masks))
        name = f"split {number} of {data.num_splits}" if data.num_splits > 1 else "its one split"
        name = "random split" if data.drawn else name
    sizes = [f"{int(mask.sum()):,}" for mask in split]
    return split, f"{name} ({sizes[0]} nodes to train, {sizes[1]} to validate, {sizes[2]} to test)"


def _number(data: GraphData, split: int | str | None, seed: int) -> int:
    if data.drawn:
        if split == RANDOM:
            return 0
        raise ValueError(f"split {split!r} of {data.name} is unknown: it has none but {RANDOM}")
    if split == PUBLIC:
        return seed % data.num_splits
    if not isinstance(split, int) or not 0 <= split < data.num_splits:
        numbers = "0" if data.num_splits == 1 else f"a number from 0 to {data.num_splits - 1}"
        raise ValueError(
            f"split {split!r} of {data.name} is unknown: write {PUBLIC}, {RANDOM}, or {numbers}"
        )
    return split


def _draw(data: GraphData, name: str) -> tuple[Split, str]:
    """One random split, with as many nodes as the published splits of its kind have."""
    if name in PLANETOID:
        split = random_split(data.y, 20, 500, 1000, RANDOM_SEED)
        return split, f"random split, 20 a class, seed {RANDOM_SEED}"
    fractions = (0.5, 0.25, 0.25) if name in HETEROPHILOUS else FRACTIONS
    split = fraction_split(data.y, fractions, RANDOM_SEED)
    return split, f"random split {fractions}, seed {RANDOM_SEED}"
