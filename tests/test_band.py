"""Windows in blocks and chunks of blocks give what the reference gives, edge by edge."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from cases import assert_close, gradients
from torch import Tensor

import graphformer as gf
from graphformer.backends import band
from graphformer.layout import Pair
from graphformer.tokens import sequences
from graphformer.topology import Band

HEADS, DIM = 4, 6
# Blocks that are full, cut short and alone; an empty example, and one shorter than any window.
LENGTHS = (70, 0, 7, 1, 165)
TOPOLOGIES = [
    gf.window(3),
    gf.window(40),
    gf.window(3) & gf.causal(),
    gf.window(3).T & gf.causal().T,
    gf.window(2, dilation=3),
    gf.strided(4) & gf.causal(),
    gf.window(3) | gf.window(2, dilation=5),
    gf.window(4) - gf.self_loops(),
    gf.log_sparse() & gf.window(9),
    gf.window(4) | gf.global_tokens(2),
    gf.window(1) | gf.global_tokens(9),
    (gf.window(4) | gf.global_tokens(2)) & gf.causal(),
    (gf.window(4) | gf.global_tokens(2)) - gf.self_loops(),
    gf.window(2, dilation=3) | gf.global_tokens(3),
    Band(2, 5),
    Band(-9, -4),
    gf.self_loops(),
]


class ById(gf.Bias):
    """A bias that knows which tokens a pair is of."""

    def forward(self, pair: Pair) -> Tensor:
        return ((7 * pair.query + 3 * pair.key) % 5) * 0.1 + pair.head * 0.2


class Bent(gf.DotProduct):
    """A function of the finished score that knows which tokens a pair is of."""

    def __init__(self) -> None:
        super().__init__()
        self.bend = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, score: Tensor, pair: Pair) -> Tensor:
        return score + self.bend * score.square() + 0.05 * (pair.query - pair.key % 3)


SCORES: dict[str, tuple[Callable[[], gf.Score], str]] = {
    "dot": (gf.DotProduct, "softmax"),
    "unnormalized": (lambda: gf.DotProduct(0.3), "none"),
    "kernel": (gf.Kernel, "sum"),
    "mean": (gf.Mean, "softmax"),
    "degree": (gf.SymmetricDegree, "none"),
    "gaussian": (gf.Gaussian, "softmax"),
    "additive": (lambda: gf.Additive(HEADS, DIM), "softmax"),
    "alibi": (lambda: gf.DotProduct() + gf.ALiBi(HEADS), "softmax"),
    "t5": (lambda: gf.DotProduct() + gf.T5Bias(HEADS, 8, 16), "softmax"),
    "rotary": (lambda: gf.Rotary(gf.Cosine(HEADS)) + gf.ALiBi(HEADS), "softmax"),
    "by id": (lambda: gf.DotProduct() + ById() + gf.T5Bias(HEADS, 8, 16), "softmax"),
    "bent": (Bent, "softmax"),
}


@pytest.fixture(params=["at once", "by chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All blocks together, or each by itself and computed again in the backward."""
    if request.param == "by chunks":
        monkeypatch.setattr(band, "CHUNK_BYTES", 1)
    return request.param


def bind(
    topology: gf.Topology, lengths: tuple[int, ...] = LENGTHS, num_virtual: int = 0
) -> gf.TokenGraph:
    tokens = sequences([torch.zeros(length, 1) for length in lengths])
    return topology.bind(tokens.with_virtual(num_virtual))


def make_tensors(
    graph: gf.TokenGraph, kv_heads: int = HEADS, value_dim: int = DIM
) -> dict[str, Tensor]:
    size = graph.queries.num_tokens
    return {
        "query": torch.randn(size, HEADS, DIM, dtype=torch.float64),
        "key": torch.randn(size, kv_heads, DIM, dtype=torch.float64),
        "value": torch.randn(size, kv_heads, value_dim, dtype=torch.float64),
    }


def results(
    backend: str,
    graph: gf.TokenGraph,
    tensors: dict[str, Tensor],
    score: gf.Score,
    normalize: str = "softmax",
) -> dict[str, Tensor]:
    """Output and gradients, by name."""
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    read = [leaves[name] if name in score.reads else None for name in ("query", "key")]
    out = gf.attend(*read, leaves["value"], graph, score, normalize, backend=backend)
    attended = gf.Attended(out)
    named = {**leaves, **dict(score.named_parameters())}
    return {"out": out.detach(), **gradients(attended, named)}


def check(graph: gf.TokenGraph, score: str = "dot", tolerance: float = 1e-10, **sizes: int) -> None:
    make, normalize = SCORES[score]
    tensors, module = make_tensors(graph, **sizes), make().double()
    found = results("band", graph, tensors, module, normalize)
    assert_close(found, results("reference", graph, tensors, module, normalize), tolerance)


