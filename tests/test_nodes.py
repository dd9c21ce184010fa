"""`graphformer nodes` leaves what it should, repeats, goes on, predicts, and refuses the rest."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tiny_training import NextWord, loader
from torch import nn

from graphformer.data.digits import digits
from graphformer.tasks.best import BestWeights
from graphformer.tasks.classification import learner as learners
from graphformer.tasks.classification.learner import NodeClassifier, Nodes, roc_auc
from graphformer.tasks.classification.network import (
    RECIPES,
    Network,
    Training,
    build_network,
    complete_settings,
)
from graphformer.tasks.classification.plots import confusion, principal_plane
from graphformer.tasks.classification.source import Source, choose_split, read_graph
from graphformer.tasks.classification.trained import read_trained
from graphformer.tasks.history import read_history
from graphformer.tasks.interruption import Interrupted
from graphformer.tasks.nodes import fit, predict
from graphformer.tasks.record import read_figures
from graphformer.tasks.run import Budget, Machine, Run, train
from graphformer.tasks.settings import Job

NUM_EPOCHS = 12
SMALL = Network("gcn", hidden=8)
SHORT = Training(epochs=NUM_EPOCHS, learning_rate=0.05)
KINDS = ("fox", "owl", "elk")
PARTS = ("train", "val", "test", "test", "")


def villages(num_nodes: int = 60) -> nx.Graph:
    """Three circles whose members know each other; what they tell of themselves is noisy."""
    generator = np.random.default_rng(0)
    graph = nx.Graph()
    for node in range(num_nodes):
        kind = node % 3
        told = generator.normal(0, 0.7, 4).round(3) + 2 * np.eye(4)[kind]
        columns = {f"f{at}": float(value) for at, value in enumerate(told)}
        graph.add_node(f"n{node}", **columns, label=KINDS[kind], split=PARTS[node // 3 % 5])
    ring = range(num_nodes)
    graph.add_edges_from((f"n{node}", f"n{(node + 3) % num_nodes}") for node in ring)
    return graph


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_graph(folder: Path, graph: nx.Graph, *hidden: str) -> tuple[Path, Path]:
    """Two tables: edges, and what is known of each node but for the `hidden` columns."""
    edges = [{"source": one, "target": other} for one, other in graph.edges]
    known = [{"id": node, **columns} for node, columns in graph.nodes(data=True)]
    nodes = [{name: row[name] for name in row if name not in hidden} for row in known]
    return write_table(folder / "edges.csv", edges), write_table(folder / "nodes.csv", nodes)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    edges, nodes = write_graph(tmp_path_factory.mktemp("villages"), villages())
    return Source(str(edges), features_file=nodes)


def job(out: Path, **settings: Any) -> Job:
    return Job(out, accelerator="cpu", **settings)


@pytest.fixture(scope="module")
def runs(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two seeds."""
    out = tmp_path_factory.mktemp("runs")
    fit(job(out, seeds=2), source, SMALL, SHORT)
    return out


def figures_of(out: Path) -> dict[str, float]:
    figures = read_figures(out)
    del figures["seconds"]
    return figures


def assert_same_run(one: Path, other: Path) -> None:
    assert figures_of(one) == figures_of(other)
    trained, expected = (read_trained(each / "best.ckpt") for each in (one, other))
    assert all(torch.equal(trained.weights[name], x) for name, x in expected.weights.items())
    tables = [read_history(each / "history.csv") for each in (one, other)]
    rows, expected_rows = ([row._replace(seconds=0.0) for row in table] for table in tables)
    assert rows == expected_rows


# ---- what a run leaves ----


def test_fit_leaves_settings_figures_plots_and_checkpoints(runs: Path, source: Source) -> None:
    assert {path.name for path in runs.iterdir()} == {
        "metrics.json",
        "seed-0",
        "seed-1",
        "settings.yaml",
    }
    assert {path.name for path in (runs / "seed-1").iterdir()} == {
        "best.ckpt",
        "checkpoints",
        "classes.svg",
        "history.csv",
        "history.svg",
        "metrics.json",
    }
    metrics = json.loads((runs / "seed-1" / "metrics.json").read_text())
    assert metrics["seeds"] == [1]
    assert metrics["data"] == "edges.csv, split of the file"
    assert metrics["split"] == "its one split (12 nodes to train, 12 to validate, 24 to test)"
    assert metrics["protocol"].startswith("gcn, accuracy at the epoch of the best validation")
    assert metrics["figures"]["epochs"] == NUM_EPOCHS
    settings = yaml.safe_load((runs / "settings.yaml").read_text())
    assert settings["features_file"] == str(source.features_file)
    assert settings["dropout"] == RECIPES["gcn"].training["dropout"]
    picture = (runs / "seed-0" / "classes.svg").read_text()
    assert all(f">{kind}</text>" in picture for kind in KINDS)


