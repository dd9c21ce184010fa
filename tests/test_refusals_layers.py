"""What layers, scores and graphs cannot do is refused when they are made, in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import graphformer as gf
from graphformer.backends import band
from graphformer.layers import Attention, Cache
from graphformer.layout import Pair
from graphformer.scores import Bias
from graphformer.tokens import sequences

TOKENS = sequences([torch.zeros(6, 1)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(64, 0), "an attention has at least 1 head, it is given 0"),
        (lambda: Attention(64, 8, normalize="sofmax"), "unknown normalize='sofmax'; known are"),
        (lambda: Attention(64, 8, dropout=1.5), "dropout is a probability below 1, it is 1.5"),
        (lambda: gf.T5Bias(4, buckets=3), "T5Bias has buckets=3: write at least 4"),
        (lambda: gf.T5Bias(4, buckets=1, causal=True), "T5Bias has buckets=1: write at least 2"),
        (lambda: gf.T5Bias(4, largest=8), "each distance below 8, and largest=8: write at least 9"),
        (lambda: gf.Score.parse("EdgeDot('bond', ...)"), r"cannot read \.\.\. in the score"),
    ],
)
def test_what_is_made_wrong_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_every_distance_has_a_bucket_of_its_direction() -> None:
    for buckets, largest in ((4, 2), (8, 3), (32, 9), (32, 128)):
        bias = gf.T5Bias(2, buckets, largest)
        found = bias.bucket(torch.arange(-200, 201))
        assert found.min() == 0
        assert found.max() == buckets - 1
        assert (found[:201] < buckets // 2).all()
        assert (found[201:] >= buckets // 2).all()
        assert (found[201:].diff() >= 0).all()


def test_parents_that_an_example_does_not_have_are_refused() -> None:
    cache = Cache(2)
    with pytest.raises(ValueError, match="parents names sequence 1, and each example has 1, 0 to"):
        cache.fork(torch.tensor([[0, 1], [0, 0]]))
    with pytest.raises(ValueError, match="parents names sequence -1"):
        cache.fork(torch.tensor([[0, 0], [-1, 0]]))


def test_edge_data_on_another_device_are_refused_by_name() -> None:
    given = gf.EdgeValues(torch.tensor([[0], [1]]), torch.zeros(1, device="meta"))
    with pytest.raises(ValueError, match="'bond' has edges on cpu and values on meta: move both"):
        gf.edges("bond").bind(TOKENS, bond=given)


class Reads(Bias):
    """A function of edge data that it does not name."""

    def forward(self, pair: Pair) -> Tensor:
        return pair.edge_data["weight"].expand(*pair.edge_data["weight"].shape[:-1], 2)


class PerHead(Bias):
    """One number a head, whatever the pair."""

    by_distance = True

    def forward(self, pair: Pair) -> Tensor:
        return torch.tensor([0.5, -1.0])


def test_windows_leave_functions_that_may_read_edge_data_to_others() -> None:
    weight = gf.EdgeValues(torch.tensor([[0, 1], [1, 2]]), torch.tensor([1.0, 2.0]))
    graph = gf.window(2).bind(TOKENS, weight=weight)
    x = torch.randn(6, 2, 4)
    plan = gf.explain(graph, gf.DotProduct() + Reads(), heads=2, dim=4)
    assert band.why_not(plan.request) == (
        "a function of your own may read the edge data 'weight', and windows have none"
    )
    found = gf.attend(x, x, x, graph, gf.DotProduct() + Reads())
    expected = gf.attend(x, x, x, graph, gf.DotProduct() + Reads(), backend="reference")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_bias_of_heads_alone_runs_on_every_backend() -> None:
    graph, x = gf.window(2).bind(TOKENS), torch.randn(6, 2, 4)
    score = gf.Cosine(2) + PerHead()
    each = [
        gf.attend(x, x, x, graph, score, normalize="none", backend=backend)
        for backend in ("reference", "dense", "band")
    ]
    for found in each[1:]:
        torch.testing.assert_close(found, each[0], rtol=1e-4, atol=1e-5)


def test_a_predicate_counts_without_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphformer.topology.predicate import Where

    topology = gf.where(lambda pair: pair.distance % 3 == 0)
    graph = topology.bind(sequences([torch.zeros(length, 1) for length in (5, 0, 7)]))
    expected = len(topology.list_edges(graph.queries, graph.keys)[0])
    monkeypatch.setattr(Where, "list_edges", None)
    assert graph.num_edges == expected == 26


def test_a_function_set_on_what_rotary_turns_is_that_of_rotary() -> None:
    inner = gf.DotProduct()
    score = gf.Rotary(inner)
    graph, x = gf.complete().bind(TOKENS), 3 * torch.randn(6, 2, 4)
    before = gf.attend(x, x, x, graph, score)
    inner.pointwise = gf.SoftCap(0.1)
    capped = gf.attend(x, x, x, graph, score)
    assert not torch.allclose(before, capped)
    expected = gf.attend(x, x, x, graph, score, backend="reference")
    torch.testing.assert_close(capped, expected, rtol=1e-4, atol=1e-5)


def test_a_mask_of_ragged_examples_costs_what_its_padding_costs() -> None:
    ragged = sequences([torch.zeros(2000, 1)] + [torch.zeros(2, 1)] * 50)
    masked, free = (
        gf.explain(topology.bind(ragged), heads=1, dim=4).candidates["dense"]
        for topology in (gf.complete() - gf.self_loops(), gf.complete())
    )
    assert masked.bytes > free.bytes + 51 * 2000**2
