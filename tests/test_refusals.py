"""What the core refuses, before any work: what came, what was needed, what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import make_tokens
from torch import Tensor

import graphformer as gf
from graphformer.tokens import Tokens

HEADS, DIM = 4, 6
TOKENS = make_tokens((3, 4))
BONDS = torch.tensor([[0, 1, 4], [1, 2, 3]])


def raises(kind: type[Exception], *parts: str) -> Any:
    """Expects an error whose message has these parts, in this order."""
    return pytest.raises(kind, match="(?s)" + ".*".join(map(re.escape, parts)))


def numbers(tokens: int = 7, heads: int = HEADS, dim: int = DIM) -> Tensor:
    return torch.randn(tokens, heads, dim)


def bonded(values: Tensor | None = None, **settings: Any) -> gf.TokenGraph:
    """A graph of bonds with values."""
    return gf.edges("bond").bind(TOKENS, bond=gf.EdgeValues(BONDS, values, **settings))


# ---- attend ----

GRAPH = gf.complete().bind(TOKENS)
X = numbers()

REFUSED_OPERANDS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "flat heads": (
        lambda: gf.attend(X.flatten(1), X, X, GRAPH),
        ["query has shape [7, 24]", "[token, head, dim]", "query.unflatten(-1, (heads, dim))"],
    ),
    "padded": (
        lambda: gf.attend(X, X, X[None], GRAPH),
        ["value has shape [1, 7, 4, 6]", "[token, head, dim]"],
    ),
    "other tokens": (
        lambda: gf.attend(numbers(6), X, X, GRAPH),
        ["query has 6 tokens", "bound to 7", "bind the topology to these tokens"],
    ),
    "other keys": (
        lambda: gf.attend(X, numbers(8), numbers(8), GRAPH),
        ["key has 8 tokens", "bound to 7"],
    ),
    "mixed dtypes": (
        lambda: gf.attend(X, X.double(), X, GRAPH),
        ["key is torch.float64", "value is torch.float32", "torch.autocast"],
    ),
    "mixed devices": (
        lambda: gf.attend(X.to("meta"), X, X, GRAPH),
        ["query is on meta", "value on cpu", "one device"],
    ),
    "graph elsewhere": (
        lambda: gf.attend(*[X.to("meta")] * 3, GRAPH),
        ["value is on meta", "the graph on cpu", "graph.to(device)"],
    ),
    "missing query": (
        lambda: gf.attend(None, X, X, GRAPH),
        ["DotProduct() reads the query", "None", "pass a tensor"],
    ),
    "missing key": (
        lambda: gf.attend(X, None, X, GRAPH),
        ["DotProduct() reads the key", "None"],
    ),
    "uneven groups": (
        lambda: gf.attend(X, X[:, :3], X[:, :3], GRAPH),
        ["4 query heads", "3 heads of keys and values", "multiple"],
    ),
    "keys unlike values": (
        lambda: gf.attend(X, X[:, :2], X, GRAPH),
        ["key has 2 heads", "value 4"],
    ),
    "other widths": (
        lambda: gf.attend(X, X[..., :5], X, GRAPH),
        ["query has 6 numbers a head", "key 5", "one dimension"],
    ),
    "heads of a score": (
        lambda: gf.attend(X, X, X, GRAPH, gf.Additive(8, DIM)),
        ["Additive(8, dim=6) was made for 8 heads", "have 4", "heads=4"],
    ),
    "heads of a bias": (
        lambda: gf.attend(X, X, X, GRAPH, gf.DotProduct() + gf.ALiBi(8)),
        ["ALiBi(8) was made for 8 heads", "have 4"],
    ),
    "heads inside rotary": (
        lambda: gf.attend(X, X, X, GRAPH, gf.Rotary(gf.Cosine(2))),
        ["Rotary(Cosine(2)) was made for 2 heads", "have 4"],
    ),
    "odd rotary": (
        lambda: gf.attend(X[..., :5], X[..., :5], X, GRAPH, gf.Rotary(gf.DotProduct())),
        ["Rotary turns pairs", "it is 5", "even dimension"],
    ),
    "unknown dimension": (
        lambda: gf.attend(X, X, X, GRAPH, gf.Additive(HEADS)),
        ["Additive(4) does not know the dimension of its heads", "Additive(4, dim)"],
    ),
    "unknown dimension of a pairwise score": (
        lambda: gf.attend(X, X, X, GRAPH, gf.Bahdanau(HEADS)),
        ["Bahdanau(4) does not know", "Bahdanau(4, dim)"],
    ),
    "weight of unnamed edges": (
        lambda: gf.GATv2(HEADS, DIM, edge_weight=torch.randn(HEADS, DIM, 3)),
        ["GATv2 got edge_weight and no edge_data", "edge_data='bond'"],
    ),
    "edge weight of other heads": (
        lambda: gf.Bahdanau(HEADS, edge_data="bond", edge_weight=torch.randn(2, DIM, 3)),
        ["edge_weight of Bahdanau has shape [2, 6, 3]", "here [4, dim, edge_dim]"],
    ),
    "edge weight of another dimension": (
        lambda: gf.GATv2(HEADS, DIM, edge_data="bond", edge_weight=torch.randn(HEADS, 5, 3)),
        ["edge_weight of GATv2 has shape [4, 5, 3]", "here [4, 6, edge_dim]"],
    ),
    "unknown normalize": (
        lambda: gf.attend(X, X, X, GRAPH, normalize="sparsemax"),
        ["normalize='sparsemax'", "softmax, sum, none"],
    ),
    "dropout of all": (
        lambda: gf.attend(X, X, X, GRAPH, dropout=1.0),
        ["dropout", "below 1", "1.0"],
    ),
    "unknown backend": (
        lambda: gf.attend(X, X, X, GRAPH, backend="flash"),
        ["unknown backend 'flash'", "'dense'", "'reference'"],
    ),
    "refusing backend": (
        lambda: gf.attend(X, X, X, GRAPH, gf.GATv2(HEADS, DIM), backend="dense"),
        ["the dense backend cannot run this", "pairwise"],
    ),
}  # fmt: skip


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", REFUSED_OPERANDS)
def test_attend_refuses(name: str) -> None:
    call, parts = REFUSED_OPERANDS[name]
    with raises(ValueError, *parts):
        call()


@pytest.mark.usefixtures("unchecked")
def test_a_topology_is_no_graph_yet() -> None:
    with raises(TypeError, "needs a TokenGraph", "it got complete()", "complete().bind(tokens)"):
        gf.attend(X, X, X, gf.complete())


def test_a_graph_of_repeated_edges_is_refused_by_a_mask() -> None:
    graph = gf.TokenGraph.from_edge_index(torch.tensor([[0, 0], [1, 1]]), 7)
    with raises(ValueError, "the dense backend cannot run this", "twice"):
        gf.attend(X, X, X, graph, backend="dense")


def test_edge_data_that_is_not_there_is_named() -> None:
    score = gf.EdgeDot("bond", torch.randn(HEADS, DIM, 3))
    with raises(ValueError, "no edge data 'bond'", "it has: none", "bond=EdgeValues("):
        gf.attend(X, X, X, GRAPH, score)
    graph = bonded(torch.randn(3, 3))
    with raises(ValueError, "no edge data 'hops'", "it has: 'bond'"):
        gf.attend(X, X, X, graph, gf.DotProduct() + gf.HopBias("hops", HEADS))
    with raises(ValueError, "no edge data 'other'"):
        gf.attend(X, X, X, graph, edge_sum="other")
    with raises(ValueError, "'bond' has edges but no values"):
        gf.attend(X, X, X, bonded(), edge_sum="bond")


@pytest.mark.parametrize("backend", ["reference", "dense", None])
def test_edge_data_of_another_width_is_refused(backend: str | None) -> None:
    graph = bonded(torch.randn(3, 2))
    for score, parts in (
        (gf.EdgeDot("bond", torch.randn(HEADS, DIM, 3)), ["EdgeDot", "reads 3 numbers"]),
        (gf.DotProduct() + gf.EdgeBias("bond", HEADS, 5), ["EdgeBias('bond', 4, edge_dim=5)"]),
        (gf.DotProduct() + gf.HopBias("bond", HEADS), ["HopBias('bond', 4)", "reads 1 numbers"]),
    ):
        with raises(ValueError, *parts, "edge data 'bond' has 2"):
            gf.attend(X, X, X, graph, score, backend=backend)


# ---- scores ----


def test_rotary_turns_bilinear_scores_only() -> None:
    for score in (gf.GATv2(HEADS, DIM), gf.DotProduct() + gf.ALiBi(HEADS)):
        with raises(TypeError, "Rotary", "bilinear", "Rotary(DotProduct()) + ALiBi(8)"):
            gf.Rotary(score)


def test_only_biases_add_to_a_score() -> None:
    for wrong in (gf.DotProduct(), 1.0):
        with pytest.raises(TypeError, match="unsupported operand"):
            gf.DotProduct() + wrong


def test_what_a_subclass_must_define_is_named() -> None:
    class Empty(gf.PairwiseScore):
        pass

    class Bare(gf.Bias):
        pass

    with raises(NotImplementedError, "Empty must define forward(query, key, pair)"):
        gf.attend(X, X, X, GRAPH, Empty())
    with raises(NotImplementedError, "Bare must define forward(pair)"):
        gf.attend(X, X, X, GRAPH, gf.DotProduct() + Bare())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("DotProdukt()", ["unknown name 'DotProdukt'", "known are", "ALiBi", "DotProduct"]),
        ("ALiBi(8)", ["'ALiBi(8)' is no score", "DotProduct() + ALiBi(8)"]),
        ("DotProduct() + Cosine(8)", ["'+' takes a score on its left and a bias on its right"]),
        ("DotProduct(", ["cannot read the score", "column"]),
        ("DotProduct(heads=8)", ["in the score", "heads"]),
        ("Rotary(ALiBi(8))", ["in the score", "Rotary"]),
        ("__import__('os')", ["unknown name '__import__'"]),
        ("DotProduct(scale=open('x'))", ["unknown name 'open'"]),
        ("DotProduct().scale", ["cannot read 'DotProduct().scale'"]),
        ("DotProduct() * 2", ["cannot read"]),
        ("Score()", ["unknown name 'Score'"]),
        ("DotProduct() + T5Bias(4, 1)", ["in the score"]),
    ],
)
def test_scores_that_cannot_be_read_are_refused(text: str, parts: list[str]) -> None:
    with raises(ValueError, *parts):
        gf.Score.parse(text)


@pytest.mark.usefixtures("unchecked")
def test_a_score_that_holds_weights_is_refused_without_them() -> None:
    with raises(ValueError, "in the score", "EdgeDot needs a tensor", "it got 3"):
        gf.Score.parse("EdgeDot('bond', 3)")
    with raises(ValueError, "EdgeDot needs a tensor [head, dim, edge_dim]", "it got shape [2, 3]"):
        gf.EdgeDot("bond", torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("windw(8)", ["unknown name 'windw'", "window"]),
        ("edges(...)", ["it holds edges", 'edges("name")']),
        ("window(8) + causal()", ["cannot read", "| & -"]),
        ("window(-1)", ["window", "radius=-1"]),
        ("__import__('os').system('x')", ["cannot read"]),
    ],
)
def test_topologies_that_cannot_be_read_are_refused(text: str, parts: list[str]) -> None:
    with raises(ValueError, *parts):
        gf.Topology.parse(text)


# ---- bind ----


def test_batches_that_do_not_fit_are_refused() -> None:
    with raises(ValueError, "queries have 2 examples, keys 3", "as many"):
        gf.complete().bind(TOKENS, make_tokens((1, 2, 3)))
    none = torch.zeros(0, dtype=torch.int64)
    nobody = Tokens(torch.zeros(0, 1), torch.zeros(1, dtype=torch.int64), none[:, None], none)
    with raises(ValueError, "empty batch", "at least one example"):
        gf.complete().bind(nobody)
    with raises(ValueError, "queries are on meta", "keys on cpu", ".to(device)"):
        gf.complete().bind(GRAPH.to("meta").queries, TOKENS)


REFUSED_EDGES: dict[str, tuple[gf.EdgeValues | Tensor, list[str]]] = {
    "outside": (torch.tensor([[0, 7], [1, 2]]), ["token 7", "7 tokens", "0 to 6"]),
    "negative": (torch.tensor([[0, -1], [1, 2]]), ["token -1"]),
    "across examples": (torch.tensor([[0, 1], [1, 5]]), ["joins two examples", "1", "5"]),
    "shape": (torch.zeros(3, 4, dtype=torch.int64), ["'bond'", "[2, edge]", "[3, 4]"]),
    "floats": (torch.zeros(2, 4), ["'bond'", "integer ids", "torch.float32"]),
    "too many values": (
        gf.EdgeValues(BONDS, torch.zeros(4)),
        ["'bond' has 3 edges", "shape [4]", "one row an edge"],
    ),
    "values of pairs": (gf.EdgeValues(BONDS, torch.zeros(3, 2, 2)), ["'bond'", "[3, 2, 2]"]),
    "unknown missing": (
        gf.EdgeValues(BONDS, torch.zeros(3), missing="median"),
        ["missing='median'", "'bond'", "number", "'mean'"],
    ),
    "repeated": (
        gf.EdgeValues(torch.cat([BONDS, BONDS[:, :1]], 1), torch.zeros(4)),
        ["'bond'", "1 edges twice", "coalesce", "from_edge_index"],
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", REFUSED_EDGES)
@pytest.mark.parametrize("topology", [gf.edges("bond"), gf.complete()], ids=str)
def test_edge_data_that_does_not_fit_is_refused(name: str, topology: gf.Topology) -> None:
    given, parts = REFUSED_EDGES[name]
    with raises(ValueError, *parts):
        topology.bind(TOKENS, bond=given)


def test_repeated_edges_are_refused_by_the_algebra() -> None:
    twice = torch.cat([BONDS, BONDS], 1)
    for topology, data in (
        (gf.edges(twice), {}),
        (gf.edges("bond"), {"bond": gf.EdgeValues(twice)}),
    ):
        with raises(ValueError, "repeated edges", "coalesce", "from_edge_index"):
            topology.bind(TOKENS, **data)


def test_edges_of_a_name_that_nobody_brought_are_refused() -> None:
    with raises(ValueError, "edges(\"bond\") needs edge data named 'bond'", "'other'"):
        gf.edges("bond").bind(TOKENS, other=gf.EdgeValues(BONDS))


def test_edges_of_one_batch_are_refused_by_another() -> None:
    resolved = bonded().topology
    with raises(ValueError, "was bound to 7 queries", "not to these 3", "one batch"):
        resolved.bind(make_tokens((3,)))


def test_replaced_values_must_fit() -> None:
    graph = bonded(torch.zeros(3))
    with raises(ValueError, "no edge data 'other'", "'bond'"):
        graph.with_edge_data(other=torch.zeros(3))
    with raises(ValueError, "'bond' has 3 edges", "[2]"):
        graph.with_edge_data(bond=torch.zeros(2))


@pytest.mark.usefixtures("unchecked")
def test_given_edges_outside_the_tokens_are_refused() -> None:
    with raises(ValueError, "key 4", "3 key tokens", "0 to 2"):
        gf.TokenGraph.from_edge_index(torch.tensor([[4], [0]]), 5, 3)
    with raises(ValueError, "query -1", "5 query tokens"):
        gf.TokenGraph.from_edge_index(torch.tensor([[0], [-1]]), 5)
    with raises(ValueError, "[3, 1]"):
        gf.TokenGraph.from_edge_index(torch.zeros(3, 1, dtype=torch.int64), 5)
    with raises(TypeError, "torch.float32", "integers"):
        gf.TokenGraph.from_edge_index(torch.zeros(2, 1), 5)
    with raises(ValueError, "'bond' has 1 edges", "[2]"):
        gf.TokenGraph.from_edge_index(torch.zeros(2, 1, dtype=torch.int64), 5, bond=torch.zeros(2))
