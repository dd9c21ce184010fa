"""Graphs come in as published, whatever file they stand in."""

from __future__ import annotations

import gzip
import pickle
import shutil
import warnings
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.datasets import HeterophilousGraphDataset
from torch_geometric.io import read_planetoid_data
from torch_geometric.utils import is_undirected

from graphformer.data.digits import digits
from graphformer.data.graph_data import GraphData
from graphformer.data.graph_file import graph_file
from graphformer.data.heterophilous import heterophilous
from graphformer.data.planetoid import planetoid
from graphformer.data.splits import fraction_split, random_split

EDGES = [(0, 1), (1, 2), (2, 2), (3, 1), (1, 3), (4, 5), (5, 0)]
FEATURES = [[0.5, 1.0], [2.0, -1.0], [0.0, 3.0], [1.5, 4.0], [0.25, 5.0], [7.0, 6.0]]
LABELS = ["fox", "owl", "owl", "", "fox", "owl"]
PARTS = ["train", "train", "val", "", "test", "test"]


def edge_set(edge_index: Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, edge_index.T.tolist()))


def folder_of(shared_data: Path, name: str) -> Path:
    if not (shared_data / name).is_dir():
        pytest.skip(f"no folder {name} in {shared_data}")
    return shared_data / name


def read_with_pyg(folder: Path, name: str) -> Data:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it unpickles names that SciPy has moved
        return read_planetoid_data(str(folder), name)


def assert_same_graph(ours: GraphData, theirs: Data) -> None:
    assert torch.equal(ours.x, theirs.x)
    assert torch.equal(ours.y, theirs.y)
    assert torch.equal(ours.edge_index, theirs.edge_index)
    for part in ("train_mask", "val_mask", "test_mask"):
        assert torch.equal(getattr(ours, part), getattr(theirs, part)[None])


def test_cora_is_what_pyg_reads(shared_data: Path) -> None:
    folder = folder_of(shared_data, "planetoid")
    data = planetoid("cora", folder)
    assert_same_graph(data, read_with_pyg(folder, "cora"))
    assert data.x.shape == (2_708, 1_433)
    assert data.edge_index.shape == (2, 10_556)
    assert [int(mask.sum()) for mask in data[3:6]] == [140, 500, 1_000]
    assert (data.num_classes, data.metric) == (7, "accuracy")


@pytest.mark.parametrize("layout", ["", "planetoid", "Cora/raw", "raw"])
def test_planetoid_files_are_found_where_users_have_them(
    shared_data: Path, tmp_path: Path, layout: str
) -> None:
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder_of(shared_data, "planetoid").iterdir():
        (folder / path.name).symlink_to(path)
    folder.chmod(0o555)
    assert planetoid("cora", tmp_path).num_nodes == 2_708


def write_planetoid(folder: Path, test_ids: list[int]) -> None:
    """Files as published, small: 520 known nodes, of which 2 train, then the nodes of the test."""
    generator = np.random.default_rng(0)
    num_known, num_nodes = 520, max(test_ids) + 1
    words = generator.integers(0, 2, (num_known + len(test_ids), 5)).astype(np.float32)
    classes = np.eye(3, dtype=np.int32)[generator.integers(0, 3, len(words))]
    graph = {node: [(node * 7 + 1) % num_nodes, node] for node in range(num_nodes)}
    parts = {
        "x": sparse.csr_matrix(words[:2]),
        "allx": sparse.csr_matrix(words[:num_known]),
        "tx": sparse.csr_matrix(words[num_known:]),
        "y": classes[:2],
        "ally": classes[:num_known],
        "ty": classes[num_known:],
        "graph": graph,
    }
    for part, value in parts.items():
        dumped = pickle.dumps(value, protocol=3)
        for ours, theirs in (
            (b"numpy._core.multiarray", b"numpy.core.multiarray"),
            (b"scipy.sparse._csr", b"scipy.sparse.csr"),
        ):
            dumped = dumped.replace(ours, theirs)
        (folder / f"ind.citeseer.{part}").write_bytes(dumped)
    lines = "".join(f"{node}\n" for node in test_ids)
    (folder / "ind.citeseer.test.index").write_text(lines, encoding="utf-8")


