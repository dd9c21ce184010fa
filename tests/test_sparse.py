"""The fused kernels: every instruction set, dimension and number of threads gives the reference."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import assert_close, errors, make_case
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import graphformer as gf
from graphformer.backends import kernels, operators

MISSING = kernels.why_missing()
needs_kernels = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make_graph(num_queries: int, num_keys: int, num_edges: int, seed: int = 0) -> gf.TokenGraph:
    """Edges of which a query and a key have a third each, and some tokens none; some twice."""
    generator = torch.Generator().manual_seed(seed)

    def ends(size: int) -> Tensor:
        draw = torch.randint(size, (num_edges,), generator=generator)
        draw[torch.rand(num_edges, generator=generator) < 1 / 3] = size // 2
        return torch.where(draw % 4 == 3, draw - 1, draw)

    edge_index = torch.stack([ends(num_keys), ends(num_queries)])
    bond = torch.randn(num_edges, 3, generator=generator, dtype=torch.float64)
    return gf.TokenGraph.from_edge_index(edge_index, num_queries, num_keys, bond=bond)


def results(
    graph: gf.TokenGraph,
    operands: list[Tensor],
    backend: str,
    autocast: bool = False,
    **settings: Any,
) -> dict[str, Tensor]:
    """Output and gradients."""
    leaves = [x.clone().requires_grad_() for x in operands]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        attended = gf.attend(*leaves, graph, backend=backend, **settings)
    generator = torch.Generator().manual_seed(1)
    outside = torch.randn(attended.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(attended, leaves, outside.bfloat16().to(attended.dtype))
    names = ("query", "key", "value")
    return {"out": attended.detach()} | {
        f"gradient of {name}": x for name, x in zip(names, gradients, strict=True)
    }


def normal(num_tokens: int, heads: int, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(num_tokens, heads, dim).to(dtype)


@needs_kernels
@given(
    dim=st.integers(1, 130),
    value_dim=st.integers(1, 130),
    heads=st.integers(1, 20),
    edges=st.integers(0, 300),
    dtype=st.sampled_from(list(TOLERANCE)),
    score=st.sampled_from([gf.DotProduct(), gf.Gaussian(20.0)]),
)
def test_sparse_takes_heads_of_any_dimension(
    dim: int, value_dim: int, heads: int, edges: int, dtype: torch.dtype, score: gf.Score
) -> None:
    graph = make_graph(7, 9, edges)
    operands = [normal(7, heads, dim, dtype), normal(9, heads, dim, dtype)]
    operands.append(normal(9, heads, value_dim, dtype))
    exact = [x.double() for x in operands]
    expected = results(graph, exact, "reference", score=score)
    assert_close(results(graph, operands, "sparse", score=score), expected, TOLERANCE[dtype])


@needs_kernels
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("score", ["dot", "edge dot", "gatv2", "bahdanau", "capped", "degree"])
def test_every_instruction_set_agrees(instruction_set: str, score: str, dtype: torch.dtype) -> None:
    assert kernels.instruction_set() == instruction_set
    case = make_case(score, "longformer", "ragged").to(dtype)
    extras = {"edge_sum": "bond", "return_weights": True}
    expected = case.to(torch.float64).results(backend="reference", **extras)
    assert_close(case.results(backend="sparse", **extras), expected, TOLERANCE[dtype])


@needs_kernels
@pytest.mark.parametrize("dim", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_dimensions_with_code_of_their_own_agree(
    instruction_set: str, dim: int, dtype: torch.dtype
) -> None:
    graph = make_graph(20, 30, 400)
    for heads in (1, 4, 9):
        operands = [normal(size, heads, dim, dtype) for size in (20, 30, 30)]
        expected = results(graph, [x.double() for x in operands], "reference")
        assert_close(results(graph, operands, "sparse"), expected, TOLERANCE[dtype])


@needs_kernels
@pytest.mark.parametrize(
    "score", [gf.DotProduct(), gf.GATv2(3, 5), gf.Bahdanau(3, 5)], ids=["dot", "gatv2", "bahdanau"]
)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_columns_of_one_tensor_are_read_and_written_where_they_are(
    score: gf.Score, dtype: torch.dtype
) -> None:
    graph, heads = make_graph(40, 40, 300), 3
    # Something stands behind them, as where one product gave more.
    whole = torch.randn(40, heads * 16 + 5).to(dtype)
    parts = [x.unflatten(1, (heads, -1)) for x in whole[:, :-5].split([15, 15, 18], 1)]
    apart = [x.contiguous() for x in parts]
    gradients = {}
    for name, operands in (("columns", parts), ("apart", apart)):
        leaves = [x.detach().requires_grad_() for x in operands]
        out = gf.attend(*leaves, graph, score, backend="sparse")
        outside = torch.ones_like(out).cumsum(0)
        gradients[name] = [out.detach(), *torch.autograd.grad(out, leaves, outside)]
    assert all(map(torch.equal, gradients["columns"], gradients["apart"]))
    _, *found = gradients["columns"]
    first, *_, last = found
    assert {x.untyped_storage().data_ptr() for x in found} == {first.untyped_storage().data_ptr()}
    assert last.stride() == (heads * 16, 6, 1)


@needs_kernels
def test_rows_that_are_not_whole_are_read_right() -> None:
    graph = make_graph(40, 40, 300)
    turned = [torch.randn(3, 40, 8).transpose(0, 1) for _ in range(3)]
    assert torch.equal(
        gf.attend(*turned, graph, backend="sparse"),
        gf.attend(*(x.contiguous() for x in turned), graph, backend="sparse"),
    )


@needs_kernels
def test_hubs_are_joined_from_their_parts(instruction_set: str) -> None:
    """A query and a key whose edges fill several units of work, with scores that grow."""
    graph = make_graph(50, 40, 20_000)
    assert graph.in_degree.max() > 6_000
    operands = [normal(size, 4, 8, torch.float64) for size in (50, 40, 40)]
    operands[1] *= torch.arange(40).view(-1, 1, 1) / 4
    for settings in ({}, {"normalize": "none"}, {"score": gf.Kernel(), "normalize": "sum"}):
        expected = results(graph, operands, "reference", **settings)
        assert_close(results(graph, operands, "sparse", **settings), expected, 1e-10)


@needs_kernels
@pytest.mark.parametrize("score", ["dot", "gatv2", "edge dot"])
def test_results_do_not_depend_on_threads(score: str, threads: Callable[[int], None]) -> None:
    graph = make_graph(900, 700, 30_000)
    modules = {"dot": gf.DotProduct(), "gatv2": gf.GATv2(4, 8)}
    module = modules.get(score) or gf.EdgeDot("bond", torch.nn.Parameter(torch.randn(4, 8, 3)))
    operands = [normal(size, 4, 8) for size in (900, 700, 700)]
    found = []
    for number in (1, 2, 3, 2):
        threads(number)
        torch.manual_seed(1)
        leaves = [x.clone().requires_grad_() for x in operands]
        out, summed, weights = gf.attend(
            *leaves, graph, module, dropout=0.2, edge_sum="bond", backend="sparse",
            return_weights=True,
        )  # fmt: skip
        loss = out.square().sum() + summed.sum() + weights.square().sum()
        named = [*leaves, *module.parameters()]
        found.append([out, summed, weights, *torch.autograd.grad(loss, named)])
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            assert torch.equal(first, second)


@needs_kernels
def test_masked_rows_have_no_weights() -> None:
    """A bias of minus infinity hides a pair; a query that sees nobody gets zero."""

    class Hidden(gf.DotProduct):
        def forward(self, score: Tensor, pair: gf.layout.Pair) -> Tensor:
            return score.masked_fill((pair.query == 1) | (pair.key == pair.query), -torch.inf)

    graph = gf.complete().bind(gf.tokens.sequences([torch.zeros(200, 1)]))
    leaves = [normal(200, 3, 4, torch.float64).requires_grad_() for _ in range(3)]
    out = gf.attend(*leaves, graph, Hidden(), backend="sparse")
    assert out[1].count_nonzero() == 0
    scores = torch.einsum("qhd,khd->hqk", leaves[0], leaves[1]) / 2
    scores = scores.masked_fill(torch.eye(200, dtype=torch.bool), -torch.inf)
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), leaves[2])
    keep = torch.arange(200) != 1
    torch.testing.assert_close(out[keep], expected[keep])
    for gradient in torch.autograd.grad(out.sum(), leaves):
        assert gradient.isfinite().all()


# ---- memory ----

MEMORY = """
import resource, torch
import graphformer as gf
graph = gf.TokenGraph.from_edge_index(torch.randint(2000, (2, 300_000)), 2000)
def step(heads, dim):
    leaves = [torch.randn(2000, heads, dim, requires_grad=True) for _ in range(3)]
    gf.attend(*leaves, graph, backend="sparse").sum().backward()
