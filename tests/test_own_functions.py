"""Scores and biases of a user's own: they hold of edges only, may hide keys, may be wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphformer as gf
from graphformer.backends import BACKENDS, kernels, name_of
from graphformer.layers import Attention
from graphformer.tokens import sequences

TOKENS = sequences([torch.zeros(9, 1), torch.zeros(5, 1), torch.zeros(1, 1)])
BONDS = torch.tensor([[0, 1, 5, 9, 12, 2], [1, 0, 4, 10, 10, 2]])
WEIGHTS = torch.tensor([0.5, 1.5, 2.0, 0.3, 4.0, 1.0])


class PowerLaw(gf.Bias):
    """a log|distance|, infinite where a token meets itself."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor([-0.5, -1.5], dtype=torch.float64))

    def forward(self, pair: gf.Pair) -> Tensor:
        return self.power * pair.distance.abs().double().log()


class LogWeight(gf.Bias):
    """a log(weight of the edge), infinite where there is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor([0.5, 1.5], dtype=torch.float64))

    def forward(self, pair: gf.Pair) -> Tensor:
        return self.power * pair.edge_data["weight"].double().log()


class Root(gf.DotProduct):
    """A positive function of the score that is no number at distance zero."""

    def forward(self, score: Tensor, pair: gf.Pair) -> Tensor:
        reached = pair.distance.abs().to(score.dtype) - 0.5
        return (1 + score.square()) * reached.sqrt()


CASES: dict[str, tuple[gf.Topology, Callable[[], gf.Score]]] = {
    "distance, dense": (gf.complete() - gf.self_loops(), lambda: gf.DotProduct() + PowerLaw()),
    "distance, band": (gf.window(2) - gf.self_loops(), lambda: gf.DotProduct() + PowerLaw()),
    "distance, global": (
        (gf.window(1) | gf.global_tokens(1)) - gf.self_loops(),
        lambda: gf.DotProduct() + PowerLaw(),
    ),
    "edge data": (gf.edges("weight"), lambda: gf.DotProduct() + LogWeight()),
    "function, dense": (gf.complete() - gf.self_loops(), Root),
    "function, band": (gf.window(2) - gf.self_loops(), Root),
}


def numbers(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


def bound(topology: gf.Topology) -> gf.TokenGraph:
    return topology.bind(TOKENS, weight=gf.EdgeValues(BONDS, WEIGHTS.double()))


def backends_of(graph: gf.TokenGraph, score: gf.Score, normalize: str = "softmax") -> list[str]:
    """The names of the backends that run this in float64, those that must among them."""
    request = gf.explain(
        graph, score, 2, 4, torch.float64, True, normalize=normalize, backend="reference"
    ).request
    names = [name_of(backend) for backend in BACKENDS if backend.why_not(request) is None]
    assert {"dense", "reference"} <= set(names)
    return names


@pytest.mark.parametrize("normalize", ["softmax", "sum", "none"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_infinite_off_the_edges_reaches_nothing(name: str, normalize: str) -> None:
    topology, make = CASES[name]
    # Windows leave functions to others where there are edge data that they may read.
    graph = bound(topology) if name == "edge data" else topology.bind(TOKENS)
    score = make()
    query, key, value = (numbers(15, 2, 4).requires_grad_() for _ in range(3))
    outside, found = numbers(15, 2, 4), {}
    names = backends_of(graph, score, normalize)
    assert ("band" in names) == ("band" in name or "global" in name)
    for backend in names:
        out = gf.attend(query, key, value, graph, score, normalize, backend=backend)
        leaves = [query, key, value, *score.parameters()]
        found[backend] = [out, *torch.autograd.grad(out, leaves, outside)]
    assert all(part.isfinite().all() for part in found["reference"])
    for parts in found.values():
        for part, expected in zip(parts, found["reference"], strict=True):
            torch.testing.assert_close(part, expected)


def test_a_query_whose_keys_are_all_hidden_gets_zero() -> None:
    class Hidden(gf.Bias):
        def forward(self, pair: gf.Pair) -> Tensor:
            hides = (pair.query == 1) | (pair.key == 3)
            return torch.where(hides, -torch.inf, 0.0).expand(*hides.shape[:-1], 2)

    score = gf.DotProduct() + Hidden()
    for topology in (gf.complete(), gf.window(2)):
        graph = topology.bind(TOKENS)
        leaves = [numbers(15, 2, 4).requires_grad_() for _ in range(3)]
        found = {}
        for backend in backends_of(graph, score):
            out = gf.attend(*leaves, graph, score, backend=backend)
            found[backend] = [out, *torch.autograd.grad(out.square().sum(), leaves)]
            assert out[1].eq(0).all(), backend
        for parts in found.values():
            for part, expected in zip(parts, found["reference"], strict=True):
                torch.testing.assert_close(part, expected)


class Stop(torch.autograd.Function):
    """What has no derivative, and gives none back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


