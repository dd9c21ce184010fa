"""One graph whose nodes are classified, the whole of it at each step."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer
from torch_geometric.data import Data

from graphformer.data.graph_data import GraphData, Metric
from graphformer.data.splits import Split
from graphformer.edge_data import EdgeValues
from graphformer.graph import TokenGraph
from graphformer.tasks.batches import BatchOrder
from graphformer.tasks.classification.network import Network, Training
from graphformer.tasks.learner import Learner, SummedLoss
from graphformer.tasks.loader import Loader
from graphformer.tasks.optimizers import fused_optimizer
from graphformer.tokens import nodes
from graphformer.topology import Topology

# Of features with fewer entries than this share, a product with the stored ones alone is faster.
SPARSE = 0.1


class Nodes(NamedTuple):
    """What a network is given of a graph.

    Attributes:
        x: features; sparse where that is faster.
        graph: who hears whom.
        y: classes; -1 where a node has none.
    """

    x: Float[Tensor, "node feature"]
    graph: TokenGraph
    y: Int[Tensor, "node"]

    @classmethod
    def of(cls, data: GraphData, network: Network, training: Training) -> Nodes:
        """The nodes of `data`, joined and scaled as complete settings say.

        Raises:
            ValueError: the topology cannot be read or bound to these nodes.
        """
        x = divide_by_sum(data.x) if training.normalize_rows else data.x
        tokens = nodes(Data(x=x, edge_index=data.edge_index))
        topology = Topology.parse(str(network.topology))
        return cls(x, topology.bind(tokens, graph=EdgeValues(data.edge_index)), data.y)

    def to(self, device: torch.device) -> Nodes:
        """The same on `device`, in the form that is fastest there."""
        x = self.x.to(device)
        if device.type == "cpu":
            x = sparse_where_faster(x)
        return Nodes(x, self.graph.to(device), self.y.to(device))


class NodeClassifier(Learner):
    """Learns the classes of the training nodes; validates on others.

    Logs `validation_loss` and the metric, `validation_accuracy` or `validation_roc_auc`.

    Args:
        network: gives the logits of each node of `network(x, graph)`.
        nodes: the graph.
        split: which nodes train, validate and test.
        training: complete settings.
        metric: "accuracy" or "roc_auc".
    """

    def __init__(
        self, network: nn.Module, nodes: Nodes, split: Split, training: Training, metric: Metric
    ) -> None:
        super().__init__()
        self.network = network
        self.nodes = nodes
        self.parts = [mask.flatten().nonzero().flatten() for mask in split]
        self.settings = training
        self.metric = metric

    def setup(self, stage: str) -> None:
        # Once, and not as a batch, which would move to the device at each step.
        self.nodes = self.nodes.to(self.device)
        self.parts = [part.to(self.device) for part in self.parts]

    def forward(self) -> Float[Tensor, "node class"]:
        """The logits of all nodes."""
        logits: Tensor = self.network(self.nodes.x, self.nodes.graph)
        return logits

    def compute_loss(self, batch: Any) -> SummedLoss:
        """Cross-entropy, summed over the training nodes."""
        train, _, _ = self.parts
        total = F.cross_entropy(self()[train], self.nodes.y[train], reduction="sum")
        return SummedLoss(total, len(train))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        _, validation, _ = self.parts
        loss, value = self.measure(self(), validation)
        values = {"validation_loss": loss, f"validation_{self.metric}": value}
        self.log_dict(values, batch_size=1, on_epoch=True, sync_dist=True)

    def measure(
        self, logits: Float[Tensor, "node class"], part: Int[Tensor, "some"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross-entropy and metric of these nodes."""
        chosen, labels = logits[part], self.nodes.y[part]
        if self.metric == "roc_auc":
            value = roc_auc(chosen[:, 1] - chosen[:, 0], labels)
        else:
            value = (chosen.argmax(1) == labels).float().mean()
        return F.cross_entropy(chosen, labels), value

    def configure_optimizers(self) -> Optimizer:
        """Adam, whose decay is added to the gradient, as the papers have it."""
        settings = self.settings
        rate, decay = settings.learning_rate, settings.weight_decay
        if settings.decayed == "all":
            return fused_optimizer(Adam, self.network.parameters(), lr=rate, weight_decay=decay)
        blocks: Any = self.network.blocks
        first = list(blocks[0].parameters())
        optimizer = fused_optimizer(Adam, first, lr=rate, weight_decay=decay)
        others = [each for each in self.network.parameters() if all(each is not p for p in first)]
        optimizer.add_param_group({"params": others, "weight_decay": 0.0})
        return optimizer


def whole_graph() -> Loader:
    """One batch an epoch, which stands for the graph that the learner holds."""
    return Loader([0], list, BatchOrder.of_size(1, 1))


def divide_by_sum(x: Float[Tensor, "node feature"]) -> Float[Tensor, "node feature"]:
    """Features that sum to one at each node; a node without any keeps none."""
    total = x.sum(1, keepdim=True)
    return x / torch.where(total == 0, 1.0, total)


def sparse_where_faster(x: Float[Tensor, "node feature"]) -> Float[Tensor, "node feature"]:
    """The features, in compressed rows where most are zero and torch can multiply such."""
    if x.layout is not torch.strided or not torch.backends.mkl.is_available():
        return x
    if x.count_nonzero() > SPARSE * x.numel():
        return x
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        return x.to_sparse_csr()


def roc_auc(score: Float[Tensor, "node"], label: Int[Tensor, "node"]) -> Float[Tensor, ""]:
    """The share of (positive, negative) pairs in the right order, ties counted half.

    Args:
        score: of being positive.
        label: 1 or 0, both of which occur.
    """
    _, place, counts = score.unique(return_inverse=True, return_counts=True)
    mean_rank = counts.cumsum(0) - (counts.double() - 1) / 2
    positive = label == 1
    num_positive = positive.sum().double()
    above = mean_rank[place][positive].sum() - num_positive * (num_positive + 1) / 2
    return (above / (num_positive * (len(label) - num_positive))).float()