step(1, 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(2, 128)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@needs_kernels
@pytest.mark.skipif(sys.platform != "linux", reason="counts in kilobytes, as Linux does")
def test_memory_grows_with_tokens_and_edges_apart() -> None:
    """300,000 edges of 2 heads of 128 would be 300 MB each time they were written out."""
    run = [sys.executable, "-c", MEMORY]
    kilobytes = int(subprocess.run(run, capture_output=True, check=True, text=True).stdout)
    tokens, edges = 2000 * 2 * 128 * 4, 300_000 * 2 * 4
    assert kilobytes * 1024 < 12 * tokens + 4 * edges + 2**24


@needs_kernels
def test_a_graph_is_bound_where_it_is_whatever_the_default_device() -> None:
    operands = [normal(5, 2, 3), normal(6, 2, 3), normal(6, 2, 3)]
    expected = results(make_graph(5, 6, 20), operands, "sparse")
    graph = make_graph(5, 6, 20)
    with torch.device("meta"):
        gf.attend(*operands, graph, backend="sparse")
    assert_close(results(graph, operands, "sparse"), expected, 0.0)


@needs_kernels
def test_operators_give_zeros_where_there_are_no_keys() -> None:
    graph = gf.TokenGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 5, 0)
    given = arguments(
        query=normal(5, 2, 4), key=normal(0, 2, 4), value=normal(0, 2, 3),
        key_term=torch.empty(0, 2), bias=torch.empty(0, 2), edge_data=torch.empty(0, 3),
        sum_data=torch.empty(0, 2), ptr=graph.csr.ptr, key_of=graph.csr.index,
        **dict(zip(("key_ptr", "query_of", "place"), graph.transposed, strict=True)),
    )  # fmt: skip
    assert torch.equal(torch.ops.graphformer.sparse_forward(*given)[0], torch.zeros(5, 2, 3))


