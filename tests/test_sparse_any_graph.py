"""The contracts of the sparse backend over whole graphs, heads, dimensions and dtypes as drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from any_graph import Edges, beside, edges
from cases import Capped, assert_close, error, gradients, outputs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import graphformer as gf
from graphformer.backends import kernels

MISSING = kernels.why_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}
BOND_DIM = 3
# Of which tokens or edges the rows of a tensor are.
SIDES = {"out": "query", "query": "query", "key": "key", "value": "key"}
SIDES |= dict.fromkeys(("bond", "wide", "bias"), "edge")


class Given(gf.Bias):
    """A number for each edge and head, as it was given: its gradient is wanted."""

    edge_data = "bias"

    def forward(self, pair: gf.layout.Pair) -> Tensor:
        return pair.edge_data["bias"]


# Of heads and their dimension; all but the last normalize by softmax.
SCORES: dict[str, Any] = {
    "dot": lambda heads, dim: gf.DotProduct(),
    "biased": lambda heads, dim: gf.DotProduct() + Given(),
    "capped": lambda heads, dim: Capped() + Given(),
    "terms": lambda heads, dim: gf.Additive(heads, dim) + Given(),
    "edge dot": lambda heads, dim: gf.EdgeDot("bond", draw_weight(heads, dim, BOND_DIM)),
    "gatv2": lambda heads, dim: gf.GATv2(heads, dim, edge_data="wide"),
    "gatv2 biased": lambda heads, dim: gf.GATv2(heads, dim) + Given(),
    "gatv2 mapped": lambda heads, dim: gf.GATv2(heads, dim, **mapped_bond(heads, dim)),
    "bahdanau": lambda heads, dim: gf.Bahdanau(heads, dim, edge_data="wide"),
    "bahdanau mapped": lambda heads, dim: gf.Bahdanau(heads, dim, **mapped_bond(heads, dim)),
    "mean": lambda heads, dim: gf.Mean() + Given(),
    "unnormalized": lambda heads, dim: gf.DotProduct() + Given(),
}


def draw_weight(*size: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*size) * size[-1] ** -0.5)


def mapped_bond(heads: int, dim: int) -> dict[str, Any]:
    return {"edge_data": "bond", "edge_weight": draw_weight(heads, dim, BOND_DIM)}


@dataclass(frozen=True)
class Drawn:
    """An attention over a graph, with its numbers."""

    edges: Edges
    bipartite: bool
    score: gf.Score
    normalize: str
    tensors: Mapping[str, Tensor]

    def to(self, dtype: torch.dtype) -> Drawn:
        """The numbers rounded to `dtype`; the score goes with them."""
        tensors = {name: x.detach().to(dtype) for name, x in self.tensors.items()}
        return replace(self, score=self.score.to(dtype), tensors=tensors)

    def results(self, backend: str, outside: Tensor | None = None, **asked: Any) -> dict[str, Any]:
        """Outputs and gradients; of `outside` against the output, where it is given."""
        leaves = {name: x.clone().requires_grad_() for name, x in self.tensors.items()}
        data = {name: leaves[name] for name in ("bond", "wide", "bias")}
        query, key, value = (leaves[name] for name in ("query", "key", "value"))
        found = gf.attend(
            query if "query" in self.score.reads else None,
            key if "key" in self.score.reads else None,
            value, self.edges.bind(self.bipartite, **data), self.score, self.normalize,
            backend=backend, **asked,
        )  # fmt: skip
        found = found if isinstance(found, gf.Attended) else gf.Attended(found)
        named = {**leaves, **dict(self.score.named_parameters())}
        if outside is None:
            grads = gradients(found, named)
        else:
            loss = (found.out * outside).sum()
            parts = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
            grads = {f"gradient of {name}": x for name, x in zip(named, parts, strict=True)}
        return {name: part.detach() for name, part in outputs(found).items()} | grads


def make(graph: Edges, bipartite: bool, score: str, sizes: tuple[int, ...], seed: int) -> Drawn:
    """An attention of `sizes`: key heads, queries' heads for each of them, dim and value dim."""
    torch.manual_seed(seed)
    kv_heads, group, dim, value_dim = sizes
    heads = kv_heads if score == "mean" else kv_heads * group
    made = SCORES[score](heads, dim)
    shapes = {
        "query": (graph.num_queries, heads, dim),
        "key": (graph.num_keys, kv_heads, dim),
        "value": (graph.num_keys, kv_heads, value_dim),
        "bond": (graph.num_edges, BOND_DIM),
        "wide": (graph.num_edges, heads * dim),
        "bias": (graph.num_edges, heads),
    }
    tensors = {name: torch.randn(size, dtype=torch.float64) for name, size in shapes.items()}
    normalize = "none" if score == "unnormalized" else "softmax"
    return Drawn(graph, bipartite, made.double(), normalize, tensors)


