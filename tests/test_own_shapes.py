"""What a score of one's own makes is looked at before any kernel reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import graphformer as gf
from graphformer.backends import kernels

TOKENS, HEADS, DIM = 9, 4, 6
MISTAKES: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "short key": ("prepare_key", lambda x: x[..., :3].contiguous(), r"key has shape \[9, 4, 3\]"),
    "short query": ("prepare_query", lambda x: x[..., :3], r"key has .* need \[9, 4, 3\]"),
    "few heads": ("prepare_query", lambda x: x[:, :3], r"query has shape \[9, 3, 6\]"),
    "few keys": ("prepare_key", lambda x: x[:5], r"key has shape \[5, 4, 6\]"),
    "one more axis": (
        "key_term", lambda x: x.sum(-1, keepdim=True), r"key term has shape \[9, 4, 1\]"
    ),
    "one axis less": ("query_term", lambda x: x.sum((1, 2)), r"query term has shape \[9\]"),
    "no sum": ("key_term", lambda x: x.square(), r"key term has shape \[9, 4, 6\]"),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["dense", "sparse", "reference", "linear"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_misshapen_parts_are_refused_by_all_backends(mistake: str, backend: str) -> None:
    if backend == "sparse" and kernels.why_missing():
        pytest.skip(str(kernels.why_missing()))
    method, make, message = MISTAKES[mistake]

    class Own(gf.BilinearScore):
        pass

    setattr(Own, method, lambda self, x, side: make(x))
    graph = gf.complete().bind(gf.sequences([torch.zeros(TOKENS, 1)]))
    x = torch.randn(TOKENS, HEADS, DIM)
    normalize = "sum" if backend == "linear" else "softmax"
    with pytest.raises(ValueError, match=f"the score's {message}"):
        gf.attend(x, x, x, graph, Own(), normalize=normalize, backend=backend)


def test_keys_may_have_a_head_for_several_or_for_each() -> None:
    class Own(gf.BilinearScore):
        def __init__(self, heads: int) -> None:
            super().__init__()
            self.repeats = heads

        def key_term(self, key: Any, side: Any) -> Any:
            return key.sum(-1).repeat_interleave(self.repeats, 1)

    graph = gf.complete().bind(gf.sequences([torch.zeros(TOKENS, 1)]))
    query, key = torch.randn(TOKENS, HEADS, DIM), torch.randn(TOKENS, 2, DIM)
    found = [gf.attend(query, key, key, graph, Own(repeats)) for repeats in (1, 2)]
    torch.testing.assert_close(found[0], found[1])
