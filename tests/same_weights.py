"""Two ways to compute the same with the same weights: outputs and gradients are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from cases import assert_close, gradients
from torch import Tensor, nn

import graphformer as gf


def with_weights(module: nn.Module, **weights: Tensor) -> nn.Module:
    """The module with tensors of another layer in place of its parameters."""
    for name, weight in weights.items():
        delattr(module, name)
        setattr(module, name, weight)
    return module


def differentiated(make: Callable[[], Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `make` gives, and its gradients by name."""
    attended = gf.Attended(make())
    return {"out": attended.out.detach(), **gradients(attended, inputs)}


def compare(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], **inputs: Tensor) -> None:
    """Outputs and gradients agree, those of the inputs and those of all weights."""
    expected = differentiated(theirs, inputs)
    assert max(float(part.abs().max()) for part in expected.values()) > 0
    assert_close(differentiated(ours, inputs), expected, 1e-10)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    """Its parameters, each with a value that is not zero."""
    named = {name.replace(".", "_"): weight for name, weight in module.named_parameters()}
    for weight in named.values():
        nn.init.normal_(weight, std=0.5)
    return named


def leaf(*size: int) -> Tensor:
    return torch.randn(*size, requires_grad=True)


def copied(ours: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The layer with all its parameters replaced."""
    ours.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()})
    return ours


def compare_layers(
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    x: Tensor,
    weights: Mapping[Tensor, Tensor],
) -> None:
    """Outputs and gradients agree; `weights` says which of ours is which of theirs."""
    names = [f"weight {number}" for number in range(len(weights))]
    found = differentiated(ours, {"x": x, **dict(zip(names, weights.keys(), strict=True))})
    expected = differentiated(theirs, {"x": x, **dict(zip(names, weights.values(), strict=True))})
    shaped = {name: part.view(found[name].shape) for name, part in expected.items()}
    assert_close(found, shaped, 1e-10)