DIMS = st.integers(1, 130)
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3), DIMS, DIMS)
SEEDS = st.integers(0, 2**16)
NAMES = st.sampled_from(list(SCORES))
GRAPHS = st.booleans().flatmap(lambda two: st.tuples(edges(two, least=0), st.just(two)))


@given(
    graph=GRAPHS,
    score=NAMES,
    sizes=SIZES,
    dtype=st.sampled_from(list(TOLERANCE)),
    asked=st.fixed_dictionaries(
        {}, optional={"edge_sum": st.just("bond"), "return_weights": st.just(True)}
    ),
    seed=SEEDS,
)
def test_sparse_agrees_with_reference_over_any_graph(
    graph: tuple[Edges, bool],
    score: str,
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    asked: dict[str, Any],
    seed: int,
) -> None:
    case = make(*graph, score, sizes, seed).to(dtype)
    found = case.results("sparse", **asked)
    assert found["out"].dtype == dtype
    expected = case.to(torch.float64).results("reference", **asked)
    assert_close(found, expected, TOLERANCE[dtype])


def large_graph() -> Edges:
    """Edges in any order: a query that has a third of them, a key that a third go to, idle ones."""
    generator = torch.Generator().manual_seed(0)

    def ends(size: int, hub: int) -> Tensor:
        drawn = torch.randint(size - 3, (200_000,), generator=generator)
        return torch.where(torch.rand(200_000, generator=generator) < 1 / 3, hub, drawn)

    return Edges(torch.stack([ends(700, 500), ends(300, 120)]), 700, 300)


@pytest.mark.parametrize("score", SCORES)
def test_what_blocks_of_queries_leave_to_keys_adds_up(score: str) -> None:
    """Of 65,536 edges a block has 16 MiB: weights and slopes of 16 heads in float64."""
    case = make(large_graph(), True, score, (16, 1, 1, 1), seed=0)
    found = case.results("sparse", return_weights=True)
    assert_close(found, case.results("reference", return_weights=True), 1e-10)


@given(graph=GRAPHS, score=NAMES, sizes=SIZES, seed=SEEDS)
def test_who_hears_nobody_gets_zero_and_gives_none(
    graph: tuple[Edges, bool], score: str, sizes: tuple[int, ...], seed: int
) -> None:
    case = make(*graph, score, sizes, seed)
    found = case.results("sparse", edge_sum="bond", return_weights=True)
    assert all(part.isfinite().all() for part in found.values())
    alone, unheard = case.edges.alone(), case.edges.unheard()
    for name in ("out", "edge_sum", "gradient of query"):
        assert not found[name][alone].count_nonzero(), name
    for name in ("gradient of key", "gradient of value"):
        assert not found[name][unheard].count_nonzero(), name