@pytest.mark.parametrize("num_virtual", [0, 2])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=repr)
@pytest.mark.usefixtures("chunks")
def test_windows_agree_with_reference(topology: gf.Topology, num_virtual: int) -> None:
    check(bind(topology, num_virtual=num_virtual))


@pytest.mark.parametrize("topology", [TOPOLOGIES[0], TOPOLOGIES[4], TOPOLOGIES[9]], ids=repr)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.usefixtures("chunks")
def test_scores_agree_with_reference(score: str, topology: gf.Topology) -> None:
    check(bind(topology), score)


@pytest.mark.parametrize("lengths", [(256,), (64, 64), (289,), (1,), (33, 32, 31)], ids=str)
@pytest.mark.parametrize("topology", [gf.window(4), Band(2, 5), Band(-40, -3)], ids=repr)
@pytest.mark.usefixtures("chunks")
def test_blocks_may_end_anywhere(topology: gf.Topology, lengths: tuple[int, ...]) -> None:
    graph = bind(topology, lengths)
    if graph.num_edges:
        check(graph)


@pytest.mark.parametrize(("kv_heads", "value_dim"), [(2, 6), (1, 6), (4, 3), (2, 9)])
@pytest.mark.parametrize("score", ["dot", "t5", "kernel"])
@pytest.mark.usefixtures("chunks")
def test_heads_and_dimensions_may_differ(score: str, kv_heads: int, value_dim: int) -> None:
    check(bind(gf.window(4) | gf.global_tokens(1)), score, kv_heads=kv_heads, value_dim=value_dim)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=str
)
@pytest.mark.parametrize("radius", [5, 600])
@pytest.mark.parametrize("score", ["dot", "alibi", "t5", "kernel"])
@pytest.mark.usefixtures("chunks")
def test_windows_round_little(
    score: str, radius: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Narrow windows and wide ones, which in bfloat16 run differently."""
    graph = bind(gf.window(radius), (700, 40))
    make, normalize = SCORES[score]
    module = make().to(dtype)
    tensors = {name: x.to(dtype) for name, x in make_tensors(graph).items()}
    found = results("band", graph, tensors, module, normalize)
    exact = {name: x.double() for name, x in tensors.items()}
    expected = results("reference", graph, exact, module.double(), normalize)
    assert found["out"].dtype == dtype
    assert_close(found, expected, tolerance)


@pytest.mark.usefixtures("chunks")
def test_what_is_infinite_in_one_example_stays_there() -> None:
    for topology in (gf.window(5), gf.window(5) | gf.global_tokens(2), gf.window(3, dilation=2)):
        graph = bind(topology, (50, 20, 70))
        others = torch.ones(140, dtype=torch.bool)
        others[50:70] = False
        tensors = make_tensors(graph)
        broken = {name: x.clone() for name, x in tensors.items()}
        for x in broken.values():
            x[50:70] = torch.inf
        for score, normalize in (SCORES["dot"], SCORES["kernel"]):
            found = results("band", graph, broken, score(), normalize)
            expected = results("band", graph, tensors, score(), normalize)
            for name, part in expected.items():
                torch.testing.assert_close(found[name][others], part[others])


def test_what_is_recomputed_drops_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is linear in the values: <outside, out> is <gradient, value>."""
    monkeypatch.setattr(band, "CHUNK_BYTES", 1)
    graph = bind(gf.window(3))
    tensors = make_tensors(graph)
    value = tensors["value"].requires_grad_()
    out = gf.attend(tensors["query"], tensors["key"], value, graph, dropout=0.5, backend="band")
    outside = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, value, outside)
    torch.testing.assert_close((outside * out).sum(), (gradient * value).sum())
    again = gf.attend(tensors["query"], tensors["key"], value, graph, dropout=0.5, backend="band")
    assert not torch.equal(out, again)


def test_chunks_give_the_same_numbers_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = bind(gf.window(3) | gf.global_tokens(1))
    tensors, score = make_tensors(graph), gf.DotProduct()
    once = results("band", graph, tensors, score)
    for size in (1, 2**15, 2**16):
        monkeypatch.setattr(band, "CHUNK_BYTES", size)
        assert_close(results("band", graph, tensors, score), once, 1e-14)


