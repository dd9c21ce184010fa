"""A score or bias of one's own that gives another shape is refused by what runs it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_sparse import needs_kernels
from torch import Tensor

import graphformer as gf

LENGTH, HEADS = 6, 2
X = torch.randn(LENGTH, HEADS, 4)
GRAPH = gf.window(2).bind(gf.sequences([torch.zeros(LENGTH, 1)]))


class Distances(gf.PairwiseScore):
    """A number for each dimension, which nobody has summed."""

    def forward(self, query: Tensor, key: Tensor, pair: gf.Pair) -> Tensor:
        return (query - key).abs()


class Flat(gf.DotProduct):
    """One number a pair, without an axis of heads."""

    def forward(self, score: Tensor, pair: gf.Pair) -> Tensor:
        return score.sum(-1)


class Doubled(gf.DotProduct):
    """More heads than there are."""

    def forward(self, score: Tensor, pair: gf.Pair) -> Tensor:
        return torch.cat([score, score], -1)


class Far(gf.Bias):
    """A distance without an axis of heads."""

    def forward(self, pair: gf.Pair) -> Tensor:
        return pair.distance[..., 0].float()


class Number(gf.Bias):
    """No tensor."""

    def forward(self, pair: gf.Pair) -> Any:
        return 1.0


class Distance(gf.Bias):
    """The distance, one for all heads."""

    def forward(self, pair: gf.Pair) -> Tensor:
        return pair.distance.float()


class Halved(gf.DotProduct):
    """Half of the first head's score, one for all heads."""

    def forward(self, score: Tensor, pair: gf.Pair) -> Tensor:
        return score[..., :1] / 2


BACKENDS = [
    "reference",
    "dense",
    "band",
    pytest.param("sparse", marks=needs_kernels),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("score", "name", "shape"),
    [
        (Flat(), "Flat", r"\[24\]|\[1, 6, 6\]|\[1, \d+, \d+\]"),
        (Doubled(), "Doubled", r"\[24, 4\]|\[1, \d+, \d+, 4\]"),
        (gf.DotProduct() + Far(), "Far", r"\[24\]|\[1, \d+, \d+\]"),
    ],
    ids=["flat", "doubled", "bias"],
)
def test_a_function_of_another_shape_is_refused(
    score: gf.Score, name: str, shape: str, backend: str
) -> None:
    expected = rf"{name}\.forward gave shape ({shape}) for pairs of shape .* and 2 heads: it must"
    with pytest.raises(ValueError, match=expected):
        gf.attend(X, X, X, GRAPH, score, backend=backend)


def test_a_pairwise_score_that_is_not_summed_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Distances.forward gave .*24, 2, 4.* must give \[24, 2\]"
    ):
        gf.attend(X, X, X, GRAPH, Distances())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bias_that_is_no_tensor_is_refused(backend: str) -> None:
    with pytest.raises(ValueError, match=r"Number\.forward gave what is float for pairs of shape"):
        gf.attend(X, X, X, GRAPH, gf.DotProduct() + Number(), backend=backend)


def test_heads_do_not_pass_for_keys() -> None:
    x = torch.randn(8, 8, 4)
    graph = gf.complete().bind(gf.sequences([torch.zeros(8, 1)]))
    with pytest.raises(ValueError, match=r"Far\.forward gave shape \[1, 8, 8\]"):
        gf.attend(x, x, x, graph, gf.DotProduct() + Far())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "score", [gf.DotProduct() + Distance(), Halved()], ids=["bias", "function"]
)
def test_what_is_the_same_for_all_heads_may_be_one_number(score: gf.Score, backend: str) -> None:
    found = gf.attend(X, X, X, GRAPH, score, backend=backend)
    distance = torch.arange(LENGTH)[None] - torch.arange(LENGTH)[:, None]
    scores = torch.einsum("qhd,khd->hqk", X, X) / 2
    scores = scores[:1] / 2 if isinstance(score, Halved) else scores + distance
    weights = scores.masked_fill(distance.abs() > 2, -torch.inf).softmax(-1)
    expected = torch.einsum("hqk,khd->qhd", weights.expand(HEADS, -1, -1), X)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
