"""Second derivatives, transforms of functions and export: each works or is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graphformer as gf
from graphformer.backends import executors, kernels
from graphformer.tokens import sequences

DOT, BIASED = gf.DotProduct(), gf.DotProduct() + gf.ALiBi(2)
LONGFORMER = gf.window(2) | gf.global_tokens(1)

# Backend, executor of dense, topology, score, normalize.
WAYS: dict[str, tuple[str, str, gf.Topology, gf.Score, str]] = {
    "reference": ("reference", "", gf.window(2), BIASED, "softmax"),
    "dense in steps": ("dense", "", LONGFORMER, BIASED, "softmax"),
    "sdpa": ("dense", "sdpa", gf.causal(), DOT, "softmax"),
    "matmul": ("dense", "matmul", gf.complete(), DOT, "softmax"),
    "tiles": ("dense", "tiles", gf.complete(), DOT, "softmax"),
    "band": ("band", "", LONGFORMER, DOT, "softmax"),
    "linear": ("linear", "", gf.causal(), gf.Kernel(), "sum"),
    "sparse": ("sparse", "", gf.window(2), DOT, "softmax"),
}
NO_FORWARD_MODE = "forward AD.*_scaled_dot_product"
NO_FUNCTIONS = r"sparse backend does not run under torch\.func; write .*backend='reference'"
# What does not work, and the words that say so; all else works.
REFUSED: dict[tuple[str, str], str] = {
    ("sdpa", "second derivative"): "_scaled_dot_product.*backward is not implemented",
    ("band", "second derivative"): "_scaled_dot_product.*backward is not implemented",
    ("matmul", "second derivative"): "matrix products have no double backward.*'reference'",
    ("tiles", "second derivative"): "kernel has no double backward.*'reference'",
    ("sparse", "second derivative"): "sparse backend has no double backward.*'reference'",
    ("sdpa", "jvp"): NO_FORWARD_MODE,
    ("band", "jvp"): NO_FORWARD_MODE,
    **{("sparse", transform): NO_FUNCTIONS for transform in ("grad", "vmap", "jvp")},
}

Function = Callable[[Tensor], Tensor]


def second_derivative(loss: Function, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf).square().sum(), leaf, create_graph=True)
    return torch.autograd.grad(first.square().sum(), leaf)[0]


def functional_gradient(attend: Function, x: Tensor) -> Tensor:
    return torch.func.grad(lambda x: attend(x).square().sum())(x)


def vectorized(attend: Function, x: Tensor) -> Tensor:
    return torch.vmap(attend)(torch.stack([x, -2 * x]))


def forward_mode(attend: Function, x: Tensor) -> Tensor:
    return torch.func.jvp(attend, (x,), (x.cos(),))[1]


def exported(attend: Function, x: Tensor) -> Tensor:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return attend(x)

    attend(x)
    found: Tensor = torch.export.export(Model(), (x,), strict=True).module()(x)
    return found


TRANSFORMS: dict[str, Callable[[Function, Tensor], Tensor]] = {
    "second derivative": second_derivative,
    "grad": functional_gradient,
    "vmap": vectorized,
    "jvp": forward_mode,
    "export": exported,
}


def attention(way: str, backend: str, dropout: float = 0.0) -> Function:
    """Self-attention of one tensor over a ragged batch."""
    _, _, topology, score, normalize = WAYS[way]
    graph = topology.bind(sequences([torch.zeros(4, 1), torch.zeros(6, 1)]))
    other = torch.randn(2, 10, 2, 4, generator=torch.Generator().manual_seed(1)).double()

    def attend(x: Tensor) -> Tensor:
        out = gf.attend(x, other[0] + x, other[1], graph, score, normalize, dropout, None, backend)
        assert isinstance(out, Tensor)
        return out

    return attend


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(name, marks=pytest.mark.compiled) if name == "export" else name
        for name in TRANSFORMS
    ],
)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:There is a performance drop.*batching rule:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
def test_transforms_agree_with_reference_or_are_refused(
    way: str, transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, executor, *_ = WAYS[way]
    if way in ("sparse", "tiles") and kernels.why_missing():
        pytest.skip("the kernels are not built")
    monkeypatch.setattr(executors, "choose", lambda *_: executor)
    x = torch.randn(10, 2, 4, dtype=torch.float64)
    run, refusal = TRANSFORMS[transform], REFUSED.get((way, transform))
    if refusal is not None:
        with pytest.raises((RuntimeError, NotImplementedError), match=refusal):
            run(attention(way, backend), x)
        return
    expected = run(attention(way, "reference"), x)
    torch.testing.assert_close(run(attention(way, backend), x), expected)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_activation_checkpointing_replays_dropout(
    way: str, reentrant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, executor, *_ = WAYS[way]
    if way in ("sparse", "tiles") and kernels.why_missing():
        pytest.skip("the kernels are not built")
    monkeypatch.setattr(executors, "choose", lambda *_: executor)
    # What forgets its weights has no dropout of them.
    dropout = 0.0 if backend == "linear" else 0.5
    attend, x = attention(way, backend, dropout), torch.randn(10, 2, 4, dtype=torch.float64)
    results = []
    for recomputed in (False, True):
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        out = checkpoint(attend, leaf, use_reentrant=reentrant) if recomputed else attend(leaf)
        out.square().sum().backward()
        results.append([out.detach(), leaf.grad])
    for kept, replayed in zip(*results, strict=True):
        assert torch.equal(kept, replayed)
