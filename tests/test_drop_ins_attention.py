"""The drop-in for torch's attention: its results for all masks, and zero where nothing is heard."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from cases import error
from drop_in_cases import draw_numbers, with_numbers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import graphformer.nn as ours
from graphformer.nn import multihead_attention

WIDTH, HEADS = 8, 2
DTYPES = {torch.float64: 1e-10, torch.float32: 1e-5}


@contextmanager
def attending() -> Iterator[Any]:
    """What runs inside runs through `attend`."""
    attend = multihead_attention.attend
    with patch.object(multihead_attention, "attend", wraps=attend) as spy:
        yield spy
    assert spy.called


def make_pair(**settings: Any) -> tuple[nn.Module, nn.Module]:
    theirs = with_numbers(nn.MultiheadAttention(WIDTH, HEADS, **settings))
    drop = ours.MultiheadAttention(WIDTH, HEADS, **settings).double()
    drop.load_state_dict(theirs.state_dict())
    return drop, theirs


def as_numbers(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(mask, -torch.inf)


def draw_mask(*size: int) -> Tensor:
    """True where nothing is heard; the first key is always."""
    mask = torch.rand(size) < 0.4
    mask[..., 0] = False
    return mask


MASKS = {
    "none": lambda sizes: None,
    "pairs": lambda sizes: draw_mask(*sizes[1:]),
    "by head": lambda sizes: draw_mask(sizes[0] * HEADS, *sizes[1:]),
    "causal": lambda sizes: torch.ones(sizes[1:], dtype=torch.bool).triu(1),
}
PADDINGS = {
    "none": lambda sizes: None,
    "anywhere": lambda sizes: draw_mask(sizes[0], sizes[2]),
    "at the end": lambda sizes: torch.arange(sizes[2]) > torch.arange(sizes[0])[:, None],
}
NUMBERS = {
    "bool": lambda mask: mask,
    "infinite": as_numbers,
    "finite": lambda mask: as_numbers(mask) + draw_numbers(*mask.shape),
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], list[Tensor]]:
    """Settings of a layer, arguments of a call, and query, key and value."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    settings = draw(
        st.fixed_dictionaries(
            {"batch_first": st.booleans(), "bias": st.booleans()},
            optional={"kdim": st.just(5), "vdim": st.just(3)},
        )
    )
    batched = draw(st.booleans())
    sizes = (draw(st.integers(1, 3)) if batched else 1, *draw(st.tuples(*[st.integers(1, 5)] * 2)))
    numbers = NUMBERS[draw(st.sampled_from(list(NUMBERS)))]
    which = draw(st.sampled_from(list(MASKS)))
    mask, padding = MASKS[which](sizes), PADDINGS[draw(st.sampled_from(list(PADDINGS)))](sizes)
    if padding is not None and not batched:
        padding = padding[0]
    arguments = {
        "attn_mask": None if mask is None else numbers(mask),
        "key_padding_mask": None if padding is None else numbers(padding),
        "is_causal": which == "causal" and numbers is not NUMBERS["finite"] and draw(st.booleans()),
        "need_weights": draw(st.booleans()),
        "average_attn_weights": draw(st.booleans()),
    }
    lengths, widths = (sizes[1], sizes[2], sizes[2]), (WIDTH, settings.get("kdim", WIDTH))
    widths = (*widths, settings.get("vdim", WIDTH))
    given = [draw_numbers(sizes[0], n, width) for n, width in zip(lengths, widths, strict=True)]
    if not batched:
        given = [x[0] for x in given]
    elif not settings["batch_first"]:
        given = [x.transpose(0, 1) for x in given]
    return settings, arguments, given


def differentiated(
    layer: nn.Module, given: list[Tensor], arguments: dict[str, Any]
) -> list[Tensor]:
    dtype = next(layer.parameters()).dtype
    leaves = [x.to(dtype).requires_grad_() for x in given]
    arguments = {
        name: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x
        for name, x in arguments.items()
    }
    out, weights = layer(*leaves, **arguments)
    gradients = torch.autograd.grad(out.square().sum(), [*leaves, *layer.parameters()])
    parts = [out, *gradients, *([] if weights is None else [weights])]
    return [part.detach() for part in parts]


@given(call=calls(), dtype=st.sampled_from(list(DTYPES)))
def test_attention_agrees(call: Any, dtype: torch.dtype) -> None:
    settings, arguments, given = call
    drop, theirs = make_pair(**settings)
    found = differentiated(copy.deepcopy(drop).to(dtype), given, arguments)
    expected = differentiated(theirs, given, arguments)
    least = 0.1 * max(float(part.norm()) for part in expected)
    errors = [error(part, other, least) for part, other in zip(found, expected, strict=True)]
    assert max(errors) <= DTYPES[dtype], errors


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("which", ["none", "pairs", "causal"])
def test_self_attention_runs_through_attend(which: str, batch_first: bool) -> None:
    drop, theirs = make_pair(batch_first=batch_first)
    x = draw_numbers(3, 5, WIDTH) if batch_first else draw_numbers(5, 3, WIDTH)
    mask = MASKS[which]((3, 5, 5))
    arguments = {"attn_mask": mask, "is_causal": which == "causal", "need_weights": False}
    with attending():
        found = drop(x, x, x, **arguments)
    torch.testing.assert_close(found[0], theirs(x, x, x, **arguments)[0], rtol=1e-9, atol=1e-9)
    assert found[1] is None


