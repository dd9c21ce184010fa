"""What an example gives depends on it alone: not on its batch, its padding, or the order of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from cases import EXECUTORS, TOPOLOGIES, Case, error, make_case, make_tokens, table
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.backends import BACKENDS, executors, name_of
from graphformer.layers import Attention, Block, ConvFeedForward, FeedForward
from graphformer.models.graph import GAT, GCN, GraphSAGE, GraphTransformer
from graphformer.models.sequence import LanguageModel, Size, Transformer
from graphformer.tokens import Tokens, nodes, sequences

Results = dict[str, Tensor]


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executors of the dense backend run, whichever is faster at such lengths."""
    choose = lambda request, _: EXECUTORS[request.graph.queries.num_examples % len(EXECUTORS)]  # noqa: E731
    monkeypatch.setattr(executors, "choose", choose)


def backends_of(case: Case) -> list[str]:
    """The backends that can run the case."""
    settings = {"normalize": case.normalize, "backend": "reference"}
    dtype = case.tensors["value"].dtype
    request = gf.explain(
        case.bind(), case.score, case.heads, case.shape.dim, dtype, True,
        kv_heads=case.shape.kv_heads, value_dim=case.shape.value_dim, **settings,
    ).request  # fmt: skip
    return [name_of(backend) for backend in BACKENDS if backend.why_not(request) is None]


