"""What the tests of the drop-ins share: PyG's layers to compare with, and how to compare."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch_geometric.nn as pyg
from cases import error
from torch import Tensor, nn

import graphformer.nn as ours
from graphformer.nn import drop_in

NAMES = ("TransformerConv", "GATConv", "GATv2Conv", "GCNConv")
IN_DIM, EDGE_DIM = 5, 3
# Each layer without features of the edges, and with them where it takes any.
LAYERS = [("GCNConv", False), *((name, edges) for name in NAMES[:3] for edges in (False, True))]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def draw_numbers(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


def with_numbers(layer: nn.Module) -> nn.Module:
    """The layer in float64, each of its parameters with values that are not zero."""
    layer = layer.double()
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.5)
    return layer


def make_pair(name: str, *args: Any, **kwargs: Any) -> tuple[nn.Module, nn.Module]:
    """The drop-in and PyG's layer, with the same weights, in float64."""
    theirs = with_numbers(getattr(pyg, name)(*args, **kwargs))
    drop = getattr(ours, name)(*args, **kwargs).double()
    drop.load_state_dict(theirs.state_dict())
    return drop, theirs


def layer_settings(name: str, with_edges: bool, heads: int = 2) -> dict[str, Any]:
    """Heads and width of the edge features of a layer, where it knows any."""
    if name == "GCNConv":
        return {}
    return {"heads": heads, "edge_dim": EDGE_DIM if with_edges else None}


@contextmanager
def attending() -> Iterator[None]:
    """What runs inside runs through `attend`, and not through what PyG computes itself."""
    with patch.object(drop_in, "attend", wraps=drop_in.attend) as spy:
        yield
    assert spy.called, "the call was left to PyG"


Call = Callable[[nn.Module, Mapping[str, Tensor]], Any]


def agree(
    pair: tuple[nn.Module, nn.Module],
    call: Call,
    inputs: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float64,
) -> None:
    """Ours gives in `dtype` what PyG's gives in float64: outputs, and gradients of everything."""
    drop, theirs = pair
    with attending():
        found = _differentiated(copy.deepcopy(drop).to(dtype), call, inputs, dtype)
    expected = _differentiated(theirs, call, inputs, torch.float64)
    # What cancels to nothing has errors of the size of what it was made of.
    least = 0.1 * max((float(part.norm()) for part in expected.values()), default=0.0)
    errors = {name: error(part, expected[name], max(least, 1e-30)) for name, part in found.items()}
    assert found.keys() == expected.keys()
    assert all(value <= TOLERANCE[dtype] for value in errors.values()), errors


def _differentiated(
    layer: nn.Module, call: Call, inputs: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    leaves = {name: x.to(dtype).clone().requires_grad_() for name, x in inputs.items()}
    result = call(layer, leaves)
    parts = _tensors(result)
    named = {**leaves, **dict(layer.named_parameters())}
    loss = sum((part.double() * (1 + torch.arange(part.numel()).view(part.shape) % 5)).sum()
               for part in parts)  # fmt: skip
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    found = {f"part {number}": part.detach() for number, part in enumerate(parts)}
    return found | {
        f"gradient of {name}": torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(named.items(), gradients, strict=True)
    }


def _tensors(result: Any) -> list[Tensor]:
    """The output, and the weights where there are any; edges, which are integers, are compared."""
    if isinstance(result, Tensor):
        return [result]
    out, (_, weights) = result
    return [out, weights]