def test_seeds_are_reported_with_mean_and_deviation(runs: Path) -> None:
    metrics = json.loads((runs / "metrics.json").read_text())
    assert metrics["seeds"] == [0, 1]
    values = [read_figures(runs / f"seed-{seed}")["test_loss"] for seed in (0, 1)]
    assert values[0] != values[1]
    expected = {"mean": statistics.fmean(values), "std": statistics.stdev(values), "values": values}
    assert metrics["figures"]["test_loss"] == expected


def test_the_best_epoch_is_that_of_the_history(runs: Path) -> None:
    figures = read_figures(runs / "seed-0")
    rows = read_history(runs / "seed-0" / "history.csv")
    measured = {
        name: [row.value for row in rows if row.name == f"validation_{name}"]
        for name in ("accuracy", "loss")
    }
    ranks = list(zip(measured["accuracy"], [-each for each in measured["loss"]], strict=True))
    assert len(ranks) == NUM_EPOCHS
    best = ranks.index(max(ranks))
    assert figures["best_epoch"] == best + 1
    assert figures["validation_accuracy"] == ranks[best][0]


def test_a_seed_gives_the_same_again(runs: Path, source: Source, tmp_path: Path) -> None:
    returned = fit(job(tmp_path, seed=1), source, SMALL, SHORT)
    assert returned == read_figures(tmp_path)
    assert_same_run(tmp_path, runs / "seed-1")


def test_published_splits_are_taken_in_turn_and_named(source: Source) -> None:
    data = read_graph(source)
    masks = [mask.repeat(3, 1) for mask in (data.train_mask, data.val_mask, data.test_mask)]
    several = data._replace(train_mask=masks[0], val_mask=masks[1], test_mask=masks[2])
    assert choose_split(several, source, 4)[1].startswith("split 1 of 3 (12 nodes")
    assert choose_split(several, replace(source, split=2), 4)[1].startswith("split 2 of 3 (12")


def test_a_random_split_is_drawn_once_and_named(source: Source, tmp_path: Path) -> None:
    fit(job(tmp_path, seeds=2), replace(source, split="random"), SMALL, Training(epochs=1))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    drawn = "random split (0.6, 0.2, 0.2), seed 123 (36 nodes to train, 12 to validate, 12 to test)"
    assert metrics["split"] == drawn
    assert metrics["data"] == f"{source.data}, random split"


# ---- resuming ----


def interrupt_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends SIGINT while loss number `number` of a training is computed."""
    compute = NodeClassifier.compute_loss
    count = 0

    def compute_loss(self: NodeClassifier, batch: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGINT)
        return compute(self, batch)

    monkeypatch.setattr(NodeClassifier, "compute_loss", compute_loss)


@pytest.mark.parametrize("number", [NUM_EPOCHS // 2, NUM_EPOCHS + 7])
def test_an_interrupted_fit_goes_on_to_the_same_weights_and_figures(
    number: int, runs: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(number, monkeypatch)
    with pytest.raises(Interrupted):
        fit(job(tmp_path, seeds=2), source, SMALL, SHORT)
    assert not (tmp_path / "metrics.json").exists()
    fit(job(tmp_path, seeds=2, resume=True), source, SMALL, SHORT)
    for seed in ("seed-0", "seed-1"):
        assert_same_run(tmp_path / seed, runs / seed)
    assert (tmp_path / "metrics.json").exists()


def test_a_longer_budget_goes_on_and_gives_new_figures(
    runs: Path, source: Source, tmp_path: Path
) -> None:
    fit(job(tmp_path, seeds=2), source, SMALL, replace(SHORT, epochs=5))
    fit(job(tmp_path, seeds=2, resume=True), source, SMALL, SHORT)
    assert_same_run(tmp_path / "seed-1", runs / "seed-1")


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(
    runs: Path, source: Source
) -> None:
    before = (runs / "settings.yaml").read_text()
    wider = replace(SMALL, hidden=9)
    with pytest.raises(ValueError, match=r"seed-0 has the checkpoints of a run: resume it"):
        fit(job(runs, seeds=2), source, wider, SHORT)
    with pytest.raises(ValueError, match=r"hidden 8 \(now 9\): a run is resumed with the settings"):
        fit(job(runs, seeds=2, resume=True), source, wider, SHORT)
    assert (runs / "settings.yaml").read_text() == before


class Scripted(NextWord):
    """Validates with given values, epoch by epoch, and counts its epochs in its weights."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values
        self.epoch = nn.Parameter(torch.zeros(()), requires_grad=False)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.epoch += batch_idx == 0
        value = self.values[self.trainer.current_epoch]
        self.log("validation_loss", value, batch_size=1, on_epoch=True)