def results(case: Case, backend: str, outside: Tensor) -> Results:
    """Outputs and gradients, given the gradient from outside."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in case.tensors.items()}
    out = replace(case, tensors=leaves).attend(backend=backend).out
    named = {**leaves, **dict(case.score.named_parameters())}
    found = torch.autograd.grad(out, list(named.values()), outside, allow_unused=True)
    return {"out": out.detach()} | {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(named.items(), found, strict=True)
    }


# ---- one example, several, all of them in another order ----


def rows_of(layout: gf.Layout, examples: Sequence[int]) -> Tensor:
    """Flat ids of the tokens of these examples, one after another."""
    ptr = layout.ptr.tolist()
    return torch.cat([torch.arange(ptr[n], ptr[n + 1]) for n in examples])


def without_virtual(layout: gf.Layout) -> Tensor:
    """Offsets of the examples, virtual tokens not counted."""
    return layout.ptr - layout.num_virtual * torch.arange(layout.ptr.shape[0])


def choose(case: Case, examples: Sequence[int]) -> tuple[Case, dict[str, Tensor]]:
    """The case of these examples alone, and which rows of each tensor are its own."""
    graph = case.bind()
    queries, keys = graph.queries, graph.keys
    query_ptr, key_ptr = without_virtual(queries), without_virtual(keys)
    lengths = tuple(int(query_ptr.diff()[n]) for n in examples)
    key_lengths = tuple(int(key_ptr.diff()[n]) for n in examples)
    first_query, first_key = (
        torch.tensor([0, *sizes]).cumsum(0) for sizes in (lengths, key_lengths)
    )
    of_edge = torch.searchsorted(query_ptr, case.edge_index[1], right=True) - 1
    edges, parts = [], []
    for place, example in enumerate(examples):
        mine = (of_edge == example).nonzero()[:, 0]
        shift = torch.stack([first_key[place] - key_ptr[example],
                             first_query[place] - query_ptr[example]])  # fmt: skip
        edges.append(mine)
        parts.append(case.edge_index[:, mine] + shift[:, None])
    rows = {"query": rows_of(queries, examples), "key": rows_of(keys, examples)}
    rows |= {"out": rows["query"], "value": rows["key"], "bond": torch.cat(edges)}
    chosen = replace(
        case,
        queries=make_tokens(lengths, queries.num_virtual),
        keys=None if case.keys is None else make_tokens(key_lengths, keys.num_virtual),
        edge_index=torch.cat(parts, 1),
        tensors={name: tensor[rows[name]] for name, tensor in case.tensors.items()},
        hops=case.hops[rows["bond"]],
    )
    return chosen, rows


@pytest.mark.parametrize(("score", "topology", "shape"), table(step=8))
def test_examples_alone_and_in_any_order_are_those_of_the_batch(
    score: str, topology: str, shape: str
) -> None:
    case = make_case(score, topology, shape).to(torch.float32)
    count = case.queries.num_examples
    nonempty = [n for n in range(count) if case.queries.lengths[n] > 0]
    outside = torch.randn(case.attend(backend="reference").out.shape)
    for backend in backends_of(case):
        whole = results(case, backend, outside)
        for examples in ([nonempty[0]], [nonempty[-1]], list(reversed(range(count)))):
            chosen, rows = choose(case, examples)
            part = results(chosen, backend, outside[rows["query"]])
            for name, own in rows.items():
                assert error(part[name], whole[name][own], floor=1.0) < 1e-5, (backend, name)
            if len(examples) == count:
                for name in whole.keys() - rows.keys():
                    assert error(part[name], whole[name], floor=1.0) < 1e-5, (backend, name)


@pytest.mark.parametrize("topology", ["complete", "causal", "longformer"])
@pytest.mark.parametrize("score", ["dot", "alibi", "gatv2"])
def test_what_is_infinite_in_one_example_stays_there(score: str, topology: str) -> None:
    case = make_case(score, topology, "ragged")
    rows = rows_of(case.bind().queries, [0, 2])
    broken = {name: tensor.clone() for name, tensor in case.tensors.items()}
    middle = rows_of(case.bind().queries, [1])
    for name in ("query", "key", "value"):
        broken[name][middle] = float("inf")
    for backend in backends_of(case):
        out = replace(case, tensors=broken).attend(backend=backend).out
        torch.testing.assert_close(out[rows], case.attend(backend=backend).out[rows])


# ---- tokens in another order within their examples ----


@pytest.mark.parametrize("topology", [name for name in TOPOLOGIES if name != "exphormer"])
@pytest.mark.parametrize("score", ["t5", "rotary alibi", "degree", "kernel", "gatv2 bond"])
def test_outputs_follow_tokens_that_move_with_positions_and_edges(
    score: str, topology: str
) -> None:
    case = make_case(score, topology, "ragged")
    lengths = case.queries.lengths.tolist()
    ptr = case.queries.ptr.tolist()
    order = torch.cat([torch.randperm(n) + at for n, at in zip(lengths, ptr[:-1], strict=True)])
    place = torch.argsort(order)
    moved = replace(
        case,
        queries=case.queries._replace(at=case.queries.at[order]),
        edge_index=place[case.edge_index],
        tensors={
            name: tensor if name == "bond" else tensor[order]
            for name, tensor in case.tensors.items()
        },
    )
    outside = torch.randn(case.tensors["value"].shape, dtype=torch.float64)
    for backend in backends_of(moved):
        expected = results(case, "reference", outside)
        found = results(moved, backend, outside[order])
        for name, part in expected.items():
            follows = part[order] if name in {"out", "query", "key", "value"} else part
            assert error(found[name], follows, floor=1.0) < 1e-10, (backend, name)


# ---- models ----

SMALL = Size(dim=16, heads=4, layers=2, hidden=24, kv_heads=2)
VOCABULARY, FEATURES = 11, 6
SENTENCES = (5, 2, 7, 1, 4)


def language_model(**settings: object) -> nn.Module:
    return LanguageModel(VOCABULARY, SMALL, **settings)


class Stack(nn.Module):
    """Blocks over one topology, from ids to vectors."""

    def __init__(self, topology: gf.Topology, make: Callable[[], Block], virtual: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.blocks = nn.ModuleList(make() for _ in range(2))
        self.topology, self.virtual = topology, virtual

    def forward(self, tokens: Tokens) -> Tensor:
        tokens = tokens.with_x(self.embedding(tokens.x)).with_virtual(self.virtual)
        graph, x = self.topology.bind(tokens), tokens.x
        for block in self.blocks:
            x = block(x, graph)
        return tokens.with_x(x).without_virtual().x


def block(score: Callable[[], gf.Score], **settings: object) -> Block:
    return Block(16, Attention(16, 4, score(), **settings), FeedForward(16, 24))


SEQUENCE_MODELS: dict[str, Callable[[], nn.Module]] = {
    "rotary language model": partial(language_model, score="Rotary(DotProduct())", positions=None),
    "local language model": partial(
        language_model, score="DotProduct() + ALiBi(4)", topology="window(2) | global_tokens(1)"
    ),
    "kernel stack": lambda: Stack(gf.complete(), lambda: block(gf.Kernel, normalize="sum")),
    "bigbird": lambda: Stack(
        gf.window(1) | gf.expander(3) | gf.global_tokens(2), lambda: block(gf.DotProduct), 2
    ),
    "convolution": lambda: Stack(
        gf.window(1), lambda: Block(16, Attention(16, 4), ConvFeedForward(16, 24))
    ),
    "pairwise": lambda: Stack(
        gf.log_sparse(), lambda: block(lambda: gf.GATv2(4), normalize="softmax")
    ),
}


def assert_same_alone(
    model: nn.Module, forward: Callable[[list[int]], list[Tensor]], count: int
) -> None:
    """Each example alone gives what it gives in the batch; so does the sum of gradients."""
    order = list(reversed(range(count)))
    batch = forward(order)
    outside = [torch.randn_like(part) for part in batch]
    parameters = [weight for weight in model.parameters() if weight.requires_grad]

    def gradients(parts: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        loss = sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
        return torch.autograd.grad(loss, parameters)

    alone = [forward([number])[0] for number in order]
    for part, expected in zip(batch, alone, strict=True):
        assert error(part.detach(), expected.detach(), floor=1e-3) < 1e-5
    pairs = zip(gradients(batch, outside), gradients(alone, outside), strict=True)
    for found, expected in pairs:
        assert error(found, expected, floor=1.0) < 1e-5


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_sentences_alone_are_those_of_the_batch(name: str) -> None:
    model = SEQUENCE_MODELS[name]().eval()
    ids = [torch.randint(VOCABULARY, (length,)) for length in SENTENCES]

    def forward(chosen: list[int]) -> list[Tensor]:
        tokens = sequences([ids[number] for number in chosen])
        return tokens.with_x(model(tokens)).unbatch()

    assert_same_alone(model, forward, len(ids))


def test_translations_alone_are_those_of_the_batch() -> None:
    model = Transformer(VOCABULARY, SMALL).eval()
    sources, targets = (
        [torch.randint(VOCABULARY, (length,)) for length in lengths]
        for lengths in (SENTENCES, reversed(SENTENCES))
    )

    def forward(chosen: list[int]) -> list[Tensor]:
        source, target = (
            sequences([side[number] for number in chosen]) for side in (sources, targets)
        )
        return target.with_x(model(source, target)).unbatch()

    assert_same_alone(model, forward, len(sources))


def test_padding_is_never_heard() -> None:
    model = language_model().eval()
    padded = torch.randint(VOCABULARY, (3, 9))
    lengths = [4, 9, 1]
    expected = model(sequences([row[:length] for row, length in zip(padded, lengths, strict=True)]))
    for _ in range(2):
        longer = torch.cat([padded, torch.randint(VOCABULARY, (3, 3))], 1)
        for row, length in zip(longer, lengths, strict=True):
            row[length:] = torch.randint(VOCABULARY, (12 - length,))
        assert torch.equal(model(sequences(longer, lengths)), expected)


@pytest.mark.parametrize(
    "model",
    [GCN(FEATURES, 8, 3), GAT(FEATURES, 4, 3, heads=2), GraphSAGE(FEATURES, 8, 3),
     GraphTransformer(FEATURES, 8, 3)],
    ids=lambda model: type(model).__name__,
)  # fmt: skip
def test_graphs_alone_are_those_of_the_batch(model: nn.Module) -> None:
    model.eval()
    graphs = []
    for size in (6, 1, 4, 3):
        there = torch.rand(size, size) < 0.4
        edge_index = there.fill_diagonal_(False).nonzero().T
        graphs.append(Data(x=torch.randn(size, FEATURES), edge_index=edge_index))

    def forward(chosen: list[int]) -> list[Tensor]:
        batch = Batch.from_data_list([graphs[number] for number in chosen])
        tokens = nodes(batch)
        graph = (gf.edges(batch.edge_index) | gf.self_loops()).bind(tokens)
        return tokens.with_x(model(tokens, graph)).unbatch()

    assert_same_alone(model, forward, len(graphs))