@given(graph=GRAPHS, score=NAMES, sizes=SIZES, seed=SEEDS)
def test_weights_come_in_the_order_of_the_edges(
    graph: tuple[Edges, bool], score: str, sizes: tuple[int, ...], seed: int
) -> None:
    """Summed edge by edge, they give the output; those that softmax made sum to one."""
    case = make(*graph, score, sizes, seed)
    found = case.results("sparse", return_weights=True)
    key, query = case.edges.edge_index
    weights, value = found["weights"], case.tensors["value"]
    value = value.repeat_interleave(weights.shape[1] // value.shape[1], 1)
    summed = torch.zeros_like(found["out"]).index_add(0, query, weights[..., None] * value[key])
    torch.testing.assert_close(found["out"], summed)
    if case.normalize == "softmax":
        total = weights.new_zeros(found["out"].shape[:2]).index_add(0, query, weights)
        heard = (~case.edges.alone()).double()[:, None].expand_as(total)
        torch.testing.assert_close(total, heard)


@given(
    graphs=st.booleans().flatmap(
        lambda two: st.tuples(st.lists(edges(two, least=0), min_size=2, max_size=4), st.just(two))
    ),
    score=NAMES,
    sizes=SIZES,
    seed=SEEDS,
)
def test_a_graph_alone_gives_what_it_gives_beside_others(
    graphs: tuple[list[Edges], bool], score: str, sizes: tuple[int, ...], seed: int
) -> None:
    joined, rows = beside(graphs[0])
    whole = make(joined, graphs[1], score, sizes, seed).to(torch.float32)
    outside = torch.randn_like(whole.results("sparse")["out"])
    found = whole.results("sparse", outside)
    summed = {f"gradient of {name}": 0.0 for name, _ in whole.score.named_parameters()}
    for graph, own in zip(graphs[0], rows, strict=True):
        tensors = {name: x[own[SIDES[name]]] for name, x in whole.tensors.items()}
        part = replace(whole, edges=graph, tensors=tensors)
        alone = part.results("sparse", outside[own["query"]])
        for name, side in SIDES.items():
            name = name if name == "out" else f"gradient of {name}"
            assert error(found[name][own[side]], alone[name], floor=1.0) < 1e-5, name
        summed = {name: total + alone[name] for name, total in summed.items()}
    for name, total in summed.items():
        assert error(found[name], total, floor=1.0) < 1e-5, name


@given(graph=GRAPHS, score=NAMES, sizes=SIZES, seed=SEEDS, data=st.data())
def test_outputs_follow_tokens_and_edges_that_move(
    graph: tuple[Edges, bool], score: str, sizes: tuple[int, ...], seed: int, data: st.DataObject
) -> None:
    case = make(*graph, score, sizes, seed)
    count = {"key": case.edges.num_keys, "query": case.edges.num_queries,
             "edge": case.edges.num_edges}  # fmt: skip
    if not case.bipartite:
        del count["key"]
    order = {
        name: torch.tensor(data.draw(st.permutations(range(size))), dtype=torch.int64)
        for name, size in count.items()
    }
    order.setdefault("key", order["query"])
    key, query = case.edges.edge_index[:, order["edge"]]
    ends = torch.stack([order["key"].argsort()[key], order["query"].argsort()[query]])
    moved = replace(
        case,
        edges=case.edges._replace(edge_index=ends),
        tensors={name: x[order[SIDES[name]]] for name, x in case.tensors.items()},
    )
    outside = torch.randn_like(case.results("sparse")["out"])
    found = moved.results("sparse", outside[order["query"]])
    for name, part in case.results("sparse", outside).items():
        side = SIDES.get(name.removeprefix("gradient of "))
        follows = part if side is None else part[order[side]]
        assert error(found[name], follows, floor=1.0) < 1e-10, name


@given(graph=GRAPHS, score=NAMES, sizes=SIZES, seed=SEEDS, dropout=st.sampled_from([0.0, 0.4]))
def test_the_same_seed_gives_the_same_bits(
    graph: tuple[Edges, bool], score: str, sizes: tuple[int, ...], seed: int, dropout: float
) -> None:
    case = make(*graph, score, sizes, seed).to(torch.float32)
    runs = []
    for _ in range(2):
        torch.manual_seed(seed)
        runs.append(case.results("sparse", dropout=dropout, edge_sum="bond", return_weights=True))
    for name, part in runs[0].items():
        assert torch.equal(part, runs[1][name]), name
