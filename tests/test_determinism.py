"""The same seed gives the same numbers, bit for bit, without torch's deterministic mode."""

from __future__ import annotations

import pytest
import torch
from cases import EXECUTORS, SCORES, TOPOLOGIES, make_case
from torch import Tensor, nn

import graphformer as gf
from graphformer.backends import executors, kernels, reference
from graphformer.layers import Attention, Block, FeedForward
from graphformer.tokens import sequences

WAYS = ["reference", "reference by chunks", *EXECUTORS, "band", "sparse", None]


@pytest.fixture(params=WAYS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Every way to compute, by the name of its backend."""
    if request.param == "reference by chunks":
        monkeypatch.setattr(reference, "CHUNK_BYTES", 2**19)
        return "reference"
    if request.param in EXECUTORS:
        monkeypatch.setattr(executors, "choose", lambda *_: request.param)
        return "dense"
    if request.param == "sparse" and kernels.why_missing():
        pytest.skip("the kernels are not built")
    return request.param


def assert_repeats(run: object, times: int = 2) -> None:
    """Every run from the same seed gives the same bits."""
    assert not torch.are_deterministic_algorithms_enabled()
    runs = []
    for _ in range(times):
        torch.manual_seed(3)
        runs.append(run())
    for other in runs[1:]:
        for first, second in zip(runs[0], other, strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("score", "topology"),
    [("dot", "complete"), ("t5", "causal"), ("hop bias", "bonds"), ("edge dot", "longformer"),
     ("gatv2", "window"), ("additive", "exphormer"), ("kernel", "causal"), ("kernel", "complete")],
)  # fmt: skip
@pytest.mark.usefixtures("two_threads")
def test_attention_repeats_bit_for_bit(
    score: str, topology: str, dropout: float, backend: str | None
) -> None:
    """Enough tokens for two threads to share the work, and many keys that share an index."""
    lengths, heads, dim = (70, 30, 1, 0, 40), 4, 8
    tokens = sequences([torch.zeros(length, 1) for length in lengths])
    make, normalize = SCORES[score]
    module = make(heads, dim)
    edge_index = gf.window(3).bind(tokens).edge_index
    edge_index = edge_index[:, torch.randperm(edge_index.shape[1])]
    bond = torch.randn(edge_index.shape[1], 3)
    operands = [torch.randn(tokens.num_tokens, heads, dim) for _ in range(3)]
    outside = torch.randn(tokens.num_tokens, heads, dim)

    def run() -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (*operands, bond)]
        graph = TOPOLOGIES[topology].bind(
            tokens,
            bond=gf.EdgeValues(edge_index, leaves[3]),
            hops=gf.EdgeValues(edge_index, torch.arange(edge_index.shape[1]) % 3),
        )
        out = gf.attend(
            *leaves[:3], graph, module, normalize=normalize, dropout=dropout, backend=backend
        )
        named = [*leaves, *module.parameters()]
        found = torch.autograd.grad(out, named, outside, allow_unused=True)
        return [out.detach(), *(part for part in found if part is not None)]

    try:
        run()
    except ValueError as error:
        assert "cannot run this" in str(error)  # noqa: PT017 - a refusal, by its own words
        return
    assert_repeats(run)


@pytest.mark.usefixtures("two_threads")
def test_checkpointed_blocks_replay_their_dropout() -> None:
    """Recomputed in the backward, they give what is kept otherwise, bit for bit."""
    tokens = sequences([torch.zeros(40, 1), torch.zeros(17, 1)])
    block = Block(
        16, Attention(16, 4, dropout=0.2), FeedForward(16, 32, dropout=0.2), dropout=0.2
    ).train()
    x = torch.randn(57, 16)

    def run() -> list[Tensor]:
        graph, leaf = gf.window(4).bind(tokens), x.clone().requires_grad_()
        out = block(leaf, graph)
        return [out.detach(), *torch.autograd.grad(out.sum(), [leaf, *block.parameters()])]

    assert_repeats(run)
    kept = seeded(run)
    block.checkpoint = True
    for first, second in zip(kept, seeded(run), strict=True):
        assert torch.equal(first, second)


def test_reference_by_chunks_replays_its_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the backward recomputes drops what the forward dropped: the gradient is the slope."""
    monkeypatch.setattr(reference, "CHUNK_BYTES", 500)
    case = make_case("gatv2", "longformer", "ragged")
    graph = case.bind()
    value = case.tensors["value"].requires_grad_()
    out = case.attend(graph, dropout=0.5, backend="reference").out
    outside = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, value, outside)
    # Linear in the values: <outside, out> is <gradient, value> if both used the same weights.
    torch.testing.assert_close((outside * out).sum(), (gradient * value).sum())


def seeded(run: object) -> list[Tensor]:
    torch.manual_seed(3)
    return run()


def test_training_repeats_bit_for_bit() -> None:
    tokens = sequences([torch.randn(length, 8) for length in (9, 4, 6)])

    def run() -> list[Tensor]:
        block = Block(8, Attention(8, 2, gf.DotProduct() + gf.T5Bias(2), dropout=0.1))
        head = nn.Linear(8, 1)
        weights = [*block.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(weights, 0.01)
        for _ in range(5):
            graph = (gf.window(2) | gf.global_tokens(1)).bind(tokens)
            optimizer.zero_grad()
            head(block(tokens.x, graph)).square().mean().backward()
            optimizer.step()
        return [weight.detach() for weight in weights]

    assert_repeats(run)
