"""Networks, topologies, files and figures of `graphformer nodes`, and what of them is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from villages import (
    SHORT,
    SMALL,
    job,
    read_predictions,
    source_of,
    villages,
    write_graph,
)

from graphformer.data.digits import digits
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
from graphformer.tasks.nodes import fit, predict
from graphformer.tasks.settings import Job


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source_of(tmp_path_factory.mktemp("villages"))


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
    assert read_trained(tmp_path / "run" / "best.ckpt").source == replace(source, split="random")


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


@pytest.mark.parametrize(
    ("source", "network", "training", "message"),
    [
        ({}, {"model": "gnc"}, {}, "model 'gnc' is unknown: known are gcn, gat, sage, transfo"),
        ({"data": "corra"}, {}, {}, "data 'corra' is unknown: known are digits, cora, citeseer"),
        ({"data": "corra.graphml"}, {}, {}, "corra.graphml does not exist"),
        (
            {"features_file": Path("a.csv")},
            {},
            {},
            "features_file is said of a file, and the",
        ),
        ({"directed": True}, {}, {}, "directed is said of a file, and the graph is digits: leave"),
        ({"split": 3}, {}, {}, "split 3 of digits.* is unknown: it has none but random"),
        ({"split": "public"}, {}, {}, "split 'public' of digits.* is unknown: it has none but"),
        ({}, {"heads": 2}, {}, "gcn has no setting heads=2: it has model, hidden, layers, norm, r"),
        ({}, {"model": "sage", "residual": True}, {}, "sage has no setting residual=True"),
        ({}, {"model": "mlp", "topology": "complete()"}, {}, "mlp has no setting topology="),
        ({}, {"topology": "edges(graph)"}, {}, r"the topology 'edges\(graph\)', the argument"),
        (
            {},
            {"topology": 'edges("bond")'},
            {},
            r"has edges\('bond'\), and .* write edges\(\"graph\"\)",
        ),
        (
            {},
            {"model": "transformer", "score": "Cosine(8)"},
            {},
            r"Cosine\(8\), which was made for 8 heads, .* 4 heads, Cosine\(4\), or heads=8",
        ),
        ({}, {"model": "transformer", "score": "Sine(4)"}, {}, "unknown name 'Sine' in the score"),
        (
            {},
            {"model": "transformer", "hidden": 30},
            {},
            "hidden is 30, and 4 heads .* as 28 or 32",
        ),
        ({}, {"hidden": 0}, {}, "hidden is 0: write a number of at least 1"),
        ({}, {}, {"epochs": 0}, "epochs is 0: write a number of at least 1"),
        ({}, {}, {"learning_rate": -0.1}, "learning_rate is -0.1: write a number above 0"),
        ({}, {}, {"weight_decay": -0.1}, "weight_decay is -0.1: write a number of at least 0"),
        ({}, {}, {"dropout": 1.0}, "dropout is 1.0: write a probability of at least 0 and below 1"),
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


def test_a_job_refuses_a_file_for_its_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"out is .*notes.txt, which is a file: write a folder"):
        Job(tmp_path / "notes.txt")


def test_a_used_folder_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    for seed in (2, 10):
        folder = tmp_path / f"seed-{seed}" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "step-000000001.ckpt").touch()
    with pytest.raises(ValueError, match=rf"{tmp_path} has the checkpoints of a run \(in seed-2\)"):
        fit(job(tmp_path), Source("absent.csv"), SMALL, SHORT)


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
