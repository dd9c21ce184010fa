"""Sums over the keys taken first give what the reference gives, pair by pair."""

from __future__ import annotations

import pytest
import torch
from cases import assert_close, gradients
from torch import Tensor

import graphformer as gf
from graphformer.backends.linear import block_size
from graphformer.layout import Layout
from graphformer.tokens import sequences
from graphformer.topology import Band

HEADS, DIM = 4, 6
# Several blocks, one that is full, one that is not; an empty example; one token.
LENGTHS = (70, 0, block_size(DIM, DIM), 1, 21)
GRAPHS = {
    "complete": lambda: gf.complete().bind(make_tokens(LENGTHS)),
    "causal": lambda: gf.causal().bind(make_tokens(LENGTHS)),
    "causal otherwise written": lambda: (gf.causal() & gf.complete()).bind(make_tokens(LENGTHS)),
    "uniform": lambda: gf.complete().bind(make_tokens((40, 40))),
    "uniform causal": lambda: gf.causal().bind(make_tokens((40, 40))),
    "virtual": lambda: gf.causal().bind(make_tokens(LENGTHS).with_virtual(2)),
    "bipartite": lambda: gf.complete().bind(make_tokens((3, 50, 2)), make_tokens((30, 4, 9))),
    "keyless": lambda: gf.complete().bind(make_tokens((3, 4, 0)), make_tokens((5, 0, 3))),
}
SCORES = {
    "kernel": (gf.Kernel, "sum"),
    "kernel unnormalized": (gf.Kernel, "none"),
    "dot unnormalized": (lambda: gf.DotProduct(0.3), "none"),
    "cosine unnormalized": (lambda: gf.Cosine(HEADS), "none"),
    "rotary unnormalized": (lambda: gf.Rotary(gf.DotProduct()), "none"),
}


def make_tokens(lengths: tuple[int, ...]) -> gf.Tokens:
    return sequences([torch.zeros(length, 1) for length in lengths])


def make_tensors(
    graph: gf.TokenGraph, kv_heads: int = HEADS, value_dim: int = DIM
) -> dict[str, Tensor]:
    num_queries, num_keys = graph.queries.num_tokens, graph.keys.num_tokens
    return {
        "query": torch.randn(num_queries, HEADS, DIM, dtype=torch.float64),
        "key": torch.randn(num_keys, kv_heads, DIM, dtype=torch.float64),
        "value": torch.randn(num_keys, kv_heads, value_dim, dtype=torch.float64),
    }


def results(
    backend: str, graph: gf.TokenGraph, tensors: dict[str, Tensor], score: gf.Score, normalize: str
) -> dict[str, Tensor]:
    """Output and gradients, by name."""
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    out = gf.attend(*leaves.values(), graph, score, normalize, backend=backend)
    named = {**leaves, **dict(score.named_parameters())}
    return {"out": out.detach(), **gradients(gf.Attended(out), named)}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("score", SCORES)
def test_linear_agrees_with_reference(score: str, graph: str) -> None:
    make, normalize = SCORES[score]
    bound, module = GRAPHS[graph](), make().double()
    tensors = make_tensors(bound)
    found = results("linear", bound, tensors, module, normalize)
    assert_close(found, results("reference", bound, tensors, module, normalize), 1e-10)


@pytest.mark.parametrize("graph", ["complete", "causal", "bipartite"])
@pytest.mark.parametrize(("kv_heads", "value_dim"), [(2, 6), (1, 6), (4, 3), (2, 9)])
def test_heads_and_dimensions_may_differ(graph: str, kv_heads: int, value_dim: int) -> None:
    bound = GRAPHS[graph]()
    tensors = make_tensors(bound, kv_heads, value_dim)
    found = results("linear", bound, tensors, gf.Kernel(), "sum")
    assert_close(found, results("reference", bound, tensors, gf.Kernel(), "sum"), 1e-10)


class Pooled(gf.DotProduct):
    """One product for all heads."""

    def prepare_query(self, query: Tensor, side: gf.Side) -> Tensor:
        return query.mean(1, keepdim=True)

    def prepare_key(self, key: Tensor, side: gf.Side) -> Tensor:
        return key.mean(1, keepdim=True)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_one_product_may_serve_all_heads(kv_heads: int) -> None:
    graph = GRAPHS["causal"]()
    tensors = make_tensors(graph, kv_heads)
    found = results("linear", graph, tensors, Pooled(), "none")
    assert_close(found, results("reference", graph, tensors, Pooled(), "none"), 1e-10)


