"""Maps and sums that are written into large pages are those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear

from graphformer.backends import kernels
from graphformer.nn import linear_maps
from graphformer.nn.linear_maps import mapped, plus, plus_map

pytestmark = pytest.mark.skipif(
    kernels.why_missing() is not None, reason=str(kernels.why_missing())
)


@pytest.fixture(autouse=True)
def always_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes few numbers for many."""
    torch.manual_seed(0)
    monkeypatch.setattr(kernels, "LARGE", 1)
    monkeypatch.setattr(linear_maps, "SMALLEST", 1)


@pytest.fixture
def maps() -> list[Linear]:
    return [Linear(5, 7, bias=False).double(), Linear(5, 3).double(), Linear(5, 7).double()]


def random(*size: int, **options: bool) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, **options)


def parameters(maps: list[Linear]) -> list[Tensor]:
    return [parameter for each in maps for parameter in each.parameters()]


def is_own(x: Tensor) -> bool:
    names = ("_MapsBackward", "_PlusBackward", "_PlusMapBackward")
    return x.grad_fn is not None and x.grad_fn.name() in names


def test_maps_give_what_torch_gives(maps: list[Linear]) -> None:
    x = random(11, 5, requires_grad=True)
    found, expected = mapped(x, *maps), [each(x) for each in maps]
    assert all(is_own(part) for part in found)
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other)
    outside = [random(*part.shape) for part in found]
    leaves = [x, *parameters(maps)]
    gradients = torch.autograd.grad(found, leaves, outside)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves, outside))


@pytest.mark.parametrize("reads_leaf", [True, False])
def test_gradients_may_be_columns_of_one_tensor(maps: list[Linear], reads_leaf: bool) -> None:
    x = random(11, 5, requires_grad=reads_leaf)
    maps[2].weight.requires_grad_(False)
    outside = random(11, 17).split([7, 3, 7], 1)
    leaves = [leaf for leaf in (x, *parameters(maps)) if leaf.requires_grad]
    gradients = torch.autograd.grad(mapped(x, *maps), leaves, outside)
    expected = torch.autograd.grad([each(x) for each in maps], leaves, outside)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("index", [0, 2], ids=["no bias", "bias"])
def test_a_map_is_added_to_what_is_there(maps: list[Linear], index: int) -> None:
    out, x = random(11, 7, requires_grad=True), random(11, 5, requires_grad=True)
    found, expected = plus_map(out, x, maps[index]), out + maps[index](x)
    assert is_own(found)
    torch.testing.assert_close(found, expected)
    outside = random(11, 7)
    leaves = [out, x, *maps[index].parameters()]
    gradients = torch.autograd.grad(found, leaves, outside)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves, outside))
    assert torch.autograd.gradgradcheck(lambda *given: plus_map(*given, maps[index]), (out, x))


def test_a_map_that_nothing_depends_on_gets_no_gradient(maps: list[Linear]) -> None:
    x = random(11, 5)
    first, *_ = mapped(x, *maps)
    first.sum().backward()
    assert maps[0].weight.grad is not None
    assert all(parameter.grad is None for parameter in parameters(maps[1:]))
    assert x.grad is None


def test_maps_have_second_derivatives(maps: list[Linear]) -> None:
    x = random(4, 5, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: tuple(mapped(x, *maps)), x)


def test_hooks_of_a_map_are_called(maps: list[Linear]) -> None:
    seen: list[Tensor] = []
    maps[1].register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    found = mapped(random(11, 5), *maps)
    assert not any(is_own(part) for part in found)
    assert seen[0] is found[1]


def test_a_map_of_another_class_is_called(maps: list[Linear]) -> None:
    class Doubled(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    x, doubled = random(11, 5), Doubled(5, 7).double()
    found = mapped(x, maps[0], doubled)[1]
    torch.testing.assert_close(found, 2 * Linear.forward(doubled, x))


def test_maps_under_autocast_are_those_of_torch(maps: list[Linear]) -> None:
    maps = [each.float() for each in maps]
    with torch.autocast("cpu", torch.bfloat16):
        found = mapped(torch.randn(11, 5), *maps)
    assert all(part.dtype is torch.bfloat16 for part in found)


def test_small_maps_are_those_of_torch(maps: list[Linear], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_maps, "SMALLEST", 11 * 7 * 8 + 1)
    assert not any(is_own(part) for part in mapped(random(11, 5), *maps))


@pytest.mark.parametrize("shape", [(11, 5), (5,)], ids=["all", "a row for all"])
def test_sums_give_what_torch_gives(shape: tuple[int, ...]) -> None:
    leaves = [random(11, 5, requires_grad=True), random(*shape, requires_grad=True)]
    assert is_own(plus(*leaves))
    torch.testing.assert_close(plus(*leaves), leaves[0] + leaves[1])
    assert torch.autograd.gradcheck(plus, leaves)
    assert torch.autograd.gradgradcheck(plus, leaves)


def test_maps_ask_for_large_pages(maps: list[Linear], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def expect_writes(x: Tensor) -> Tensor:
        asked.append(x.numel())
        return x

    monkeypatch.setattr(linear_maps.kernels, "expect_writes", expect_writes)
    x = random(11, 5, requires_grad=True)
    plus(*mapped(x, maps[0], maps[2])).sum().backward()
    # Two maps in one, their sum, and the one gradient of what both read.
    assert asked == [154, 77, 55]
