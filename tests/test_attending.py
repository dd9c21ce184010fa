"""Each setting of attention is in the model that it makes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import graphformer as gf
from graphformer.layers import ConvFeedForward, FeedForward
from graphformer.models.recurrent import AttentionalLSTM
from graphformer.models.sequence import Size, Transformer
from graphformer.tasks.translation.attending import Attending, Cross, Decoder, Encoder
from graphformer.tokens import sequences

SIZE = Size(dim=16, heads=4, layers=2, hidden=24)


def made(**settings: Any) -> Transformer:
    attending = Attending(**settings).completed(SIZE)
    attending.check_fits(SIZE)
    model = attending.make_model(9, SIZE)
    assert isinstance(model, Transformer)
    return model


def parts(model: Transformer, name: str) -> list[Any]:
    """The layers of this name, those of the encoder and of the decoder."""
    return [
        getattr(block, name).layer for blocks in (model.encoder, model.decoder) for block in blocks
    ]


def test_sinusoidal_it_is_the_transformer_as_it_was_told() -> None:
    model = made(positions="sinusoidal")
    assert {type(part) for part in parts(model, "feed_forward")} == {FeedForward}
    assert {repr(part.score) for part in parts(model, "attention")} == {"DotProduct()"}
    assert {repr(block.cross.layer.score) for block in model.decoder} == {"DotProduct()"}
    assert [repr(model.encoder_topology), repr(model.decoder_topology)] == [
        "complete()",
        "causal()",
    ]
    assert model.source.positions is not None


def test_scores_are_those_of_their_part() -> None:
    model = made(
        encoder=Encoder(score="Gaussian()"),
        decoder=Decoder(score="Cosine(4)"),
        cross=Cross("Mean()"),
    )
    scores = [type(part.score) for part in parts(model, "attention")]
    assert scores == [gf.Gaussian, gf.Gaussian, gf.Cosine, gf.Cosine]
    assert {type(block.cross.layer.score) for block in model.decoder} == {gf.Mean}


def test_topologies_are_those_of_their_part_and_the_decoder_takes_what_is_causal() -> None:
    sparse = "window(8) | global_tokens(1)"
    model = made(encoder=Encoder(sparse), decoder=Decoder(sparse))
    assert repr(model.encoder_topology) == sparse
    assert repr(model.decoder_topology) == f"({sparse}) & causal()"


def test_the_global_token_of_a_sentence_is_its_first() -> None:
    model = made(encoder=Encoder("window(1) | global_tokens(1)"))
    graph = model.encoder_topology.bind(sequences([torch.arange(6), torch.arange(2)]))
    heard = {key for key, query in graph.edge_index.T.tolist() if query == 4}
    assert heard == {0, 3, 4, 5}
    assert {key for key, query in graph.edge_index.T.tolist() if query == 0} == set(range(6))


def test_convolutions_are_those_of_their_part_and_causal_in_the_decoder() -> None:
    model = made(
        encoder=Encoder(feed_forward="convolution(3)"),
        decoder=Decoder(feed_forward=" convolution( kernel = 2 ) "),
    )
    layers = parts(model, "feed_forward")
    assert all(type(layer) is ConvFeedForward for layer in layers)
    assert [(layer.kernel, layer.causal) for layer in layers] == [(3, False)] * 2 + [(2, True)] * 2
    alone = made(decoder=Decoder(feed_forward="convolution(4)"))
    kinds = [type(layer) for layer in parts(alone, "feed_forward")]
    assert kinds == [FeedForward] * 2 + [ConvFeedForward] * 2


@pytest.mark.parametrize("settings", [{}, {"positions": "none"}, {"cross": Cross("Mean()")}])
def test_left_out_scores_turn_by_positions(settings: dict[str, Any]) -> None:
    model = made(**settings)
    assert {repr(part.score) for part in parts(model, "attention")} == {"Rotary(DotProduct())"}
    cross = settings["cross"].score if "cross" in settings else "DotProduct()"
    assert {repr(block.cross.layer.score) for block in model.decoder} == {cross}
    assert model.source.positions is None


@pytest.mark.parametrize(
    ("settings", "added"),
    [
        ({"encoder": Encoder(score="Gaussian()")}, True),
        ({"encoder": Encoder(score="Gaussian() + ALiBi(4)")}, False),
        ({"decoder": Decoder(score="DotProduct() + T5Bias(4)")}, False),
        ({"decoder": Decoder(score="DotProduct()")}, True),
        ({"decoder": Decoder(score="DotProduct()"), "positions": "none"}, False),
        ({"encoder": Encoder(score="Rotary(Cosine(4))"), "positions": "sinusoidal"}, True),
    ],
)
def test_positions_are_added_where_a_score_knows_none(
    settings: dict[str, Any], added: bool
) -> None:
    model = made(**settings)
    assert (model.source.positions is not None) == added
    usual = "DotProduct()" if added else "Rotary(DotProduct())"
    for name, layers in (("encoder", model.encoder), ("decoder", model.decoder)):
        expected = settings[name].score if name in settings else usual
        found = {repr(block.attention.layer.score) for block in layers}
        assert found == {repr(gf.Score.parse(expected))}


def test_heads_of_odd_width_are_not_turned() -> None:
    size = replace(SIZE, dim=12)
    model = Attending().make_model(9, size)
    assert isinstance(model, Transformer)
    assert {repr(part.score) for part in parts(model, "attention")} == {"DotProduct()"}
    assert model.source.positions is not None


@pytest.mark.parametrize(
    ("given", "expected"), [(None, "Bahdanau(4, dim=6)"), ("DotProduct()", "DotProduct()")]
)
def test_an_lstm_has_the_score_of_bahdanau_unless_it_is_given_one(
    given: str | None, expected: str
) -> None:
    attending = Attending("lstm", cross=Cross(given)).completed(SIZE)
    attending.check_fits(SIZE)
    model = attending.make_model((9, 7), SIZE)
    assert isinstance(model, AttentionalLSTM)
    assert repr(model.score) == expected
    assert model.output_weight.shape == (7, 16)


@pytest.mark.parametrize(
    ("attending", "message"),
    [
        (Attending("lstm", encoder=Encoder("window(2)")), r"encoder\.topology is window\(2\)"),
        (Attending("lstm", encoder=Encoder(score="Mean()")), r"encoder\.score is Mean\(\)"),
        (
            Attending("lstm", decoder=Decoder(feed_forward="convolution(3)")),
            r"decoder\.feed_forward is convolution\(3\)",
        ),
        (Attending("lstm", decoder=Decoder("window(2)")), r"decoder\.topology is window\(2\)"),
        (Attending("lstm", positions="none"), "positions is none"),
    ],
)
def test_an_lstm_is_given_nothing_that_it_has_no_place_for(
    attending: Attending, message: str
) -> None:
    with pytest.raises(ValueError, match=f"{message}, and an LSTM reads .*: leave it out"):
        attending.check_fits(SIZE)


@pytest.mark.parametrize("kernel", ["0", "-1", "x", ""])
def test_convolutions_read_at_least_one_token(kernel: str) -> None:
    attending = Attending(encoder=Encoder(feed_forward=f"convolution({kernel})"))
    with pytest.raises(ValueError, match=r"encoder\.feed_forward: unknown feed_forward 'convol"):
        attending.check_fits(SIZE)