class Stopped(gf.DotProduct):
    def forward(self, score: Tensor, pair: gf.Pair) -> Tensor:
        found: Tensor = Stop.apply(score)
        return found


def test_a_function_without_derivative_gives_the_score_none() -> None:
    graph, score = bound(gf.window(2)), Stopped()
    for backend in backends_of(graph, score):
        leaves = [numbers(15, 2, 4).requires_grad_() for _ in range(3)]
        gf.attend(*leaves, graph, score, backend=backend).sum().backward()
        assert leaves[2].grad is not None
        for leaf in leaves[:2]:
            assert leaf.grad is None or not leaf.grad.any(), backend


class Constant(gf.BilinearScore):
    """A bias alone, through a pointwise function and another one."""

    reads = ()
    pointwise = gf.LeakyReLU(0.1)

    def prepare_query(self, query: Tensor | None, side: gf.Side) -> None:
        return None

    def prepare_key(self, key: Tensor | None, side: gf.Side) -> None:
        return None

    def forward(self, score: Tensor, pair: gf.Pair) -> Tensor:
        return 2 * score


def test_both_functions_of_a_bias_alone_are_applied() -> None:
    graph, score = bound(gf.window(3)), Constant() + gf.ALiBi(2)
    value = numbers(15, 2, 4)
    expected = gf.attend(None, None, value, graph, score, backend="reference")
    for backend in backends_of(graph, score):
        found = gf.attend(None, None, value, graph, score, backend=backend)
        torch.testing.assert_close(found, expected)


class QueryAlone(gf.BilinearScore):
    """What a query says by itself, the same of all of its keys."""

    reads = ("query",)

    def prepare_query(self, query: Tensor, side: gf.Side) -> None:
        return None

    def prepare_key(self, key: None, side: gf.Side) -> None:
        return None

    def query_term(self, query: Tensor, side: gf.Side) -> Tensor:
        return query.sum(-1)


@pytest.mark.parametrize("normalize", ["softmax", "sum", "none"])
def test_a_score_that_reads_no_key_still_has_all_keys(normalize: str) -> None:
    for tokens in (TOKENS, sequences(torch.zeros(2, 4, 1))):
        graph = gf.complete().bind(tokens)
        query, value = (numbers(tokens.num_tokens, 2, 4).requires_grad_() for _ in range(2))
        found = {}
        for backend in backends_of(graph, QueryAlone(), normalize):
            asked = {} if backend in ("band", "linear") else {"return_weights": True}
            result = gf.attend(
                query, None, value, graph, QueryAlone(), normalize, backend=backend, **asked
            )
            parts = [part for part in result if part is not None] if asked else [result]
            out = parts[0]
            found[backend] = [*parts, *torch.autograd.grad(out.square().sum(), [query, value])]
        for backend, parts in found.items():
            for part, expected in zip(parts[:1], found["reference"][:1], strict=True):
                torch.testing.assert_close(part, expected, msg=backend)
            torch.testing.assert_close(parts[-2:], found["reference"][-2:])


def test_float64_is_float64_where_there_is_no_product() -> None:
    graph, value = gf.complete().bind(TOKENS), numbers(15, 2, 4)
    score = gf.Mean() + gf.ALiBi(2)
    expected = gf.attend(None, None, value, graph, score, backend="reference")
    for backend in backends_of(graph, score):
        out = gf.attend(None, None, value, graph, score, backend=backend)
        assert (out - expected).norm() < 1e-10 * expected.norm(), backend


class Clamped(gf.BilinearScore):
    """A wrapper of one's own, with a function that the score inside does not have."""

    def __init__(self, score: gf.BilinearScore) -> None:
        super().__init__()
        self.score = score

    def prepare_query(self, query: Tensor, side: gf.Side) -> Tensor | None:
        return self.score.prepare_query(query, side)

    def prepare_key(self, key: Tensor, side: gf.Side) -> Tensor | None:
        return self.score.prepare_key(key, side)

    def key_term(self, key: Tensor, side: gf.Side) -> Tensor:
        return key[..., 0]

    def forward(self, score: Tensor, pair: gf.Pair) -> Tensor:
        return score.clamp(max=0.1)


def test_a_wrapper_of_ones_own_is_applied() -> None:
    query, key, value = (numbers(15, 2, 4) for _ in range(3))
    for topology in (gf.complete(), gf.window(2)):
        graph, score = bound(topology), Clamped(gf.DotProduct())
        plain = gf.attend(query, key, value, graph, backend="reference")
        expected = gf.attend(query, key, value, graph, score, backend="reference")
        assert (expected - plain).norm() > 0.1 * plain.norm()
        for backend in backends_of(graph, score):
            out = gf.attend(query, key, value, graph, score, backend=backend)
            torch.testing.assert_close(out, expected)


