"""Which translator it is, who attends to whom in it, and how strongly."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

from graphformer.models.recurrent import AttentionalLSTM
from graphformer.models.sequence import Size, Transformer
from graphformer.models.stack import LINEAR, as_topology, causal_topology, make_feed_forward
from graphformer.scores import ALiBi, Rotary, Score, T5Bias
from graphformer.tasks.fitting import check_edges, check_score, check_width, named

# The translators by the names of their classes, as the files of a model have them.
KINDS = {kind.__name__: kind for kind in (Transformer, AttentionalLSTM)}


@dataclass(frozen=True)
class Encoder:
    """The source: who attends to whom there.

    Attributes:
        topology: who attends to whom, such as "window(8) | global_tokens(1)", whose global token
            is the first of each sentence.
        score: how strongly, such as "Gaussian()"; left out, Rotary(DotProduct()), or DotProduct()
            where positions are added to the tokens or heads have an odd width.
        feed_forward: what follows, linear() or, two convolutions of 3 tokens each, convolution(3).
    """

    topology: str = "complete()"
    score: str | None = None
    feed_forward: str = LINEAR


@dataclass(frozen=True)
class Decoder:
    """The target: who attends to whom there, of those before.

    Attributes:
        topology: who attends to whom; of any topology the causal part.
        score: how strongly; left out, as of the encoder.
        feed_forward: what follows, linear() or convolution(3), of those so far.
    """

    topology: str = "causal()"
    score: str | None = None
    feed_forward: str = LINEAR


@dataclass(frozen=True)
class Cross:
    """The target's attention to the source.

    Attributes:
        score: how strongly; left out, DotProduct(), and of an lstm Bahdanau(heads).
    """

    score: str | None = None


@dataclass(frozen=True)
class Attending:
    """Which model it is; who attends to whom in it, in the library's notation.

    Attributes:
        model: transformer, or lstm, the attentional LSTM that it replaced.
        positions: what is added to the tokens: sinusoidal, or none; left out, sinusoidal where a
            score of encoder or decoder is given that knows none itself.
        encoder: of the source.
        decoder: of the target.
        cross: of the target to the source.
    """

    model: Literal["transformer", "lstm"] = "transformer"
    positions: Literal["sinusoidal", "none"] | None = None
    encoder: Encoder = Encoder()
    decoder: Decoder = Decoder()
    cross: Cross = Cross()

    def completed(self, size: Size) -> Attending:
        """The same, with what suits the model where nothing was given.

        Raises:
            ValueError: if a score cannot be read.
        """
        if self.model == "lstm":
            return replace(self, cross=Cross(self.cross.score or f"Bahdanau({size.heads})"))
        parts = {"encoder.score": self.encoder.score, "decoder.score": self.decoder.score}
        given = {name: score for name, score in parts.items() if score}
        even = size.dim % (2 * size.heads) == 0  # others cannot be turned
        knowing = all(_knows_positions(*part) for part in given.items()) and (
            even or len(given) == 2
        )
        positions = self.positions or ("none" if knowing else "sinusoidal")
        usual = "Rotary(DotProduct())" if positions == "none" and even else "DotProduct()"
        encoder = replace(self.encoder, score=self.encoder.score or usual)
        decoder = replace(self.decoder, score=self.decoder.score or usual)
        cross = Cross(self.cross.score or "DotProduct()")
        return replace(self, positions=positions, encoder=encoder, decoder=decoder, cross=cross)

    def check_fits(self, size: Size) -> None:
        """Does nothing where a model of this size can attend so.

        Raises:
            ValueError: the heads do not fit, a notation cannot be read, a topology names edges,
                which sentences lack, or an LSTM is given what it has no place for.
        """
        if self.cross.score is not None:
            check_score("cross.score", self.cross.score, size.heads)
        if self.model == "lstm":
            check_width("hidden", size.hidden, size.heads)
            if size.hidden % 2:
                raise ValueError(
                    f"hidden is {size.hidden}, which both directions of an LSTM share: write an "
                    f"even number, such as {size.hidden + 1}"
                )
            self._check_bare()
            for name in ("attention_dropout", "activation_dropout", "norm_first"):
                if getattr(size, name) != getattr(Size, name):
                    raise _no_place(name, getattr(size, name), getattr(Size, name))
            return
        check_width("dim", size.dim, size.heads)
        for name, part in (("encoder", self.encoder), ("decoder", self.decoder)):
            if part.score is not None:
                check_score(f"{name}.score", part.score, size.heads)
            check_edges(f"{name}.topology", part.topology, [])
            with named(f"{name}.topology"):
                causal_topology(part.topology) if name == "decoder" else as_topology(part.topology)
            with named(f"{name}.feed_forward"):
                make_feed_forward(part.feed_forward, size, causal=name == "decoder")
        self._warn_of_bags()

    def make_model(self, vocabulary: int | tuple[int, int], size: Size) -> Translating:
        """The model, with fresh weights."""
        if self.model == "lstm":
            return AttentionalLSTM(vocabulary, size, cross_score=self.cross.score)
        whole = self.completed(size)
        assert whole.encoder.score is not None
        assert whole.decoder.score is not None
        return Transformer(
            vocabulary,
            size,
            score=(whole.encoder.score, whole.decoder.score),
            cross_score=whole.cross.score,
            positions=None if whole.positions == "none" else whole.positions,
            encoder_topology=self.encoder.topology,
            decoder_topology=self.decoder.topology,
            feed_forward=(self.encoder.feed_forward, self.decoder.feed_forward),
        )

    def _warn_of_bags(self) -> None:
        """Warns of an encoder to which the order of the words is nothing."""
        encoder = self.encoder
        if self.positions != "none" or encoder.score is None:
            return
        if _knows_positions("encoder.score", encoder.score):
            return
        if (encoder.topology, encoder.feed_forward) == (Encoder.topology, Encoder.feed_forward):
            warnings.warn(
                f"positions is none and encoder.score is {encoder.score}, which knows none either: "
                "the encoder cannot tell the order of words; write --positions sinusoidal, or a "
                "score that knows it, such as Rotary(DotProduct())",
                stacklevel=2,
            )

    def _check_bare(self) -> None:
        """Does nothing where all that an LSTM has no place for is as it is without being given."""
        bare = Attending()
        parts: list[tuple[str, Any, Any]] = [
            ("encoder.", self.encoder, bare.encoder),
            ("decoder.", self.decoder, bare.decoder),
        ]
        for start, part, default in parts:
            for each in dataclasses.fields(part):
                value = getattr(part, each.name)
                if value != getattr(default, each.name):
                    raise _no_place(start + each.name, value, getattr(default, each.name))
        if self.positions != bare.positions:
            raise _no_place("positions", self.positions, bare.positions)


Translating = Transformer | AttentionalLSTM


def _knows_positions(setting: str, score: str) -> bool:
    """Whether the score of a setting, in notation, depends on where query and key stand."""
    with named(setting):
        parsed = Score.parse(score)
    return any(isinstance(part, Rotary | ALiBi | T5Bias) for part in (parsed.core, *parsed.biases))


def _no_place(name: str, value: object, default: object) -> ValueError:
    without = "null" if default is None else default
    return ValueError(
        f"{name} is {value}, and an LSTM reads its tokens one after another, with no graph among "
        f"them: leave it out, or where a --config has it write --{name} {without}; or write "
        "--model transformer"
    )
