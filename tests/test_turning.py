"""Rotary positions by the kernel are those of plain steps, with gradients; nothing is saved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.func import jvp, vmap

import graphformer as gf
from graphformer.backends import kernels, turning
from graphformer.scores import rotary
from graphformer.scores.rotary import Turns

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(
    kernels.why_missing() is not None, reason=f"{kernels.why_missing()}"
)


def random_turns(tokens: int, width: int, dtype: torch.dtype = torch.float64) -> Turns:
    angle = torch.randn(tokens, width // 2, dtype=torch.float64)
    precise = torch.promote_types(dtype, torch.float32)
    return Turns(angle.cos().to(precise), angle.sin().to(precise))


@pytest.mark.parametrize("width", [2, 6, 16, 32, 42, 130])
@pytest.mark.parametrize("tokens", [0, 1, 700])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set_turns_as_plain_steps_do(
    tokens: int, width: int, dtype: torch.dtype, instruction_set: str
) -> None:
    x, turns = torch.randn(tokens, 3, width, dtype=dtype), random_turns(tokens, width, dtype)
    torch.testing.assert_close(turning.turn(x, turns), rotary.turn(x, turns))


def test_sixteen_bits_are_rounded_once() -> None:
    x = torch.randn(500, 4, 32, dtype=torch.bfloat16)
    turns = random_turns(500, 32)
    exact = rotary.turn(x.double(), turns)
    found = turning.turn(x, Turns(*(part.float() for part in turns)))
    assert ((found.double() - exact).abs() <= exact.abs() / 256 + 1e-6).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_part_of_a_projection_is_turned_where_it_lies(dtype: torch.dtype) -> None:
    projected = torch.randn(90, 3 * 24, dtype=dtype)
    part, turns = projected.split(24, -1)[1].view(90, 4, 6), random_turns(90, 6, dtype)
    torch.testing.assert_close(turning.turn(part, turns), rotary.turn(part, turns))
    turned_over = torch.randn(6, 4, 90, dtype=dtype).permute(2, 1, 0)
    expected = rotary.turn(turned_over, turns)
    torch.testing.assert_close(turning.turn(turned_over, turns), expected)


def test_gradients_are_turned_back_and_twice_differentiable() -> None:
    x, turns = torch.randn(5, 2, 6, dtype=torch.float64).requires_grad_(), random_turns(5, 6)
    assert torch.autograd.gradcheck(lambda x: turning.turn(x, turns), x)
    assert torch.autograd.gradgradcheck(lambda x: turning.turn(x, turns).pow(3), x)
    out = turning.turn(x, turns)
    (gradient,) = torch.autograd.grad(out, x, out)
    torch.testing.assert_close(gradient, x.detach())


def test_turning_is_transformed() -> None:
    x, tangent, turns = torch.randn(2, 5, 2, 6), torch.randn(5, 2, 6), random_turns(5, 6)
    turns = Turns(*(part.float() for part in turns))

    def turned(x: Tensor) -> Tensor:
        return turning.turn(x, turns)

    torch.testing.assert_close(vmap(turned)(x), torch.stack([turned(each) for each in x]))
    torch.testing.assert_close(jvp(turned, (x[0],), (tangent,))[1], turned(tangent))
    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(turned(forward_ad.make_dual(x[0], tangent)))
    torch.testing.assert_close(out.tangent, turned(tangent))


def test_turning_saves_nothing_of_a_layer() -> None:
    saved: list[Tensor] = []
    with saved_tensors_hooks(saved.append, lambda x: x):
        turning.turn(torch.randn(5, 2, 6).requires_grad_(), random_turns(5, 6, torch.float32))
    assert saved == []


def test_turning_is_an_operator() -> None:
    x, turns = torch.randn(5, 2, 6), random_turns(5, 6, torch.float32)
    for back in (False, True):
        torch.library.opcheck(torch.ops.graphformer.turn.default, (x, *turns, back))


def test_threads_do_not_matter() -> None:
    x, turns = torch.randn(3000, 4, 32), random_turns(3000, 32, torch.float32)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(turning.turn(x, turns))
    torch.set_num_threads(before)
    assert all(torch.equal(each, found[0]) for each in found)


@pytest.mark.parametrize("score", ["DotProduct()", "Cosine(2)", "Gaussian(2.0)", "Kernel()"])
def test_attention_with_and_without_the_kernel(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = gf.sequences([torch.randn(n, 12).double() for n in (5, 1, 8)])
    query, key, value = (tokens.x.view(-1, 2, 6) + shift for shift in range(3))
    turned = gf.Score.parse(f"Rotary(Rotary({score}, 50.0))")
    expected = None
    for missing in (None, "none"):
        monkeypatch.setattr(turning.kernels, "why_missing", lambda missing=missing: missing)
        out = gf.attend(query, key, value, gf.causal().bind(tokens), turned, backend="reference")
        expected = out if expected is None else expected
        torch.testing.assert_close(out, expected)


def test_angles_are_computed_once_for_all_layers() -> None:
    tokens = gf.sequences([torch.randn(n, 8) for n in (5, 3)])
    graph = gf.causal().bind(tokens)
    first, second = gf.Rotary(gf.DotProduct()), gf.Rotary(gf.Cosine(2))
    turns = first.turns(8, torch.float32, graph.query_side)
    assert second.turns(8, torch.bfloat16, graph.key_side) is turns
    assert first.turns(8, torch.float64, graph.query_side).sine.dtype == torch.float64
    assert gf.Rotary(gf.DotProduct(), 50.0).turns(8, torch.float32, graph.query_side) is not turns


def test_queries_and_keys_of_two_sides_are_turned_by_their_own_positions() -> None:
    sources = gf.sequences([torch.randn(n, 8) for n in (4, 6)])
    targets = gf.sequences([torch.randn(n, 8) for n in (3, 2)])
    graph = gf.complete().bind(targets, sources)
    score = gf.Rotary(gf.DotProduct())
    for side, tokens in ((graph.query_side, targets), (graph.key_side, sources)):
        turns = score.turns(8, torch.float64, side)
        frequency = 10000.0 ** -(torch.arange(4).double() / 4)
        torch.testing.assert_close(turns.cosine, (tokens.at[:, :1] * frequency).cos())
        torch.testing.assert_close(turns.sine, (tokens.at[:, :1] * frequency).sin())
