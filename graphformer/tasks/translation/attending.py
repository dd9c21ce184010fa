"""Which translator it is, who attends to whom in it, and how strongly."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any, Literal

from graphformer.models.recurrent import AttentionalLSTM
from graphformer.models.sequence import Size, Transformer
from graphformer.models.stack import LINEAR, make_feed_forward
from graphformer.tasks.fitting import check_edges, check_score, check_width

# The translators by the names of their classes, as the files of a model have them.
KINDS = {kind.__name__: kind for kind in (Transformer, AttentionalLSTM)}


@dataclass(frozen=True)
class Encoder:
    """The source: who attends to whom there.

    Attributes:
        topology: who attends to whom, such as "window(8) | global_tokens(1)", whose global token
            is the first of each sentence.
        score: how strongly, such as "Rotary(DotProduct())" or "Gaussian()".
        feed_forward: what follows, linear() or, over 3 tokens, convolution(3).
    """

    topology: str = "complete()"
    score: str = "DotProduct()"
    feed_forward: str = LINEAR


@dataclass(frozen=True)
class Decoder:
    """The target: who attends to whom there, of those before.

    Attributes:
        topology: who attends to whom; of any topology the causal part.
        score: how strongly.
        feed_forward: what follows, linear() or, over the last 3 tokens, convolution(3).
    """

    topology: str = "causal()"
    score: str = "DotProduct()"
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
        positions: sinusoidal, or none where the scores know positions.
        encoder: of the source.
        decoder: of the target.
        cross: of the target to the source.
    """

    model: Literal["transformer", "lstm"] = "transformer"
    positions: Literal["sinusoidal", "none"] = "sinusoidal"
    encoder: Encoder = Encoder()
    decoder: Decoder = Decoder()
    cross: Cross = Cross()

    def completed(self, size: Size) -> Attending:
        """The same, with the score that suits the model where none was given."""
        if self.cross.score is not None:
            return self
        score = f"Bahdanau({size.heads})" if self.model == "lstm" else "DotProduct()"
        return replace(self, cross=Cross(score))

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
                    raise _no_place(name, getattr(size, name))
            return
        check_width("dim", size.dim, size.heads)
        for name, part in (("encoder", self.encoder), ("decoder", self.decoder)):
            check_score(f"{name}.score", part.score, size.heads)
            check_edges(f"{name}.topology", part.topology, [])
            try:
                make_feed_forward(part.feed_forward, size, causal=name == "decoder")
            except ValueError as error:
                raise ValueError(f"{name}.feed_forward: {error}") from error

    def make_model(self, vocabulary: int | tuple[int, int], size: Size) -> Translating:
        """The model, with fresh weights."""
        if self.model == "lstm":
            return AttentionalLSTM(vocabulary, size, cross_score=self.cross.score)
        return Transformer(
            vocabulary,
            size,
            score=(self.encoder.score, self.decoder.score),
            cross_score=self.cross.score or "DotProduct()",
            positions=None if self.positions == "none" else self.positions,
            encoder_topology=self.encoder.topology,
            decoder_topology=self.decoder.topology,
            feed_forward=(self.encoder.feed_forward, self.decoder.feed_forward),
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
                    raise _no_place(start + each.name, value)
        if self.positions != bare.positions:
            raise _no_place("positions", self.positions)


Translating = Transformer | AttentionalLSTM


def _no_place(name: str, value: object) -> ValueError:
    return ValueError(
        f"{name} is {value}, and an LSTM reads its tokens one after another, with no graph among "
        "them: leave it out, or write --model transformer"
    )
