"""The command `graphformer nodes`: nodes of a graph are classified, after training on some."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from graphformer.data.graph_data import GraphData
from graphformer.tasks.best import BestWeights
from graphformer.tasks.classification.learner import NodeClassifier, Nodes, whole_graph
from graphformer.tasks.classification.network import (
    Network,
    Training,
    build_network,
    complete_settings,
)
from graphformer.tasks.classification.plots import draw_classes
from graphformer.tasks.classification.predictions import probabilities, write_predictions
from graphformer.tasks.classification.source import RANDOM, Source, choose_split, read_graph
from graphformer.tasks.classification.trained import (
    Trained,
    find_trained,
    read_trained,
    write_trained,
)
from graphformer.tasks.plots import plot_history, where_installed
from graphformer.tasks.randomness import seed_everything
from graphformer.tasks.record import Summary, summarize, write_metrics
from graphformer.tasks.run import HISTORY, Budget, Machine, Run, repeat, train
from graphformer.tasks.settings import Job, check_folder, keep_settings

PREDICTIONS = "predictions.csv"
CURVES = "history.svg"
CLASSES = "classes.svg"
PRECISION = "32-true"


def fit(job: Job, source: Source, network: Network, training: Training) -> dict[str, float]:
    """Trains a network to classify the nodes of a graph.

    Leaves `settings.yaml`, `metrics.json`, `history.csv`, plots, checkpoints and the best weights
    in `job.out`, and returns the mean of each figure over the seeds.

    Args:
        job: where, and how often.
        source: the graph and its split.
        network: the network.
        training: how it is trained.

    Raises:
        ValueError: a name is unknown, or settings or data make no sense.
        FileNotFoundError: a file is missing.
    """
    job.check_unused()
    network, training = complete_settings(network, training, source.data)
    device, data = job.device, read_graph(source)
    source = source.over(data)
    task = Task(data, Nodes.of(data, network, training), source, network, training, device)
    task.check(job.all_seeds)
    print(data.sentence, file=sys.stderr)
    budget, machine = Budget(epochs=training.epochs), Machine.of(device, PRECISION)
    run = Run(job.out, budget, job.seed, job.resume, machine=machine, name=network.model)
    keep_settings(job.out, (job, source, network, training), job.resume)
    if job.seeds == 1:
        summary = summarize([task.perform(run)])
    else:
        summary = repeat(task.perform, run, job.all_seeds)
        task.write(job.out, summary, job.all_seeds)
    print(task.sentence(summary))
    return {name: each["mean"] for name, each in summary.items()}


@dataclass(frozen=True, eq=False)
class Task:
    """A graph whose nodes are to be classified, and how.

    Attributes:
        data: the graph.
        nodes: what of it a network is given.
        source: where it is from, and which of its splits.
        network: complete settings.
        training: complete settings.
        device: to train on.
    """

    data: GraphData
    nodes: Nodes
    source: Source
    network: Network
    training: Training
    device: torch.device

    def check(self, seeds: Sequence[int]) -> None:
        """Does nothing where all runs can begin.

        Raises:
            ValueError: there is no such split or score, or sizes do not fit.
        """
        for seed in seeds:
            choose_split(self.data, self.source, seed)
        with torch.no_grad():
            self._build().eval()(self.nodes.x, self.nodes.graph)

    def perform(self, run: Run) -> dict[str, float]:
        """The figures of one run, which leaves its files in `run.out`."""
        data, metric = self.data, self.data.metric
        split, _ = choose_split(data, self.source, run.seed)
        seed_everything(run.seed)
        learner = NodeClassifier(self._build(), self.nodes, split, self.training, metric)
        validation = f"validation_{metric}"
        kept = BestWeights(lambda values: (values[validation], -values["validation_loss"]))
        measured = train(learner, whole_graph(), whole_graph(), run, callbacks=[kept])
        kept.restore(learner)
        best = kept.best
        logits = classify(learner)
        test_loss, test_value = learner.measure(logits, learner.parts[2])
        figures = {
            f"test_{metric}": test_value.item(),
            "test_loss": test_loss.item(),
            validation: best.values[validation],
            "validation_loss": best.values["validation_loss"],
            "best_epoch": best.epoch,
            "epochs": measured["steps"],
            "seconds": measured["seconds"],
        }
        settings = (self.network, self.training, self.source, data.x.shape[1], data.class_names)
        weights = learner.network.state_dict()
        trained = Trained(weights, *settings, figures[validation], data.feature_names)
        write_trained(run.out, trained)
        self.write(run.out, figures, [run.seed])
        with where_installed():
            plot_history(run.out / HISTORY, run.out / CURVES)
            draw_classes(learner, logits, data.class_names, run.out / CLASSES)
        return figures

    def write(self, out: Path, figures: Mapping[str, object], seeds: Sequence[int]) -> None:
        """`metrics.json` in the folder `out`."""
        metric, training = self.data.metric, self.training
        splits = (choose_split(self.data, self.source, seed)[1] for seed in seeds)
        features = ", features of a node divided by their sum" if training.normalize_rows else ""
        write_metrics(
            out,
            figures,
            seeds=seeds,
            data=self.name,
            split="; ".join(dict.fromkeys(splits)),
            protocol=(
                f"{self.network.model}, {metric} at the epoch of the best validation {metric}, of "
                f"equal ones that of the smallest validation loss; {training.epochs} epochs of one "
                f"step each{features}"
            ),
            device=self.device,
            precision=PRECISION,
        )

    def sentence(self, summary: Mapping[str, Summary]) -> str:
        """The result in a line."""
        name = f"test_{self.data.metric}"
        figure = summary[name]
        mean, deviation, num_seeds = figure["mean"], figure["std"], len(figure["values"])
        spread = "" if deviation is None else f" +- {100 * deviation:.2f}"
        seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
        return f"{self.network.model} on {self.name}: {name} {100 * mean:.2f}{spread} % ({seeds})"

    @property
    def name(self) -> str:
        """The data set, and its split unless another one was drawn."""
        drawn = self.source.split == RANDOM and not self.data.drawn
        return f"{self.source.data}, random split" if drawn else self.data.name

    def _build(self) -> torch.nn.Module:
        in_dim, out_dim = self.data.x.shape[1], self.data.num_classes
        return build_network(self.network, self.training, in_dim, out_dim)


def predict(
    checkpoint: Path,
    out: Path | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    features_file: Path | None = None,
    label: str | None = None,
    directed: bool = False,
) -> Path:
    """Writes the class of each node and its probability to `predictions.csv`.

    Args:
        checkpoint: folder of a run of `fit`, of whose seeds the best is taken, or its best.ckpt.
        out: folder of the predictions; that of the checkpoint where left out.
        data: another graph than that of the run: the name of a data set, or a file.
        data_dir: folder of the published files, as for fit.
        features_file: one row a node, beside a file of edges.
        label: column or attribute that holds the class in the other graph; left out, the one that
            held it in training, if there is one.
        directed: keep the direction of the edges of the other graph.

    Returns:
        The table.

    Raises:
        FileNotFoundError: there is no checkpoint, or a file is missing.
        ValueError: the checkpoint is damaged, or the graph has other features or classes.
    """
    if out is not None:
        check_folder(out)
    file = find_trained(checkpoint)
    trained = read_trained(file)
    of_file = {"features_file": features_file, "label": label, "directed": directed}
    if data is not None:
        source = trained.suited(Source(data, data_dir, **of_file))  # type: ignore[arg-type]
    elif any(of_file.values()):
        given = ", ".join(f"{name}={value}" for name, value in of_file.items() if value)
        raise ValueError(f"{given} is said of another graph: name its file as well (data)")
    else:
        source = replace(trained.source, data_dir=data_dir or trained.source.data_dir)
        source = trained.suited(source)
    graph = read_graph(source, split=False)
    trained.check_fits(graph)
    graph = graph.align_classes(trained.class_names)
    table = (file.parent if out is None else out) / PREDICTIONS
    write_predictions(table, probabilities(trained, graph), graph)
    print(f"{graph.num_nodes:,} nodes: {table}")
    return table


def classify(learner: NodeClassifier) -> Tensor:
    """The logits [node, class] of all nodes, as they are in evaluation."""
    learner.setup("test")
    learner.eval()
    with torch.no_grad():
        logits: Tensor = learner()
    return logits