# ---- torch ----


def arguments(**changes: Any) -> operators.Arguments:
    """Arguments of the operators, of a small graph."""
    graph = make_graph(5, 6, 20)
    given = operators.Arguments(
        normal(5, 2, 4), normal(6, 2, 4), normal(6, 2, 3), normal(5, 2, 1)[..., 0],
        normal(6, 2, 1)[..., 0], torch.randn(20, 2), normal(5, 2, 3), torch.randn(20, 3),
        torch.randn(20, 2), None, None, None, *gf.backends.sparse.edges_of(graph),
        torch.tensor(3), 2, 1, 0, 0, 0.5, 0.2, 0.25, True, False,
    )  # fmt: skip
    return given._replace(**changes)


@needs_kernels
@pytest.mark.parametrize("normalize", range(4))
def test_operators_keep_the_rules_of_torch(normalize: int) -> None:
    changes: dict[str, Any] = {"normalize": normalize}
    if kernels.NORMALIZE[normalize] == "scores":
        changes |= {"value": None, "sum_data": None, "seed": None, "dropout": 0.0}
    check_rules(arguments(**changes))


@needs_kernels
def test_operators_of_pairs_keep_the_rules_of_torch() -> None:
    check_rules(
        arguments(
            pair=1, pointwise=0, scale=1.0, pair_weight=torch.randn(2, 4),
            pair_map=torch.randn(3, 8), pair_data=torch.randn(20, 3),
        )
    )  # fmt: skip


def check_rules(given: operators.Arguments) -> None:
    torch.library.opcheck(torch.ops.graphformer.sparse_forward.default, tuple(given))
    outputs = torch.ops.graphformer.sparse_forward(*given)
    outside = [torch.randn_like(part) if part.numel() else None for part in outputs[:3]]
    wanted = [part is not None for part in given[: operators.NUM_INPUTS]]
    torch.library.opcheck(
        torch.ops.graphformer.sparse_backward.default, (*given, *outputs, *outside, wanted)
    )


@needs_kernels
@pytest.mark.compiled
# torch's compiler makes an autograd.Function of its own.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("score", ["dot", "gatv2", "t5", "edge dot", "curved", "degree"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_compiled_attention_is_the_same(score: str, dropout: float) -> None:
    torch._dynamo.reset()
    case = make_case(score, "exphormer", "ragged")
    graph = case.bind()

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        found = gf.attend(
            leaves[0] if "query" in case.score.reads else None,
            leaves[1] if "key" in case.score.reads else None,
            leaves[2], graph, case.score, normalize=case.normalize, edge_sum="bond",
            backend="sparse", dropout=dropout, return_weights=True,
        )  # fmt: skip
        return found.out, found.edge_sum, found.weights

    leaves = [case.tensors[name].clone().requires_grad_() for name in ("query", "key", "value")]
    if case.score.reads == ():
        leaves[0] = leaves[0].detach()[:, : case.heads]
    named = [x for x in leaves if x.requires_grad]
    expected = run(*leaves)
    found = torch.compile(run, fullgraph=True)(*leaves)
    outside = [torch.randn_like(part) for part in expected]
    both = [
        torch.autograd.grad(parts, named, outside, allow_unused=True) for parts in (found, expected)
    ]
    if dropout:
        assert (found[2] == 0).any()
        return
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(both[0], both[1])


class RoundedTerms(gf.Gaussian):
    """What a Gaussian is whose terms are cast as products are."""

    def query_term(self, query: Tensor, side: gf.Side) -> Tensor:
        return super().query_term(query, side).bfloat16().to(query.dtype)

    def key_term(self, key: Tensor, side: gf.Side) -> Tensor:
        return super().key_term(key, side).bfloat16().to(key.dtype)


@needs_kernels
def test_autocast_keeps_terms_precise() -> None:
    """Scores so narrow that what rounded terms would give is farther off than rounded products."""
    graph = make_graph(30, 30, 300)
    operands = [normal(30, 2, 8, torch.bfloat16).float() for _ in range(3)]
    found = results(graph, operands, "sparse", autocast=True, score=gf.Gaussian(0.5))
    assert [x.dtype for x in found.values()] == [torch.bfloat16, *[torch.float32] * 3]
    expected, rounded = (
        results(graph, [x.double() for x in operands], "reference", score=score)
        for score in (gf.Gaussian(0.5), RoundedTerms(0.5))
    )
    assert_close(found, expected, 4e-3)
    assert min(errors(rounded, expected).values()) > 4e-3