@pytest.mark.usefixtures("chunks")
def test_plain_products_can_be_differentiated_twice() -> None:
    graph = bind(gf.window(3), (70, 9))
    tensors = make_tensors(graph)
    module = gf.DotProduct().double() + gf.T5Bias(HEADS, 8, 16).double()

    def second(backend: str) -> tuple[Tensor, ...]:
        leaves = [x.clone().requires_grad_() for x in tensors.values()]
        out = gf.attend(*leaves, graph, module, backend=backend)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), leaves)

    for found, expected in zip(second("band"), second("reference"), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_moved_graph_makes_its_own_windows() -> None:
    graph = bind(gf.window(3) | gf.global_tokens(2))
    tensors, score = make_tensors(graph), gf.DotProduct()
    expected = results("band", graph, tensors, score)
    assert_close(results("band", graph.to("cpu"), tensors, score), expected, 1e-15)


def test_windows_cost_less_than_dense_where_examples_are_long() -> None:
    def costs(topology: gf.Topology, lengths: tuple[int, ...]) -> list[float]:
        plan = gf.explain(bind(topology, lengths), heads=4, dim=32, training=True)
        return [plan.candidates[name].seconds for name in ("band", "dense")]

    for topology in (gf.window(256), gf.window(256) | gf.global_tokens(2)):
        band, dense = costs(topology, (8192,))
        assert band < dense / 2
    band, dense = costs(gf.window(64), (20,) * 50)
    assert band > dense


MEASURE = """
import resource, torch
import graphformer as gf
from graphformer.tokens import sequences
from graphformer.topology import Band
tokens = sequences([torch.zeros(60_000, 1)])
graph = gf.window(64).bind(tokens)
query, key, value = (torch.randn(60_000, 4, 32, requires_grad=True) for _ in range(3))
gf.plan(graph, heads=4, dim=32, training=True, backend="band")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
gf.attend(query, key, value, graph, backend="band").sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in other units elsewhere")
def test_memory_grows_with_tokens_and_not_with_edges() -> None:
    """An output, three gradients and little else; edges x heads x dim would be 3.9 GB."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    tensor = 60_000 * 4 * 32 * 4
    assert int(run.stdout) * 1024 < 12 * tensor


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        (gf.complete(), "windows only, and complete() has keys at any distance: use dense"),
        (gf.causal(), "windows only, and causal() has keys at any distance: use dense"),
        (gf.global_tokens(2), "windows only, and global_tokens(2) has none"),
        (gf.edges(torch.tensor([[0], [1]])), "windows and global tokens only, and edges"),
        (Band(500, 600), "no example is long enough for the keys of Band(500, 600)"),
    ],
    ids=repr,
)
def test_what_is_no_window_is_refused(topology: gf.Topology, words: str) -> None:
    with pytest.raises(ValueError, match="the band backend cannot run this") as error:
        gf.explain(bind(topology), backend="band")
    assert words in str(error.value)


def refusal(graph: gf.TokenGraph, score: gf.Score | None = None, **settings: object) -> str:
    score = gf.DotProduct() if score is None else score
    with pytest.raises(ValueError, match="the band backend cannot run this") as error:
        gf.explain(graph, score, backend="band", **settings)
    return str(error.value)


def test_what_windows_cannot_do_is_refused_by_name() -> None:
    graph = bind(gf.window(2))
    assert "pairwise score" in refusal(graph, gf.GATv2(1, 64))
    assert "edge by edge" in refusal(graph, return_weights=True)
    keys = sequences([torch.zeros(length, 1) for length in LENGTHS])
    assert "different tokens" in refusal(gf.window(2).bind(keys, sequences([*keys.unbatch()])))
    index = graph.edge_index
    given = gf.TokenGraph.from_edge_index(index, graph.queries.num_tokens)
    assert "given by its edges" in refusal(given)
    bonds = gf.window(2).bind(keys, bond=gf.EdgeValues(index, torch.randn(index.shape[1], 1)))
    assert "edge data 'bond'" in refusal(bonds, gf.DotProduct() + gf.EdgeBias("bond", 1))
    mixed = bind(gf.window(2) | gf.self_loops(), num_virtual=1)
    assert "skip virtual tokens" in refusal(mixed)
    shuffled = keys._replace(at=keys.at.flip(0))
    assert "positions do not count up" in refusal(gf.window(2).bind(shuffled))


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:.*Function.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("topology", [TOPOLOGIES[0], TOPOLOGIES[4], TOPOLOGIES[9]], ids=repr)
@pytest.mark.parametrize("score", ["dot", "t5"])
def test_compiled_windows_agree_at_any_size(score: str, topology: gf.Topology) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    module, counter = SCORES[score][0](), CompileCounterWithBackend("aot_eager")

    def loss(query: Tensor, key: Tensor, value: Tensor, graph: gf.TokenGraph) -> Tensor:
        return gf.attend(query, key, value, graph, module, backend="band").square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for length in (210, 150, 330, 190):
        graph = bind(topology, (length, length // 2, 3))
        gf.plan(graph, module, HEADS, DIM, training=True, backend="band")
        leaves = [x.float().requires_grad_() for x in make_tensors(graph).values()]
        found = torch.autograd.grad(compiled(*leaves, graph), leaves)
        expected = torch.autograd.grad(loss(*leaves, graph), leaves)
        for first, second in zip(found, expected, strict=True):
            torch.testing.assert_close(first, second)
    assert counter.frame_count <= 2
