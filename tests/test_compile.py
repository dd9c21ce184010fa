"""`attend` compiles whole, on every backend, and new sizes of batches compile it but once more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import EXECUTORS, SCORES
from torch import Tensor

import graphformer as gf
from graphformer.backends import executors, kernels
from graphformer.tokens import Tokens, sequences

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("ignore:.*Function.* should not be instantiated:DeprecationWarning"),
]

HEADS, DIM = 4, 6
# Ten batches, no two of which have anything in common but the number of examples.
BATCHES = [(9 + 7 * turn, 4 + turn, 30 - 2 * turn) for turn in range(10)]
CASES = [
    ("dense", "dot", gf.complete()),
    ("dense", "dot", gf.causal()),
    ("dense", "rotary alibi", gf.causal()),
    ("dense", "hop bias", gf.complete()),
    ("band", "dot", gf.window(3)),
    ("band", "alibi", gf.window(3) | gf.global_tokens(1)),
    ("linear", "kernel", gf.complete()),
    ("linear", "kernel", gf.causal()),
    ("reference", "gatv2", gf.window(3)),
    ("reference", "edge dot", gf.edges("bond")),
    ("sparse", "dot", gf.window(3)),
    ("sparse", "edge dot", gf.edges("bond")),
    ("sparse", "gatv2 of edges", gf.edges("bond")),
]


def make_tokens(lengths: tuple[int, ...]) -> Tokens:
    return sequences([torch.zeros(length, 1) for length in lengths])


def bind(topology: gf.Topology, lengths: tuple[int, ...]) -> gf.TokenGraph:
    """With edge data, which some scores read."""
    tokens = make_tokens(lengths)
    edge_index = gf.window(2).bind(tokens).edge_index
    bond = torch.randn(edge_index.shape[1], 3)
    hops = torch.arange(edge_index.shape[1]) % 3
    return topology.bind(
        tokens, bond=gf.EdgeValues(edge_index, bond), hops=gf.EdgeValues(edge_index, hops)
    )


def gradients(
    loss: Callable[..., Tensor], graph: gf.TokenGraph, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = (3, graph.queries.num_tokens, HEADS, DIM)
    leaves = torch.randn(size, generator=generator).to(dtype).unbind()
    leaves = [x.clone().requires_grad_() for x in leaves]
    return list(torch.autograd.grad(loss(*leaves, graph), leaves))


def compiled_and_counted(loss: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], object]:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(loss, fullgraph=True, backend=counter), counter


@pytest.mark.parametrize(("backend", "score", "topology"), CASES, ids=str)
def test_ten_sizes_compile_twice_at_most(backend: str, score: str, topology: gf.Topology) -> None:
    if backend == "sparse" and kernels.why_missing():
        pytest.skip(str(kernels.why_missing()))
    make, normalize = SCORES[score]
    module = make(HEADS, DIM)

    def loss(query: Tensor, key: Tensor, value: Tensor, graph: gf.TokenGraph) -> Tensor:
        out = gf.attend(query, key, value, graph, module, normalize, backend=backend)
        return out.square().sum()

    compiled, counter = compiled_and_counted(loss)
    for lengths in BATCHES:
        if backend == "band":
            # Of as many blocks as another, a batch would have that in common with it.
            lengths = tuple(40 * length for length in lengths)
        graph = bind(topology, lengths)
        gf.plan(graph, module, HEADS, DIM, training=True, normalize=normalize, backend=backend)
        found = gradients(compiled, graph)
        for first, second in zip(found, gradients(loss, graph), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_faster_executor_may_change_with_the_size(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured length by length says nothing to compiled code."""
    names = iter(EXECUTORS * 5)
    monkeypatch.setattr(executors, "choose", lambda *_: next(names))

    def loss(query: Tensor, key: Tensor, value: Tensor, graph: gf.TokenGraph) -> Tensor:
        return gf.attend(query, key, value, graph).float().square().sum()

    compiled, counter = compiled_and_counted(loss)
    for lengths in BATCHES:
        graph = bind(gf.complete(), lengths)
        gf.plan(graph, heads=HEADS, dim=DIM, dtype=dtype, training=True)
        rounding = 1e-4 if dtype == torch.float32 else 5e-2
        for first, second in zip(
            gradients(compiled, graph, dtype), gradients(loss, graph, dtype), strict=True
        ):
            torch.testing.assert_close(first, second, rtol=rounding, atol=rounding)
    assert counter.frame_count <= 2


def test_new_values_on_the_same_edges_compile_once() -> None:
    """Other edge data, as each step of training may bring, is read as it is."""
    graph = bind(gf.complete(), BATCHES[0])
    score = gf.DotProduct() + gf.EdgeBias("bond", HEADS, 3)
    gf.plan(graph, score, HEADS, DIM, training=True)

    def loss(query: Tensor, key: Tensor, value: Tensor, graph: gf.TokenGraph) -> Tensor:
        return gf.attend(query, key, value, graph, score).square().sum()

    compiled, counter = compiled_and_counted(loss)
    given = graph.edge_values_of("bond").values
    for _ in range(3):
        other = graph.with_edge_data(bond=torch.randn_like(given))
        found = gradients(compiled, other)
        for first, second in zip(found, gradients(loss, other), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


def test_looking_at_a_graph_compiles_nothing_anew() -> None:
    """Counts, degrees and lists that a graph has made beside are no part of what is compiled."""

    def loss(query: Tensor, key: Tensor, value: Tensor, graph: gf.TokenGraph) -> Tensor:
        return gf.attend(query, key, value, graph).square().sum()

    compiled, counter = compiled_and_counted(loss)
    for look in (lambda _: None, lambda graph: graph.density, lambda graph: graph.csr):
        graph = bind(gf.causal(), BATCHES[0])
        gf.plan(graph, heads=HEADS, dim=DIM, training=True)
        look(graph)
        gradients(compiled, graph)
    assert counter.frame_count == 1