@pytest.mark.parametrize("test_ids", [[522, 520, 521, 523], [524, 520, 527, 521]])
def test_missing_test_nodes_are_isolated_as_in_pyg(tmp_path: Path, test_ids: list[int]) -> None:
    write_planetoid(tmp_path, test_ids)
    data = planetoid("citeseer", tmp_path)
    assert_same_graph(data, read_with_pyg(tmp_path, "citeseer"))
    missing = sorted(set(range(520, max(test_ids) + 1)) - set(test_ids))
    assert not data.x[missing].any()


def test_minesweeper_is_what_pyg_reads(shared_data: Path, tmp_path: Path) -> None:
    folder = folder_of(shared_data, "heterophilous")
    raw = tmp_path / "minesweeper" / "raw"
    raw.mkdir(parents=True)
    shutil.copy(folder / "minesweeper.npz", raw)
    theirs = HeterophilousGraphDataset(str(tmp_path), "minesweeper")[0]
    for ours in (heterophilous("minesweeper", folder), heterophilous("minesweeper", tmp_path)):
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.y, theirs.y)
        assert edge_set(ours.edge_index) == edge_set(theirs.edge_index)
        for part in ("train_mask", "val_mask", "test_mask"):
            assert torch.equal(getattr(ours, part), getattr(theirs, part).T)
        assert ours.metric == "roc_auc"


@pytest.mark.parametrize(
    ("name", "num_nodes", "num_edges", "num_classes"),
    [("chameleon_filtered", 890, 8_854, 5), ("squirrel_filtered", 2_223, 46_998, 5)],
)
def test_heterophilous_edges_go_both_ways(
    shared_data: Path, name: str, num_nodes: int, num_edges: int, num_classes: int
) -> None:
    data = heterophilous(name, folder_of(shared_data, "heterophilous"))
    assert data.num_nodes == num_nodes
    assert data.edge_index.shape == (2, 2 * num_edges)
    assert is_undirected(data.edge_index)
    assert data.train_mask.shape == (10, num_nodes)
    assert (data.num_classes, data.metric) == (num_classes, "accuracy")


def test_digits_join_each_digit_to_its_nearest() -> None:
    data = digits(neighbors=8, per_class=10, num_val=400, seed=0)
    assert data.x.shape == (1_797, 64)
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert is_undirected(data.edge_index)
    assert [int(mask.sum()) for mask in data[3:6]] == [100, 400, 1_297]
    assert data.y[data.train_mask[0]].bincount().tolist() == [10] * 10
    distance = torch.cdist(data.x, data.x).fill_diagonal_(torch.inf)
    source, target = data.edge_index
    eighth = distance.sort(dim=1).values[:, 7] + 1e-4
    assert (distance[target, source] <= torch.maximum(eighth[target], eighth[source])).all()
    assert target.bincount().min() >= 8


def test_digits_keep_their_edges_when_the_split_changes() -> None:
    first, again, other = digits(seed=1), digits(seed=1), digits(seed=2)
    assert torch.equal(first.train_mask, again.train_mask)
    assert not torch.equal(first.train_mask, other.train_mask)
    assert torch.equal(first.edge_index, other.edge_index)


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=30), st.integers(0, 5))
def test_random_splits_are_disjoint_labeled_and_balanced(labels: list[int], seed: int) -> None:
    y = torch.tensor(labels * 3 + [0, 1, 2, 3] * 3)
    split = random_split(y, per_class=2, num_val=2, num_test=1, seed=seed)
    total = sum(mask.int() for mask in split)
    assert total.max() == 1
    assert not total[0, y == -1].any()
    assert y[split.train_mask[0]].bincount().tolist() == [2, 2, 2, 2]
    assert [int(mask.sum()) for mask in split[1:]] == [2, 1]
    again = random_split(y, per_class=2, num_val=2, num_test=1, seed=seed)
    assert all(map(torch.equal, split, again))