@pytest.mark.parametrize("graph", ["complete", "causal", "uniform causal", "bipartite"])
@pytest.mark.parametrize("score", ["kernel", "dot unnormalized"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=str
)
def test_linear_rounds_little(score: str, graph: str, dtype: torch.dtype, tolerance: float) -> None:
    make, normalize = SCORES[score]
    bound = GRAPHS[graph]()
    tensors = {name: x.to(dtype) for name, x in make_tensors(bound).items()}
    found = results("linear", bound, tensors, make(), normalize)
    exact = {name: x.double() for name, x in tensors.items()}
    assert found["out"].dtype == dtype
    assert_close(found, results("reference", bound, exact, make(), normalize), tolerance)


def test_what_comes_later_changes_nothing_before() -> None:
    """Much longer than memory for all pairs would allow: the start is as if alone."""
    long, short = (gf.causal().bind(make_tokens((length,))) for length in (100_000, 50))
    query, key, value = (torch.randn(100_000, 1, 8) for _ in range(3))
    out = gf.attend(query, key, value, long, gf.Kernel(), "sum", backend="linear")
    begin = (query[:50], key[:50], value[:50])
    expected = gf.attend(*begin, short, gf.Kernel(), "sum", backend="reference")
    torch.testing.assert_close(out[:50], expected)
    mean = gf.attend(torch.zeros_like(query), torch.zeros_like(key), value, long, gf.Kernel(),
                     "sum", backend="linear")  # fmt: skip
    # A kernel that is one everywhere gives the running mean.
    running = value.double().cumsum(0) / torch.arange(1, 100_001).view(-1, 1, 1)
    torch.testing.assert_close(mean, running.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("topology", [gf.complete(), gf.causal()], ids=repr)
def test_what_is_infinite_in_one_example_stays_there(topology: gf.Topology) -> None:
    graph = topology.bind(make_tokens((50, 20, 70)))
    others = torch.ones(140, dtype=torch.bool)
    others[50:70] = False
    tensors = make_tensors(graph)
    broken = {name: x.clone() for name, x in tensors.items()}
    for x in broken.values():
        x[50:70] = torch.inf
    found = results("linear", graph, broken, gf.Kernel(), "sum")
    for name, part in results("linear", graph, tensors, gf.Kernel(), "sum").items():
        torch.testing.assert_close(found[name][others], part[others])


@pytest.mark.parametrize("topology", [gf.complete(), gf.causal()], ids=repr)
def test_shares_of_nothing_are_nothing(topology: gf.Topology) -> None:
    """Scores that sum to zero are not divided by it."""
    graph = topology.bind(make_tokens((40, 3)))
    query, key, value = (x.requires_grad_() for x in make_tensors(graph).values())
    out = gf.attend(query * 0, key, value, graph, normalize="sum", backend="linear")
    assert out.eq(0).all()
    for gradient in torch.autograd.grad(out.sum(), (query, key, value)):
        assert not gradient.isnan().any()


@pytest.mark.parametrize("topology", [gf.complete(), gf.causal()], ids=repr)
def test_linear_can_be_differentiated_twice(topology: gf.Topology) -> None:
    graph = topology.bind(make_tokens((40, 3)))
    tensors = make_tensors(graph)

    def second(backend: str) -> tuple[Tensor, ...]:
        leaves = [x.clone().requires_grad_() for x in tensors.values()]
        out = gf.attend(*leaves, graph, gf.Kernel(), "sum", backend=backend)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), leaves)

    for found, expected in zip(second("linear"), second("reference"), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_planner_takes_sums_for_long_examples() -> None:
    for topology in (gf.complete(), gf.causal()):
        graph = topology.bind(make_tokens((8192,)))
        plan = gf.explain(graph, gf.Kernel(), 4, 32, training=True, normalize="sum")
        assert plan.name == "linear"


def refusal(topology: gf.Topology, score: gf.Score | None = None, **settings: object) -> str:
    graph = topology.bind(make_tokens(LENGTHS))
    settings = {"normalize": "sum", **settings}
    with pytest.raises(ValueError, match="the linear backend cannot run this") as error:
        gf.explain(graph, score or gf.Kernel(), backend="linear", **settings)
    return str(error.value)


def test_what_has_no_sums_is_refused_by_name() -> None:
    complete = gf.complete()
    assert "needs normalize='sum' or 'none'" in refusal(complete, normalize="softmax")
    assert "more than a product" in refusal(complete, gf.Kernel() + gf.ALiBi(1))
    assert "more than a product" in refusal(complete, gf.Gaussian())
    assert "none can be dropped" in refusal(complete, dropout=0.1)
    assert "weights are never made" in refusal(complete, return_weights=True)
    assert "complete() and causal() only, not window(3)" in refusal(gf.window(3))
    assert "complete() and causal() only" in refusal(Band(high=-1))


def test_causal_sums_need_queries_that_are_the_keys_in_order() -> None:
    tokens = make_tokens((5, 4))
    one, other = Layout.of(tokens), Layout.of(make_tokens((5, 4)))
    shuffled = tokens._replace(at=tokens.at.flip(0))
    for graph in (gf.causal().bind(one, other), gf.causal().bind(shuffled)):
        with pytest.raises(ValueError, match="known only where queries are the keys"):
            gf.explain(graph, gf.Kernel(), normalize="sum", backend="linear")


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:.*Function.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("topology", [gf.complete(), gf.causal()], ids=repr)
def test_compiled_sums_agree_at_any_size(topology: gf.Topology) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    score, counter = gf.Kernel(), CompileCounterWithBackend("aot_eager")

    def loss(query: Tensor, key: Tensor, value: Tensor, graph: gf.TokenGraph) -> Tensor:
        out = gf.attend(query, key, value, graph, score, "sum", backend="linear")
        return out.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for length in (64, 50, 33, 128, 96, 70, 200, 41):
        graph = topology.bind(make_tokens((length, length // 2, 3)))
        leaves = [x.float().requires_grad_() for x in make_tensors(graph).values()]
        expected = torch.autograd.grad(loss(*leaves, graph), leaves)
        found = torch.autograd.grad(compiled(*leaves, graph), leaves)
        for first, second in zip(found, expected, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    assert counter.frame_count <= 2
