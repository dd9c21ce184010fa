"""The dense kernel is softmax attention, on every instruction set and however its inputs lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import graphformer as gf
from graphformer.backends import dense, kernels, tiles
from graphformer.backends.request import Operands, Request
from graphformer.scores import DotProduct
from graphformer.tokens import sequences

pytestmark = pytest.mark.skipif(
    kernels.why_missing() is not None, reason=str(kernels.why_missing())
)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
LENGTHS, KEY_LENGTHS = (5, 1, 70, 0, 33, 3, 12), (9, 4, 1, 6, 150, 0, 20)
TOPOLOGIES = {
    "complete": gf.complete(),
    "causal": gf.causal(),
    "window": gf.window(3),
    "no token itself": gf.complete() - gf.self_loops(),
}


def tokens(*lengths: int) -> gf.Tokens:
    return sequences([torch.zeros(length, 1) for length in lengths])


def request_on(graph: gf.TokenGraph, *sizes: int, **settings: object) -> Request:
    """Of query heads, heads of keys and values, dimension of queries and that of values."""
    return Request(graph, DotProduct(), "softmax", *sizes, grad=True, **settings)


def run(request: Request, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """Output and gradients."""
    tiles.prepare(request)
    out = tiles.run(request, Operands(query, key, value, scale=0.4))
    outside = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    return [out, *torch.autograd.grad(out, (query, key, value), outside.to(out.dtype))]


def expected(request: Request, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """The same by the reference in float64."""
    query, key, value = (x.detach().double().requires_grad_() for x in (query, key, value))
    scaled = query * 0.4 * query.shape[2] ** 0.5
    out = gf.attend(scaled, key, value, request.graph, backend="reference")
    assert isinstance(out, Tensor)
    outside = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    outside = outside.to(request.dtype).double()
    return [out, *torch.autograd.grad(out, (query, key, value), outside)]


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    tolerance = TOLERANCE[found[0].dtype]
    for one, other in zip(found, wanted, strict=True):
        assert (one.double() - other).norm() <= tolerance * (other.norm() + 1e-2)


def leaves(request: Request, num_queries: int, num_keys: int) -> tuple[Tensor, ...]:
    sizes = (
        (num_queries, request.heads, request.dim),
        (num_keys, request.kv_heads, request.dim),
        (num_keys, request.kv_heads, request.value_dim),
    )
    return tuple(torch.randn(size).to(request.dtype).requires_grad_() for size in sizes)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", [(4, 4, 32, 32), (4, 2, 7, 5), (3, 1, 130, 64), (2, 2, 1, 1)])
@pytest.mark.parametrize("topology", [*TOPOLOGIES, "bipartite"])
def test_it_is_the_reference(
    topology: str, sizes: tuple[int, ...], dtype: torch.dtype, instruction_set: str
) -> None:
    queries = tokens(*LENGTHS)
    keys = tokens(*KEY_LENGTHS) if topology == "bipartite" else queries
    rule = TOPOLOGIES.get(topology, gf.complete())
    graph = rule.bind(queries, None if keys is queries else keys)
    request = request_on(graph, *sizes, dtype=dtype)
    inputs = leaves(request, queries.num_tokens, keys.num_tokens)
    assert_close(run(request, *inputs), expected(request, *inputs))


def test_inputs_may_lie_as_they_like() -> None:
    graph = gf.causal().bind(tokens(7, 4))
    request = request_on(graph, 2, 2, 8, 8, dtype=torch.float64)
    packed = torch.randn(11, 48, dtype=torch.float64, requires_grad=True)
    query, key, value = (x.view(11, 2, 8) for x in packed.split(16, 1))
    assert_close(run(request, query, key, value), expected(request, query, key, value))
    # Keys with their numbers apart, values that are all the same.
    key = torch.randn(8, 2, 11, dtype=torch.float64).permute(2, 1, 0).requires_grad_()
    value = torch.randn(1, 2, 8, dtype=torch.float64).expand(11, 2, 8).requires_grad_()
    assert_close(run(request, query, key, value), expected(request, query, key, value))


def test_a_block_of_queries_is_as_good_as_another() -> None:
    """A long example by itself, whose queries are several blocks and which units share."""
    graph = gf.causal().bind(tokens(1000))
    request = request_on(graph, 2, 1, 16, 16, dtype=torch.float32)
    inputs = leaves(request, 1000, 1000)
    assert_close(run(request, *inputs), expected(request, *inputs))


def test_threads_do_not_matter() -> None:
    graph = gf.complete().bind(tokens(*range(1, 60)))
    request = request_on(graph, 4, 2, 16, 16, dtype=torch.float32)
    inputs, before = leaves(request, graph.queries.num_tokens, graph.keys.num_tokens), 0
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(run(request, *inputs))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_examples_do_not_spoil_each_other() -> None:
    graph = gf.causal().bind(tokens(3, 2))
    request = request_on(graph, 1, 1, 2, 2, dtype=torch.float64)
    query, key, value = leaves(request, 5, 5)
    with torch.no_grad():
        value[2] = torch.inf
        key[1] = torch.nan
    for each in run(request, query, key, value):
        assert each[3:].isfinite().all()
        assert not each[:3].isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_queries", [1, 2])
def test_few_queries_read_no_key_that_none_hears(
    num_queries: int, dtype: torch.dtype, instruction_set: str
) -> None:
    graph = gf.window(2).bind(tokens(num_queries, 2), tokens(40, 30))
    request = request_on(graph, 2, 1, 8, 8, dtype=dtype)
    query, key, value = (each.detach() for each in leaves(request, num_queries + 2, 70))
    unheard = torch.ones(70, dtype=torch.bool)
    unheard[graph.edge_index[0]] = False
    assert int(unheard.sum()) > 40
    tiles.prepare(request)
    wanted = tiles.run(request, Operands(query, key, value))
    key[unheard], value[unheard] = torch.nan, torch.inf
    assert torch.equal(tiles.run(request, Operands(query, key, value)), wanted)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_drops_at_its_rate_and_is_replayed(dropout: float) -> None:
    length, heads = 96, 4
    graph = gf.complete().bind(tokens(*[length] * 8))
    request = request_on(graph, heads, heads, 1, length, dtype=torch.float64, dropout=dropout)
    size = graph.queries.num_tokens
    query, key = (torch.zeros(size, heads, 1, dtype=torch.float64) for _ in range(2))
    # Each key sends a one of its own, so that outputs are the weights.
    one_each = torch.eye(length, dtype=torch.float64).repeat(8, 1)
    value = one_each.unsqueeze(1).expand(-1, heads, -1).clone().requires_grad_()
    tiles.prepare(request)
    torch.manual_seed(4)
    out = tiles.run(request, Operands(query, key, value))
    kept = out.detach() * length * (1 - dropout)
    assert kept.unique().tolist() == [0.0, pytest.approx(1.0)]
    deviation = (dropout * (1 - dropout) / kept.numel()) ** 0.5
    assert abs(float(kept.mean()) - (1 - dropout)) < 4 * deviation
    # No two rows, heads or examples have the same drops.
    assert kept.view(-1, length).round().unique(dim=0).shape[0] == size * heads
    outside = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, value, outside)
    torch.testing.assert_close((outside * out).sum(), (gradient * value).sum())


def test_gradients_with_dropout_are_those_of_the_formula() -> None:
    graph = gf.causal().bind(tokens(4, 3))
    request = request_on(graph, 2, 1, 3, 2, dtype=torch.float64, dropout=0.4)
    inputs = leaves(request, 7, 7)

    def seeded(*inputs: Tensor) -> Tensor:
        torch.manual_seed(1)
        return tiles.run(request, Operands(*inputs, scale=0.4))

    tiles.prepare(request)
    assert torch.autograd.gradcheck(seeded, inputs)


def test_attention_with_dropout_runs_on_it() -> None:
    graph = gf.complete().bind(tokens(4, 3))
    made = gf.plan(graph, heads=2, dim=8, training=True, dropout=0.1, backend="dense")
    assert dense.chosen_executor(made.request) == "tiles"
    assert "a kernel of this library" in str(made)


def test_it_runs_nowhere_but_on_the_cpu() -> None:
    """Elsewhere it would take addresses that are none of this memory."""
    graph = gf.complete().bind(tokens(4, 3))
    request = request_on(graph, 2, 2, 8, 8, dtype=torch.float32, dropout=0.1)
    assert tiles.can_run(request)
    elsewhere = replace(request, graph=graph.to("meta"))
    assert elsewhere.graph.device.type == "meta"
    assert not tiles.can_run(elsewhere)