def test_the_random_split_draws_like_the_code_behind_its_figures() -> None:
    y = torch.tensor([1, 0, 2, 1, 0, 2, 0, 1, 2, 2, 1, 0, 0, 1, 2])
    torch.manual_seed(123)
    train, others = [], []
    for label in range(3):
        nodes = (y == label).nonzero().flatten()
        nodes = nodes[torch.randperm(len(nodes))]
        train.append(nodes[:2])
        others.append(nodes[2:])
    rest = torch.cat(others)
    rest = rest[torch.randperm(len(rest))]
    split = random_split(y, per_class=2, num_val=3, num_test=4, seed=123)
    for mask, nodes in zip(split, (torch.cat(train), rest[:3], rest[3:7]), strict=True):
        assert mask[0].nonzero().flatten().tolist() == sorted(nodes.tolist())


def test_fractions_cut_the_labeled_nodes() -> None:
    y = torch.tensor([0, 1, -1, 1, 0, 0, 1, 0, -1, 1, 0, 1])
    split = fraction_split(y, (0.6, 0.2, 0.2), seed=3)
    assert [int(mask.sum()) for mask in split] == [6, 2, 2]
    assert torch.equal(sum(mask.int() for mask in split)[0], (y >= 0).int())


def write_edges(path: Path, separator: str, lines: list[str] | None = None) -> Path:
    lines = lines or []
    lines += [f"{source}{separator}{target}" for source, target in EDGES]
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def write_nodes(path: Path, separator: str = ",") -> Path:
    rows = [["weight", "label", "height", "split"]]
    rows += [
        [str(weight), label, str(height), part]
        for (weight, height), label, part in zip(FEATURES, LABELS, PARTS, strict=True)
    ]
    path.write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_networkx(path: Path, graph: nx.Graph) -> Path:
    for node, ((weight, height), kind, part) in enumerate(
        zip(FEATURES, LABELS, PARTS, strict=True)
    ):
        graph.add_node(str(node), weight=weight, kind=kind, height=height, split=part)
    graph.add_edges_from((str(source), str(target)) for source, target in EDGES)
    {".graphml": nx.write_graphml, ".gml": nx.write_gml}[path.suffix](graph, path)
    return path


def assert_is_the_example(data: GraphData, edges: set[tuple[int, int]] | None = None) -> None:
    both_ways = {(0, 1), (1, 0), (1, 2), (2, 1), (1, 3), (3, 1), (4, 5), (5, 4), (5, 0), (0, 5)}
    assert edge_set(data.edge_index) == (edges or both_ways)
    assert data.edge_index.shape[1] == len(edges or both_ways)
    assert data.x.tolist() == FEATURES
    assert data.y.tolist() == [0, 1, 1, -1, 0, 1]
    assert data.class_names == ("fox", "owl")
    for mask, part in zip(data[3:6], ("train", "val", "test"), strict=True):
        assert mask[0].tolist() == [one == part for one in PARTS]


@pytest.mark.parametrize(
    ("name", "separator", "header"),
    [
        ("edges.csv", ",", ["source,target"]),
        ("edges.tsv", "\t", []),
        ("edges.txt", "  ", ["# six animals", ""]),
        ("edges.edgelist", "\t", ["from to"]),
        ("edges.edges.gz", " ", []),
    ],
)
def test_edge_lists_of_every_kind_are_one_graph(
    tmp_path: Path, name: str, separator: str, header: list[str]
) -> None:
    edges = write_edges(tmp_path / name, separator, header)
    assert_is_the_example(graph_file(edges, write_nodes(tmp_path / "nodes.csv")))
    assert_is_the_example(graph_file(edges, write_nodes(tmp_path / "nodes.tsv", "\t")))


@pytest.mark.parametrize("name", ["animals.graphml", "animals.gml"])
def test_attributes_of_nodes_are_features_labels_and_split(tmp_path: Path, name: str) -> None:
    data = graph_file(write_networkx(tmp_path / name, nx.Graph()), label="kind")
    assert_is_the_example(data)
    assert data.node_names == tuple("012345")
    chosen = graph_file(tmp_path / name, label="kind", feature_names=["height"])
    assert torch.equal(chosen.x, data.x[:, 1:])


