"""Training drop-ins twice from one seed gives the same bits, dropout and two threads included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from drop_in_cases import EDGE_DIM, LAYERS, attending, layer_settings
from torch import Tensor, nn

import graphformer.nn as ours


def trained(make: Callable[[], nn.Module], call: Callable[[nn.Module], Tensor]) -> list[Tensor]:
    """The weights after three steps."""
    torch.manual_seed(3)
    layer = make()
    optimizer = torch.optim.Adam(layer.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        call(layer).square().mean().backward()
        optimizer.step()
    return [weight.detach() for weight in layer.parameters()]


@pytest.mark.parametrize(("name", "with_edges"), LAYERS)
@pytest.mark.usefixtures("two_threads")
def test_training_repeats_bit_for_bit(name: str, with_edges: bool) -> None:
    """A hub on either side, whose edges are shared by the threads."""
    assert not torch.are_deterministic_algorithms_enabled()
    edge_index = torch.randint(300, (2, 6000))
    edge_index[0, :2500] = edge_index[1, 2000:4500] = 7
    chosen = layer_settings(name, with_edges)
    chosen |= {} if name == "GCNConv" else {"dropout": 0.3}
    given = (torch.randn(300, 16), edge_index)
    given += (torch.randn(6000, EDGE_DIM),) if with_edges else ()

    def run() -> list[Tensor]:
        # A layer binds its graph anew, so that nothing is left of the first run.
        edges = edge_index.clone()
        return trained(
            lambda: getattr(ours, name)(16, 16, **chosen),
            lambda layer: layer(given[0], edges, *given[2:]),
        )

    with attending():
        first = run()
    for weight, other in zip(first, run(), strict=True):
        assert torch.equal(weight, other)


@pytest.mark.parametrize("masked", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("need_weights", [False, True], ids=["", "weights"])
@pytest.mark.usefixtures("two_threads")
def test_training_with_torchs_attention_repeats_bit_for_bit(
    need_weights: bool, masked: bool
) -> None:
    x = torch.randn(4, 50, 32)
    padding = torch.arange(50) >= torch.tensor([50, 13, 1, 0])[:, None] if masked else None

    def run() -> list[Tensor]:
        asked = {"key_padding_mask": padding, "need_weights": need_weights}
        return trained(
            lambda: ours.MultiheadAttention(32, 4, dropout=0.3, batch_first=True),
            lambda layer: layer(x, x, x, **asked)[0],
        )

    for weight, other in zip(run(), run(), strict=True):
        assert torch.equal(weight, other)
