"""Swaps drop-ins into a model that is there already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch_geometric.nn
from torch import nn
from torch_geometric.nn.conv import MessagePassing

from graphformer.backends import kernels
from graphformer.nn import drop_in, multihead_attention
from graphformer.nn.gat_conv import GATConv
from graphformer.nn.gatv2_conv import GATv2Conv
from graphformer.nn.gcn_conv import GCNConv
from graphformer.nn.multihead_attention import MultiheadAttention
from graphformer.nn.transformer_conv import TransformerConv

DROP_INS: dict[Any, Any] = {
    torch_geometric.nn.TransformerConv: TransformerConv,
    torch_geometric.nn.GATConv: GATConv,
    torch_geometric.nn.GATv2Conv: GATv2Conv,
    torch_geometric.nn.GCNConv: GCNConv,
    nn.MultiheadAttention: MultiheadAttention,
}
# What sends messages, with a drop-in or without.
SENDERS = (MessagePassing, nn.MultiheadAttention)


@dataclass(frozen=True)
class Swaps:
    """What `accelerate` did; print it.

    Attributes:
        swapped: the layers that now run on our backends, by their names in the model.
        left: the others of PyG's and torch's that send messages, each with the reason.
    """

    swapped: dict[str, nn.Module] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)}, left {len(self.left)}"]
        names = [name or "the model" for name in (*self.swapped, *self.left)]
        width = max(map(len, names), default=0)
        said = [*(str(module).split("(\n")[0] for module in self.swapped.values())]
        said += [f"left: {why}" for why in self.left.values()]
        lines += [f"  {name:<{width}}  {text}" for name, text in zip(names, said, strict=True)]
        missing = kernels.why_missing()
        if self.swapped and missing is not None:
            lines.append(f"  note: without kernels little is gained: {missing}")
        return "\n".join(lines)


def accelerate(model: nn.Module) -> Swaps:
    """The layers of a model that have a drop-in now are one, in place, each with its own weights.

    A layer stays the object that it was, with its parameters, buffers, mode, device and places in
    the model: it changes its class, and with it `forward` alone. So optimizers, `state_dict`s and
    names stay valid. Layers whose results might differ are left, and the result says why:
    subclasses, layers with hooks, an active explainer, settings that no drop-in has. So are layers
    of PyG that have no drop-in, and those that no kernel is for: on a GPU, or in float16.

    Args:
        model: a model with layers of PyG or torch, or such a layer.

    Returns:
        What was swapped and what was left, to be printed.

    Raises:
        TypeError: if it is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"accelerate() got a {type(model).__name__}: write accelerate(model) with a "
            "torch.nn.Module, whose layers it swaps in place"
        )
    swaps = Swaps()
    for name, module in model.named_modules():
        kind: Any = type(module)
        if kind in DROP_INS.values() or not isinstance(module, SENDERS):
            continue
        reason = _why_left(module)
        if reason is not None:
            swaps.left[name] = reason
            continue
        module.__class__ = DROP_INS[kind]
        swaps.swapped[name] = module
    return swaps


def _why_left(module: nn.Module) -> str | None:
    """Why a layer of PyG or torch stays as it is, or None where a drop-in takes its place."""
    kind: Any = type(module)
    if not any(isinstance(module, each) for each in DROP_INS):
        return f"{kind.__name__} has no drop-in"
    if kind not in DROP_INS:
        return f"{kind.__name__} is a subclass, which may compute something else"
    if any(getattr(module, name) for name in drop_in.HOOKS):
        return "it has hooks"
    if "forward" in vars(module):
        return "it has a forward of its own"
    if isinstance(module, MessagePassing):
        return drop_in.why_not(module) or drop_in.why_no_kernel(module)
    assert isinstance(module, nn.MultiheadAttention)
    return multihead_attention.why_not(module)