def test_directions_are_kept_when_asked_for(tmp_path: Path) -> None:
    one_way = set(EDGES) - {(2, 2)}
    graphml = write_networkx(tmp_path / "animals.graphml", nx.DiGraph())
    assert_is_the_example(graph_file(graphml, label="kind", directed=True), one_way)
    assert_is_the_example(graph_file(graphml, label="kind"))
    edges = write_edges(tmp_path / "edges.csv", ",")
    nodes = write_nodes(tmp_path / "nodes.csv")
    assert_is_the_example(graph_file(edges, nodes, directed=True), one_way)


def test_an_adjacency_list_takes_its_features_from_another_file(tmp_path: Path) -> None:
    path = tmp_path / "edges.adjlist"
    path.write_text("0 1 5\n1 2 3\n2 2\n4 5\n", encoding="utf-8")
    assert_is_the_example(graph_file(path, write_nodes(tmp_path / "nodes.csv")))


def test_arrays_are_features_and_labels(tmp_path: Path) -> None:
    edges = write_edges(tmp_path / "edges.csv", ",")
    features, labels = np.array(FEATURES), np.array([3, 7, 7, -1, 3, 7])
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "labels.npy", labels)
    np.savez(tmp_path / "both.npz", x=features, y=labels)
    fractions = (0.4, 0.2, 0.4)
    both = graph_file(edges, tmp_path / "both.npz", fractions=fractions, seed=4)
    apart = graph_file(
        edges, tmp_path / "features.npy", tmp_path / "labels.npy", fractions=fractions, seed=4
    )
    assert both.class_names == ("3", "7")
    assert both.y.tolist() == [0, 1, 1, -1, 0, 1]
    assert [int(mask.sum()) for mask in both[3:6]] == [2, 1, 2]
    for ours, theirs in zip(both[:6], apart[:6], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "header"), [("labels.txt", ""), ("labels.csv", "label\n"), ("labels.tsv", "kind\n")]
)
def test_labels_stand_one_a_line(tmp_path: Path, name: str, header: str) -> None:
    np.save(tmp_path / "features.npy", np.array(FEATURES))
    labels = tmp_path / name
    labels.write_text(header + "".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    edges = write_edges(tmp_path / "edges.csv", ",")
    data = graph_file(edges, tmp_path / "features.npy", labels)
    assert data.y.tolist() == [0, 1, 1, -1, 0, 1]
    assert data.class_names == ("fox", "owl")


def test_nodes_may_have_names_and_labels_any_order(tmp_path: Path) -> None:
    def write(name: str, *lines: str) -> Path:
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return tmp_path / name

    data = graph_file(
        write("edges.txt", "fur beak", "beak bill"),
        write("nodes.csv", "id,height", "fur,1", "beak,2", "bill,3", "paw,4", "egg,5"),
        write("labels.csv", "label,id", "b,beak", "b,bill", "a,paw", "a,fur", "a,egg"),
    )
    assert data.node_names == ("fur", "beak", "bill", "paw", "egg")
    assert data.y.tolist() == [0, 1, 1, 0, 0]
    assert edge_set(data.edge_index) == {(0, 1), (1, 0), (1, 2), (2, 1)}


def test_a_graph_without_labels_has_no_split(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.array(FEATURES))
    edges = write_edges(tmp_path / "edges.csv", ",")
    data = graph_file(edges, tmp_path / "features.npy", label=None)
    assert data.num_splits == data.num_classes == 0
    assert data.y.tolist() == [-1] * 6


def test_classes_are_numbered_as_a_model_knows_them(tmp_path: Path) -> None:
    edges = write_edges(tmp_path / "edges.csv", ",")
    data = graph_file(edges, write_nodes(tmp_path / "nodes.csv"))
    aligned = data.align_classes(("elk", "owl", "fox"))
    assert aligned.y.tolist() == [2, 1, 1, -1, 2, 1]
    assert aligned.num_classes == 3
    assert aligned.class_names == ("elk", "owl", "fox")