# ---- what the kernels would read past the end of ----


class Narrow(gf.DotProduct):
    def prepare_key(self, key: Tensor, side: gf.Side) -> Tensor:
        return key[..., :1]


class OneKey(gf.DotProduct):
    def prepare_key(self, key: Tensor, side: gf.Side) -> Tensor:
        return key.mean(0, keepdim=True)


class LongTerm(gf.DotProduct):
    def query_term(self, query: Tensor, side: gf.Side) -> Tensor:
        return query.new_zeros(query.shape[0], 3) + 0


class ShortTerm(gf.DotProduct):
    def key_term(self, key: Tensor, side: gf.Side) -> Tensor:
        return key[:3, :, 0]


@pytest.mark.skipif(kernels.why_missing() is not None, reason="the kernels are not built")
@pytest.mark.parametrize(
    ("score", "part"),
    [
        (Narrow(), r"key has shape \[15, 2, 1\].*need \[15, 2, 4\]"),
        (OneKey(), r"key has shape \[1, 2, 4\].*need \[15, 2, 4\]"),
        (LongTerm(), r"query term has shape.*need \[15, 2\]"),
        (ShortTerm(), r"key term has shape \[3, 2\].*need \[15, 2\]"),
        (gf.GATv2(2, 4, edge_data="weight"), r"pair data has shape \[6, 1\].*need \[6, 8\]"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else "",
)
@pytest.mark.usefixtures("unchecked")
def test_the_kernels_read_nothing_of_another_shape(score: gf.Score, part: str) -> None:
    x = torch.randn(15, 2, 4)
    graph = gf.edges("weight").bind(TOKENS, weight=gf.EdgeValues(BONDS, WEIGHTS))
    with pytest.raises(ValueError, match=part):
        gf.attend(x, x, x, graph, score, backend="sparse")


@pytest.mark.skipif(kernels.why_missing() is not None, reason="the kernels are not built")
def test_new_edge_data_of_another_width_is_refused() -> None:
    x, weight = torch.randn(15, 2, 4), torch.randn(2, 4, 1)
    graph = gf.edges("weight").bind(TOKENS, weight=gf.EdgeValues(BONDS, WEIGHTS))
    score = gf.EdgeDot("weight", weight)
    gf.attend(x, x, x, graph, score, backend="sparse")
    wider = graph.with_edge_data(weight=torch.randn(6, 5))
    with pytest.raises(ValueError, match="reads 1 numbers an edge, edge data 'weight' has 5"):
        gf.attend(x, x, x, wider, score, backend="sparse")


@pytest.mark.parametrize("kind", [gf.Additive, gf.GATv2, gf.Bahdanau])
def test_one_score_does_not_serve_heads_of_two_dimensions(kind: type[gf.GATv2]) -> None:
    score = kind(2)
    Attention(8, 2, score)
    with pytest.raises(ValueError, match="made for heads of 4 numbers, here they have 8"):
        Attention(16, 2, score)


def test_a_score_sees_the_edge_data_of_its_own_graph() -> None:
    class Weighed(gf.DotProduct):
        def query_term(self, query: Tensor, side: gf.Side) -> Tensor:
            return side.graph.edge_values("weight").sum().expand(query.shape[:2])

    x = numbers(15, 2, 4)
    graph = bound(gf.edges("weight"))
    score, new = Weighed(), graph.with_edge_data(weight=WEIGHTS.double() + 1)
    before = gf.attend(x, x, x, graph, score, "none", backend="reference")
    after = gf.attend(x, x, x, new, score, "none", backend="reference")
    fresh = gf.edges("weight").bind(TOKENS, weight=gf.EdgeValues(BONDS, WEIGHTS.double() + 1))
    torch.testing.assert_close(after, gf.attend(x, x, x, fresh, score, "none", backend="reference"))
    assert (after - before).abs().max() > 0.1


def test_positions_far_away_are_turned_as_precisely() -> None:
    far = gf.TokenGraph(gf.complete(), *[gf.Layout.of(sequences([torch.zeros(3, 1)]))] * 2)
    at = torch.tensor([[0], [150_000], [199_999]])
    layout = gf.Layout(far.queries.ptr, at, far.queries.lengths, 0, False)
    graph = gf.TokenGraph(gf.complete(), layout, layout)
    query, key, value = (torch.randn(3, 2, 16) for _ in range(3))
    exact = [x.double() for x in (query, key, value)]
    expected = gf.attend(*exact, graph, gf.Rotary(gf.DotProduct()), backend="reference")
    out = gf.attend(query, key, value, graph, gf.Rotary(gf.DotProduct()), backend="reference")
    assert (out - expected).norm() < 1e-5 * expected.norm()
