"""Second derivatives, transforms of functions and checkpoints of drop-ins: as in PyG and torch.

Or they are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from drop_in_cases import LAYERS, draw_numbers, layer_settings, make_pair, with_numbers
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import graphformer.nn as ours
from graphformer.backends import executors, kernels
from graphformer.nn import masks

NEEDS_KERNELS = pytest.mark.skipif(
    kernels.why_missing() is not None, reason=str(kernels.why_missing())
)

EDGE_INDEX = torch.tensor([[0, 1, 2, 3, 3, 1], [1, 2, 0, 3, 0, 0]])
BOND = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WIDTH, HEADS = 8, 2
MISSING = kernels.why_missing()
PADDING = torch.tensor([False, False, True, False])

Function = Callable[[Tensor], Tensor]


def tangent(function: Function, x: Tensor) -> Tensor:
    """Forward mode without `torch.func`."""
    with forward_ad.dual_level():
        found: Tensor = forward_ad.unpack_dual(function(forward_ad.make_dual(x, x.cos()))).tangent
    return found


def second_derivative(function: Function, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(leaf).square().sum(), leaf, create_graph=True)
    return torch.autograd.grad(first.square().sum(), leaf)[0]


TRANSFORMS: dict[str, Callable[[Function, Tensor], Tensor]] = {
    "grad": lambda function, x: torch.func.grad(lambda x: function(x).square().sum())(x),
    "vmap": lambda function, x: torch.vmap(function)(torch.stack([x, -2 * x])),
    "jvp": lambda function, x: torch.func.jvp(function, (x,), (x.cos(),))[1],
    "jacrev": lambda function, x: torch.func.jacrev(function)(x),
    "hessian": lambda function, x: torch.func.hessian(lambda x: function(x).square().sum())(x),
    "tangent": tangent,
}


def layer_pair(name: str, with_edges: bool, **settings: Any) -> tuple[nn.Module, nn.Module]:
    return make_pair(name, WIDTH, 4, **layer_settings(name, with_edges), **settings)


def attention_pair(**settings: Any) -> tuple[nn.Module, nn.Module]:
    theirs = with_numbers(nn.MultiheadAttention(WIDTH, HEADS, **settings))
    drop = ours.MultiheadAttention(WIDTH, HEADS, **settings).double()
    drop.load_state_dict(theirs.state_dict())
    return drop, theirs


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("name", "with_edges"), LAYERS)
def test_transforms_give_what_they_give_in_pyg(name: str, with_edges: bool, transform: str) -> None:
    bond = (BOND,) if with_edges else ()
    x, run = draw_numbers(4, WIDTH), TRANSFORMS[transform]
    found, expected = (
        run(lambda x, layer=layer: layer(x, EDGE_INDEX, *bond), x)
        for layer in layer_pair(name, with_edges)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.parametrize(("name", "with_edges"), LAYERS)
def test_second_derivatives_of_convolutions_are_refused_by_name(
    name: str, with_edges: bool
) -> None:
    layer = layer_pair(name, with_edges)[0]
    bond = (BOND,) if with_edges else ()
    with pytest.raises(RuntimeError, match=r"no double backward.* keep PyG's layer"):
        second_derivative(lambda x: layer(x, EDGE_INDEX, *bond), draw_numbers(4, WIDTH))


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "with_edges"), LAYERS)
def test_exported_convolutions_run_as_in_pyg(name: str, with_edges: bool) -> None:
    drop, theirs = layer_pair(name, with_edges)
    given = (draw_numbers(4, WIDTH), EDGE_INDEX, *((BOND,) if with_edges else ()))
    exported = torch.export.export(drop, given).module()
    torch.testing.assert_close(exported(*given), theirs(*given))


def torchs(layer: nn.Module, **asked: Any) -> Function:
    return lambda x: layer(x, x, x, **asked)[0]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("need_weights", [False, True], ids=["", "weights"])
@pytest.mark.filterwarnings("ignore:There is a performance drop.*batching rule:UserWarning")
def test_transforms_give_what_they_give_in_torch(
    need_weights: bool, padded: bool, transform: str
) -> None:
    x, run = draw_numbers(4, WIDTH), TRANSFORMS[transform]
    asked = {"need_weights": need_weights, "key_padding_mask": PADDING if padded else None}
    drop, theirs = attention_pair()
    if transform in ("jvp", "hessian", "tangent") and not need_weights:
        for layer in (drop, theirs):
            with pytest.raises(NotImplementedError, match=r"forward AD.*_scaled_dot_product"):
                run(torchs(layer, **asked), x)
        return
    found, expected = (run(torchs(layer, **asked), x) for layer in (drop, theirs))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("executor", "need_weights", "refusal"),
    [
        ("sdpa", False, "_scaled_dot_product.*backward is not implemented"),
        ("matmul", False, "matrix products have no double backward.* keep torch's layer"),
        pytest.param(
            "tiles", False, "no double backward.* keep torch's layer", marks=NEEDS_KERNELS
        ),
        ("", True, None),
    ],
)
def test_second_derivatives_of_torchs_attention_work_or_are_refused_by_name(
    executor: str, need_weights: bool, refusal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "choose", lambda *_: executor)
    # A graph that is remembered has its plan already.
    monkeypatch.setattr(masks, "_plain", masks._plain.__wrapped__)
    drop, theirs = attention_pair()
    x, asked = draw_numbers(4, WIDTH), {"need_weights": need_weights}
    if refusal is not None:
        with pytest.raises(RuntimeError, match=refusal):
            second_derivative(torchs(drop, **asked), x)
        return
    found, expected = (second_derivative(torchs(layer, **asked), x) for layer in (drop, theirs))
    torch.testing.assert_close(found, expected)


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("need_weights", [False, True], ids=["", "weights"])
def test_exported_attention_runs_as_in_torch(need_weights: bool, padded: bool) -> None:
    drop, theirs = attention_pair()
    x = draw_numbers(4, WIDTH)
    asked = {"need_weights": need_weights, "key_padding_mask": PADDING if padded else None}
    exported = torch.export.export(drop, (x, x, x), asked).module()
    expected = theirs(x, x, x, **asked)
    for found, part in zip(exported(x, x, x, **asked), expected, strict=True):
        torch.testing.assert_close(found, part)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", [*dict(LAYERS), "MultiheadAttention"])
def test_checkpoints_replay_dropout(name: str, reentrant: bool) -> None:
    if name == "MultiheadAttention":
        call = torchs(attention_pair(dropout=0.5)[0], need_weights=False)
    else:
        settings = {} if name == "GCNConv" else {"dropout": 0.5}
        layer = layer_pair(name, name != "GCNConv", **settings)[0]
        bond = () if name == "GCNConv" else (BOND,)
        call = lambda x: layer(x, EDGE_INDEX, *bond)  # noqa: E731
    x, results = draw_numbers(4, WIDTH), []
    for recomputed in (False, True):
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        out = checkpoint(call, leaf, use_reentrant=reentrant) if recomputed else call(leaf)
        out.square().sum().backward()
        results.append([out.detach(), leaf.grad])
    for kept, replayed in zip(*results, strict=True):
        assert torch.equal(kept, replayed)
