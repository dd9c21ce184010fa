"""`graphformer nodes predict` says what the best weights say, and refuses what is other."""

from __future__ import annotations

import statistics
import zipfile
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from villages import (
    KINDS,
    SHORT,
    SMALL,
    job,
    read_predictions,
    source_of,
    villages,
    write_graph,
    write_table,
)

from graphformer.tasks.classification.source import Source
from graphformer.tasks.classification.trained import read_trained
from graphformer.tasks.nodes import fit, predict
from graphformer.tasks.record import read_figures


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source_of(tmp_path_factory.mktemp("villages"))


@pytest.fixture(scope="module")
def runs(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two seeds."""
    out = tmp_path_factory.mktemp("runs")
    fit(job(out, seeds=2), source, SMALL, SHORT)
    return out


def test_predictions_are_those_of_the_best_seed(runs: Path, tmp_path: Path, source: Source) -> None:
    rows = read_predictions(predict(runs, tmp_path))
    graph = villages()
    assert [row["node"] for row in rows] == list(graph)
    assert [row["actual"] for row in rows] == [graph.nodes[node]["label"] for node in graph]
    tested = [row for row in rows if graph.nodes[row["node"]]["split"] == "test"]
    found = statistics.fmean(row["predicted"] == row["actual"] for row in tested)
    figures = [read_figures(runs / f"seed-{seed}") for seed in (0, 1)]
    best = max(figures, key=lambda each: each["validation_accuracy"])
    assert found == pytest.approx(best["test_accuracy"])
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)


def test_another_graph_is_predicted_with_and_without_its_classes(
    runs: Path, tmp_path: Path
) -> None:
    checkpoint = runs / "seed-0" / "best.ckpt"
    smaller = villages(30)
    edges, nodes = write_graph(tmp_path, smaller, "label", "split")
    table = predict(checkpoint, tmp_path / "out", str(edges), features_file=nodes)
    rows = read_predictions(table)
    assert len(rows) == 30
    assert {row["actual"] for row in rows} == {""}
    assert statistics.fmean(row["predicted"] == KINDS[i % 3] for i, row in enumerate(rows)) > 0.8
    edges, nodes = write_graph(tmp_path, smaller, "split")
    table = predict(checkpoint, tmp_path / "out", str(edges), None, nodes, "label")
    known = read_predictions(table)
    assert [row["predicted"] for row in known] == [row["predicted"] for row in rows]
    assert [row["actual"] for row in known] == [KINDS[i % 3] for i in range(30)]


def test_features_are_found_by_name_in_any_order(runs: Path, tmp_path: Path) -> None:
    graph = villages(30)
    edges, nodes = write_graph(tmp_path, graph, "label", "split")
    expected = read_predictions(predict(runs, tmp_path, str(edges), features_file=nodes))
    moved = [
        {"id": name, **{f"f{at}": known[f"f{at}"] for at in (2, 0, 3, 1)}, "remark": "none"}
        for name, known in graph.nodes(data=True)
    ]
    nodes = write_table(tmp_path / "moved.csv", moved)
    assert read_predictions(predict(runs, tmp_path, str(edges), None, nodes)) == expected
    attributed = nx.Graph(graph.edges)
    attributed.add_nodes_from((row.pop("id"), row) for row in moved)
    nx.write_graphml(attributed, file := tmp_path / "moved.graphml")
    found = {row["node"]: row for row in read_predictions(predict(runs, tmp_path, str(file)))}
    for row in expected:
        assert found[row["node"]]["predicted"] == row["predicted"]


def test_features_without_names_keep_their_order(runs: Path, tmp_path: Path) -> None:
    graph = nx.convert_node_labels_to_integers(villages(30))
    edges, nodes = write_graph(tmp_path, graph, "label", "split")
    expected = read_predictions(predict(runs, tmp_path, str(edges), features_file=nodes))
    features = np.array([[known[f"f{at}"] for at in range(4)] for _, known in graph.nodes.items()])
    np.save(tmp_path / "nodes.npy", features)
    np.savetxt(tmp_path / "plain.csv", features, delimiter=",")
    for name in ("nodes.npy", "plain.csv"):
        table = predict(runs, tmp_path, str(edges), features_file=tmp_path / name)
        assert [row["predicted"] for row in read_predictions(table)] == [
            row["predicted"] for row in expected
        ]
    np.save(tmp_path / "nodes.npy", features[:, :3])
    with pytest.raises(ValueError, match=r"has 3 features a node, the network was trained with 4"):
        predict(runs, None, str(edges), features_file=tmp_path / "nodes.npy")


@pytest.mark.parametrize("num_known", [0, 1, 30])
def test_a_column_of_labels_is_no_feature_of_the_nodes_predicted(
    num_known: int, runs: Path, tmp_path: Path
) -> None:
    graph = villages(30)
    nx.set_node_attributes(graph, {f"n{node}": "" for node in range(num_known, 30)}, "label")
    edges, nodes = write_graph(tmp_path, graph)
    rows = read_predictions(predict(runs, tmp_path / "out", str(edges), features_file=nodes))
    assert [row["actual"] for row in rows] == [graph.nodes[node]["label"] for node in graph]


def test_prediction_refuses_other_features_and_classes(runs: Path, tmp_path: Path) -> None:
    graph = villages(30)
    edges, nodes = write_graph(tmp_path, graph, "label", "split", "f3")
    with pytest.raises(
        ValueError,
        match=r"nodes.csv lacks f3: the network was trained with the features f0, f1, f2, f3, "
        r"and it has id, f0, f1, f2; call",
    ):
        predict(runs, None, str(edges), features_file=nodes)
    nx.set_node_attributes(graph, {"n4": "yak"}, "label")
    edges, nodes = write_graph(tmp_path, graph, "split")
    with pytest.raises(ValueError, match="unknown label yak: known are elk, fox, owl"):
        predict(runs, None, str(edges), features_file=nodes, label="label")
    with pytest.raises(ValueError, match="label=label is said of another graph: name its file"):
        predict(runs, label="label")


def test_prediction_refuses_what_is_no_trained_network(runs: Path, tmp_path: Path) -> None:
    trained = runs / "seed-0" / "best.ckpt"
    file = tmp_path / "best.ckpt"
    with pytest.raises(FileNotFoundError, match=r"has no best.ckpt, nor has a folder seed-\*"):
        predict(tmp_path)
    file.write_bytes(trained.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"best.ckpt cannot be read: the file is truncated"):
        predict(tmp_path)
    content = trained.read_bytes()
    weights = read_trained(trained).weights["blocks.0.attention.layer.projection.weight"]
    place = content.index(weights.numpy().tobytes())
    file.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    with pytest.raises(ValueError, match=r"best.ckpt cannot be read: its part .* checksum"):
        predict(tmp_path)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", "no weights")
    with pytest.raises(ValueError, match=r"best.ckpt is no checkpoint of graphformer"):
        predict(tmp_path)
    torch.save({"network": Path("here")}, file)
    with pytest.raises(ValueError, match=r"best.ckpt is no checkpoint of graphformer"):
        predict(tmp_path)
    (other,) = (runs / "seed-0" / "checkpoints").glob("*.ckpt")
    with pytest.raises(ValueError, match=r"is no network that `graphformer nodes fit` has trained"):
        predict(other)
    stored = torch.load(trained, weights_only=True)
    torch.save(stored | {"graphformer nodes": 99, "version": "7.1"}, file)
    with pytest.raises(ValueError, match=r"was written by graphformer 7.1 in another format"):
        predict(tmp_path)


@pytest.mark.parametrize("lacking", ["network", "weights", "class_names", "validation"])
def test_a_network_of_which_a_part_is_lacking_is_refused_by_name(
    lacking: str, runs: Path, tmp_path: Path
) -> None:
    stored = torch.load(runs / "seed-0" / "best.ckpt", weights_only=True)
    del stored[lacking]
    torch.save(stored, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=rf"best.ckpt lacks what a trained .*{lacking}.*train it"):
        predict(tmp_path)


def test_weights_of_another_network_are_refused_by_name(runs: Path, tmp_path: Path) -> None:
    stored = torch.load(runs / "seed-0" / "best.ckpt", weights_only=True)
    stored["weights"].popitem()
    torch.save(stored, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"best.ckpt lacks what a trained network has"):
        predict(tmp_path)


def test_a_graph_too_small_to_be_split_is_predicted(runs: Path, tmp_path: Path) -> None:
    edges, nodes = write_graph(tmp_path, villages(6).subgraph(["n0", "n1", "n3"]), "split")
    table = predict(runs, tmp_path / "out", str(edges), features_file=nodes, label="label")
    assert [row["actual"] for row in read_predictions(table)] == ["fox", "owl", "fox"]


def test_prediction_refuses_a_file_for_its_folder(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"out is .*notes.txt, which is a file: write a folder"):
        predict(runs, tmp_path / "notes.txt")