@pytest.mark.parametrize(
    ("values", "epoch"), [([1.0, 3.0, 2.0], 2), ([2.0, 2.0, 1.0], 1), ([float("nan"), 1.0, 0.0], 2)]
)
def test_best_weights_are_those_of_the_first_of_the_best_validations(
    values: list[float], epoch: int, tmp_path: Path
) -> None:
    learner = Scripted(values)
    best = BestWeights(lambda measured: (measured["validation_loss"],))
    run = Run(tmp_path, Budget(epochs=3), machine=Machine(accelerator="cpu"))
    train(learner, loader(), loader(max_tokens=40), run, callbacks=[best])
    assert learner.epoch == 3
    best.restore(learner)
    assert learner.epoch == best.epoch == epoch
    assert best.values["validation_loss"] == values[epoch - 1]


def test_training_that_measures_no_number_says_so(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has measured a number.* smaller learning"):
        fit(job(tmp_path), source, SMALL, Training(epochs=2, learning_rate=1e30))


# ---- predicting ----


def read_predictions(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_are_those_of_the_best_seed(runs: Path, tmp_path: Path, source: Source) -> None:
    rows = read_predictions(predict(runs, tmp_path))
    graph = villages()
    assert [row["node"] for row in rows] == list(graph)
    assert [row["class"] for row in rows] == [graph.nodes[node]["label"] for node in graph]
    tested = [row for row in rows if graph.nodes[row["node"]]["split"] == "test"]
    found = statistics.fmean(row["predicted"] == row["class"] for row in tested)
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
    assert {row["class"] for row in rows} == {""}
    assert statistics.fmean(row["predicted"] == KINDS[i % 3] for i, row in enumerate(rows)) > 0.8
    edges, nodes = write_graph(tmp_path, smaller, "split")
    table = predict(checkpoint, tmp_path / "out", str(edges), None, nodes, "label")
    known = read_predictions(table)
    assert [row["predicted"] for row in known] == [row["predicted"] for row in rows]
    assert [row["class"] for row in known] == [KINDS[i % 3] for i in range(30)]


def test_prediction_refuses_other_features_and_classes(runs: Path, tmp_path: Path) -> None:
    graph = villages(30)
    edges, nodes = write_graph(tmp_path, graph, "label", "split", "f3")
    with pytest.raises(ValueError, match=r"has 3 features a node, the network was trained with 4"):
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


# ---- networks, topologies and files ----


@pytest.mark.parametrize("model", RECIPES)
def test_each_model_trains_on_the_embedded_digits(model: str, tmp_path: Path) -> None:
    returned = fit(job(tmp_path), Source(), Network(model), Training(epochs=2))
    assert returned["epochs"] == 2
    assert predict(tmp_path).exists()


def test_scores_and_topologies_are_written_as_text(source: Source, tmp_path: Path) -> None:
    topology = 'edges("graph") | self_loops() | expander(3)'
    network = Network("transformer", hidden=8, heads=4, score="Cosine(4)", topology=topology)
    fit(job(tmp_path), source, network, replace(SHORT, epochs=3))
    trained = read_trained(tmp_path / "best.ckpt")
    assert any(name.endswith("score.scale") for name in trained.weights)
    graph = Nodes.of(read_graph(source), trained.network, trained.training).graph
    assert graph.num_edges > 3 * 60
    assert predict(tmp_path).exists()


@pytest.mark.parametrize("model", ["gcn", "gat", "mlp"])
def test_norms_and_linear_maps_past_are_settings(
    model: str, source: Source, tmp_path: Path
) -> None:
    network = Network(model, layers=3, norm="batch", residual=True)
    fit(job(tmp_path), source, network, Training(epochs=2))
    names = read_trained(tmp_path / "best.ckpt").weights
    assert any("running_mean" in name for name in names)
    assert any("skip" in name for name in names)


@pytest.mark.parametrize("suffix", [".graphml", ".gml", ".graphml.gz"])
def test_graphs_of_networkx_train(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"villages{suffix}"
    write = nx.write_gml if suffix == ".gml" else nx.write_graphml_xml
    graph = villages()
    for columns in graph.nodes.values():
        columns["kind"] = columns.pop("label")
    write(graph, path)
    source = Source(str(path), label="kind")
    returned = fit(job(tmp_path / "run"), source, SMALL, replace(SHORT, epochs=3))
    assert returned["test_accuracy"] > 0.4


def test_labels_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    graph = villages()
    edges, nodes = write_graph(tmp_path, graph, "label", "split")
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{graph.nodes[node]['label']}\n" for node in graph))
    source = Source(str(edges), features_file=nodes, labels_file=labels)
    returned = fit(job(tmp_path / "run"), source, SMALL, replace(SHORT, epochs=3))
    assert returned["test_accuracy"] > 0.4
    assert read_trained(tmp_path / "run" / "best.ckpt").source == source


def test_cora_trains_on_its_public_split(shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "planetoid").is_dir():
        pytest.skip(f"no folder planetoid in {shared_data}")
    source = Source("cora", data_dir=shared_data)
    returned = fit(job(tmp_path), source, Network("gcn"), Training(epochs=40))
    assert returned["test_accuracy"] > 0.7
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["data"] == "cora, public split"
    assert "140 nodes to train, 500 to validate, 1,000 to test" in metrics["split"]
    assert "features of a node divided by their sum" in metrics["protocol"]


@pytest.mark.parametrize("residual", [False, True])
def test_sparse_features_give_what_dense_ones_give(residual: bool) -> None:
    network, training = complete_settings(Network("gcn", residual=residual), Training(), "digits")
    data = digits()
    sparse = data.x * (torch.rand_like(data.x) < 0.05)
    nodes = Nodes.of(data._replace(x=sparse), network, training)
    moved = nodes.to(torch.device("cpu"))
    assert moved.x.layout is torch.sparse_csr
    assert moved.to(torch.device("cpu")).x is moved.x
    built = build_network(network, training, data.x.shape[1], 10).eval()
    out, expected = built(moved.x, moved.graph), built(nodes.x, nodes.graph)
    torch.testing.assert_close(out, expected)
    parameters = list(built.parameters())
    weights = torch.randn_like(out)
    ours = torch.autograd.grad((out * weights).sum(), parameters)
    theirs = torch.autograd.grad((expected * weights).sum(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_divided_features_sum_to_one_and_empty_ones_stay() -> None:
    x = learners.divide_by_sum(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    assert x.tolist() == [[0.25, 0.75], [0.0, 0.0]]


@pytest.mark.parametrize("decayed", ["first", "all"])
def test_weights_decay_where_they_are_told_to(decayed: Any, source: Source) -> None:
    asked = Training(decayed=decayed, weight_decay=0.5)
    network, training = complete_settings(Network("gcn"), asked, "digits")
    data = read_graph(source)
    built = build_network(network, training, 4, 3)
    nodes = Nodes.of(data, network, training)
    split, _ = choose_split(data, source, 0)
    groups = NodeClassifier(built, nodes, split, training, "accuracy").configure_optimizers()
    decay = {id(p): group["weight_decay"] for group in groups.param_groups for p in group["params"]}
    expected = {
        name: 0.5 if decayed == "all" or name.startswith("blocks.0.") else 0.0
        for name, _ in built.named_parameters()
    }
    assert {name: decay[id(p)] for name, p in built.named_parameters()} == expected


# ---- figures ----


@given(
    pairs=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40),
    scale=st.sampled_from([1.0, 1e-3]),
)
def test_roc_auc_is_that_of_scikit_learn(pairs: list[tuple[int, bool]], scale: float) -> None:
    labels = torch.tensor([int(positive) for _, positive in pairs])
    if not 0 < labels.sum() < len(labels):
        return
    scores = scale * torch.tensor([float(score) for score, _ in pairs])
    expected = roc_auc_score(labels.numpy(), scores.numpy())
    assert float(roc_auc(scores, labels)) == pytest.approx(expected, rel=1e-6)


def test_confusion_has_the_share_of_each_class() -> None:
    table = confusion(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 0]), 3)
    torch.testing.assert_close(table[0], torch.tensor([2 / 3, 1 / 3, 0.0]))
    assert table[1].tolist() == [0.0, 1.0, 0.0]
    assert table[2].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_principal_plane_keeps_most_of_the_variance(width: int) -> None:
    x = torch.randn(50, width) * torch.tensor([0.1, 3.0, 0.2, 2.0, 0.1])[:width]
    plane = principal_plane(x)
    kept = torch.linalg.svdvals(x - x.mean(0))[:2].square().sum()
    torch.testing.assert_close(plane.square().sum(), kept)


# ---- refusals ----


@pytest.mark.parametrize(
    ("source", "network", "training", "message"),
    [
        ({}, {"model": "gnc"}, {}, "model 'gnc' is unknown: known are gcn, gat, sage, transfo"),
        ({"data": "corra"}, {}, {}, "data 'corra' is unknown: known are digits, cora, citeseer"),
        ({"data": "corra.graphml"}, {}, {}, "corra.graphml does not exist"),
        ({"split": 3}, {}, {}, "split 3 of digits.* is unknown: write public, random, or 0"),
        ({"split": "private"}, {}, {}, "split 'private' of digits.* is unknown: write public"),
        ({}, {"heads": 2}, {}, "gcn has no setting heads=2: it has model, hidden, layers, norm, r"),
        ({}, {"model": "sage", "residual": True}, {}, "sage has no setting residual=True"),
        ({}, {"model": "mlp", "topology": "complete()"}, {}, "mlp has no setting topology="),
        ({}, {"topology": "edges(graph)"}, {}, r"the topology 'edges\(graph\)', the argument"),
        ({}, {"topology": 'edges("bond")'}, {}, "data named 'bond', the names given are: 'graph'"),
        (
            {},
            {"model": "transformer", "score": "Cosine(8)"},
            {},
            r"Cosine\(8\) was made for 8 heads",
        ),
        ({}, {"model": "transformer", "score": "Sine(4)"}, {}, "unknown name 'Sine' in the score"),
        ({}, {"model": "transformer", "hidden": 30}, {}, "4 heads do not divide a width of 30"),
        ({}, {"hidden": 0}, {}, "hidden is 0: write a number above 0"),
        ({}, {}, {"epochs": 0}, "epochs is 0: write a number above 0"),
        ({}, {}, {"learning_rate": -0.1}, "learning_rate is -0.1: write a number above 0"),
        ({}, {}, {"weight_decay": -0.1}, "weight_decay is -0.1: write a number of at least 0"),
        ({}, {}, {"dropout": 1.0}, "probability of at least 0 and below 1, it got 1.0"),
    ],
)
def test_fit_refuses_before_it_writes(
    source: dict[str, Any],
    network: dict[str, Any],
    training: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(job(out), Source(**source), Network(**network), Training(**training))
    assert not out.exists()


@pytest.mark.usefixtures("unchecked")
def test_settings_list_the_names_they_know() -> None:
    with pytest.raises(ValueError, match="norm 'group' is unknown: known are batch, layer"):
        Network(norm="group")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="decayed 'last' is unknown: known are first, all"):
        Training(decayed="last")  # type: ignore[arg-type]


@pytest.mark.parametrize(("setting", "least"), [("seeds", 1), ("seed", 0)])
def test_a_job_refuses_numbers_that_are_too_small(setting: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"{setting} is {least - 1}: write .* at least {least}"):
        Job(Path("out"), **{setting: least - 1})


def test_a_graph_without_labels_is_refused(tmp_path: Path) -> None:
    edges, nodes = write_graph(tmp_path, villages(), "label", "split")
    source = Source(str(edges), features_file=nodes, label=None)
    with pytest.raises(ValueError, match="has no labels to learn from: name the column"):
        fit(job(tmp_path / "run"), source, SMALL, SHORT)


@pytest.mark.parametrize("name", ["node", "Node_ID", "nodes", "index", "ID", "name"])
def test_names_of_nodes_are_not_taken_for_features(name: str, tmp_path: Path) -> None:
    edges, nodes = write_graph(tmp_path, villages(30), "split")
    text = nodes.read_text("utf-8")
    nodes.write_text(name + text[text.index(",") :], "utf-8")
    with pytest.raises(ValueError, match=f"column '{name}', which looks like the names of the n"):
        read_graph(Source(str(edges), features_file=nodes))


def test_features_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edges, nodes = write_graph(tmp_path, villages(30))
    source = Source(str(edges), features_file=nodes, feature_names=["f0", "f2"])
    fit(job(tmp_path / "run"), source, SMALL, Training(epochs=1))
    assert "30 nodes, 60 edges, 2 features, 3 classes" in capsys.readouterr().err
    assert len(read_predictions(predict(tmp_path / "run"))) == 30


def test_classes_may_have_any_name(tmp_path: Path) -> None:
    graph = villages(30)
    names = {node: f"$_$ <{kind}>" for node, kind in graph.nodes(data="label")}
    nx.set_node_attributes(graph, names, "label")
    edges, nodes = write_graph(tmp_path, graph)
    fit(job(tmp_path / "run"), Source(str(edges), features_file=nodes), SMALL, Training(epochs=1))
    assert (tmp_path / "run" / "classes.svg").exists()