def test_text_and_weights_are_those_of_torch() -> None:
    drop, theirs = make_pair()
    assert str(drop) == str(theirs)
    assert isinstance(drop, nn.MultiheadAttention)
    assert drop.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(drop.state_dict())
    for other in (copy.deepcopy(drop), pickle.loads(pickle.dumps(drop))):
        assert type(other) is ours.MultiheadAttention


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("numbers", [*NUMBERS.values()], ids=list(NUMBERS))
@pytest.mark.parametrize("by", ["padding", "pairs", "by head", "both"])
def test_a_query_without_keys_hears_exactly_nothing(
    by: str, numbers: Any, need_weights: bool
) -> None:
    drop, _ = make_pair(batch_first=True)
    query, key = (draw_numbers(2, 3, WIDTH).requires_grad_() for _ in range(2))
    padding, mask = torch.zeros(2, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    silent = torch.zeros(2, 3, dtype=torch.bool)
    if by in ("padding", "both"):
        padding[0] = silent[0] = True
    if by != "padding":
        mask[1] = silent[:, 1] = True
    if by == "by head":
        mask = mask.expand(2 * HEADS, 3, 3).clone()
    out, weights = drop(
        query, key, key,
        key_padding_mask=numbers(padding) if by in ("padding", "both") else None,
        attn_mask=numbers(mask) if by != "padding" else None,
        need_weights=need_weights,
    )  # fmt: skip
    assert torch.equal(out[silent], drop.out_proj.bias.expand(int(silent.sum()), -1))
    assert out[~silent].isfinite().all()
    if weights is not None:
        assert (weights[silent] == 0).all()
    gradient, _ = torch.autograd.grad(out.square().sum(), [query, key])
    assert (gradient[silent] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_drops_while_training_alone(need_weights: bool) -> None:
    drop, theirs = make_pair(dropout=0.5)
    x = draw_numbers(40, 1, WIDTH)
    expected, _ = theirs.eval()(x, x, x)
    found, weights = drop(x, x, x, need_weights=need_weights, average_attn_weights=False)
    assert not torch.allclose(found, expected)
    if weights is not None:
        assert 0.4 < float((weights == 0).double().mean()) < 0.6
    found, _ = drop.eval()(x, x, x, need_weights=need_weights)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_dropout_of_everything_leaves_nothing() -> None:
    drop, _ = make_pair(dropout=1.0)
    x = draw_numbers(4, 2, WIDTH)
    for need_weights in (True, False):
        out, _ = drop(x, x, x, need_weights=need_weights)
        assert torch.equal(out, drop.out_proj.bias.expand_as(out))


@pytest.mark.parametrize("settings", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_settings_without_a_drop_in_run_as_in_torch(settings: dict[str, Any]) -> None:
    drop, theirs = make_pair(**settings)
    x = draw_numbers(4, 2, WIDTH)
    for found, expected in zip(drop(x, x, x), theirs(x, x, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "arguments",
    [
        {"is_causal": True},
        {"attn_mask": torch.zeros(3, 3, dtype=torch.bool)},
        {"key_padding_mask": torch.zeros(3, 3, dtype=torch.bool)},
        {"attn_mask": torch.zeros(4, 4, dtype=torch.int64)},
    ],
    ids=lambda arguments: ", ".join(arguments),
)
def test_what_is_wrong_is_refused_as_in_torch(arguments: dict[str, Any]) -> None:
    drop, theirs = make_pair()
    x = draw_numbers(4, 2, WIDTH)
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs(x, x, x, **arguments)
    with pytest.raises(expected.type, match=re.escape(str(expected.value))):
        drop(x, x, x, **arguments)


def test_the_edges_of_a_mask_are_counted_once_for_all_examples() -> None:
    mask = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    with attending() as spy:
        drop = ours.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        drop(*[torch.randn(3, 5, WIDTH)] * 3, attn_mask=mask, need_weights=False)
    graph = spy.call_args.args[3]
    assert graph.num_edges == 3 * int((~mask).sum()) == graph.edge_index.shape[1]


def test_masks_are_bound_once_for_all_layers() -> None:
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, HEADS, 8, dropout=0.0, batch_first=True), 2
    ).double()
    theirs, x = copy.deepcopy(encoder), draw_numbers(2, 5, WIDTH)
    padding = torch.arange(5) >= torch.tensor([[5], [3]])
    assert len(ours.accelerate(encoder).swapped) == 2
    with attending() as spy:
        found = encoder(x, src_key_padding_mask=padding)
    assert len({id(call.args[3]) for call in spy.call_args_list}) == 1
    expected = theirs(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding], rtol=1e-9, atol=1e-9)


def test_an_accelerated_decoder_is_the_decoder() -> None:
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 8, dropout=0.0, batch_first=True)
    decoder = nn.TransformerDecoder(layer, 2).double()
    theirs, x, memory = copy.deepcopy(decoder), draw_numbers(2, 5, WIDTH), draw_numbers(2, 4, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    ours.accelerate(decoder)
    with attending() as spy:
        found = decoder(x, memory, tgt_mask=mask)
    assert spy.call_count == 4
    torch.testing.assert_close(found, theirs(x, memory, tgt_mask=mask), rtol=1e-9, atol=1e-9)


def test_a_mask_changed_in_place_is_read_anew() -> None:
    drop, theirs = make_pair()
    x, mask = draw_numbers(4, 2, WIDTH), torch.zeros(4, 4, dtype=torch.float64)
    for _ in range(2):
        found, _ = drop(x, x, x, attn_mask=mask, need_weights=False)
        expected, _ = theirs(x, x, x, attn_mask=mask, need_weights=False)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        mask[1:, 0] = 3.0
        mask[0, 1] = -torch.inf
