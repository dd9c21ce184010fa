"""Models of sequences: the Transformer that translates, and the causal language model."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.graph import TokenGraph
from graphformer.layers import Cache
from graphformer.layers.cache import join
from graphformer.models.pretrained import Pretrained
from graphformer.models.settings import described
from graphformer.models.stack import (
    LINEAR,
    Size,
    as_topology,
    causal_topology,
    last_norm,
    make_block,
    make_embedding,
    of_each,
    one_each,
    planned_once,
)
from graphformer.scores import Score
from graphformer.tokens import Tokens
from graphformer.topology import Topology, complete

__all__ = ["Graphs", "LanguageModel", "Size", "Transformer"]


class Graphs(NamedTuple):
    """Who attends to whom in a translation, bound to one batch.

    Attributes:
        encoder: source tokens to source tokens.
        decoder: target tokens to target tokens.
        cross: target tokens to source tokens.
    """

    encoder: TokenGraph
    decoder: TokenGraph
    cross: TokenGraph


class Transformer(Pretrained):
    """An encoder and a decoder: logits of each next target token, given the source.

    Args:
        vocabulary: number of ids; one table of vectors then serves source, target and output. Of a
            pair (source, target) there are three tables.
        size: how wide and deep.
        score: how strongly a query attends to a key, or its notation; each layer has a copy. A pair
            is the encoder's and the decoder's.
        cross_score: the same for target tokens that attend to the source, where distances may mean
            nothing; the decoder's where left out.
        positions: "sinusoidal", "Learned(512)", a module from positions to vectors, or None where
            the score knows positions.
        encoder_topology: who attends to whom in the source, or its notation.
        decoder_topology: the same in the target, cut to what is causal.
        feed_forward: "linear()", or "convolution(3)" over 3 tokens, in the decoder of those so far;
            a pair is the encoder's and the decoder's.

    Raises:
        ValueError: if a notation cannot be read, or a decoder could not go on by its topology.

    Source: Vaswani et al. 2017 (1706.03762).
    """

    def __init__(
        self,
        vocabulary: int | tuple[int, int],
        size: Size | None = None,
        *,
        score: Score | str | tuple[Score | str, Score | str] = "DotProduct()",
        cross_score: Score | str | None = None,
        positions: nn.Module | str | None = "sinusoidal",
        encoder_topology: Topology | str = "complete()",
        decoder_topology: Topology | str = "causal()",
        feed_forward: str | tuple[str, str] = LINEAR,
    ) -> None:
        super().__init__()
        size = size or Size()
        self.settings = described(
            vocabulary=vocabulary,
            size=size,
            score=score,
            cross_score=cross_score,
            positions=positions,
            encoder_topology=encoder_topology,
            decoder_topology=decoder_topology,
            feed_forward=feed_forward,
        )
        self.encoder_topology = as_topology(encoder_topology)
        self.decoder_topology = causal_topology(decoder_topology)
        if isinstance(vocabulary, int):
            self.source = self.target = make_embedding(vocabulary, size, positions)
            self.output = None
        else:
            self.source, self.target = (make_embedding(ids, size, positions) for ids in vocabulary)
            self.output = nn.Linear(size.dim, vocabulary[1], bias=False)
        scores, converts = of_each(score), of_each(feed_forward)
        cross_score = scores[1] if cross_score is None else cross_score
        self.encoder = nn.ModuleList(
            make_block(size, scores[0], feed_forward=converts[0]) for _ in range(size.layers)
        )
        planned_once(self.encoder)
        self.encoder_norm = last_norm(size)
        self.decoder = nn.ModuleList(
            make_block(size, scores[1], cross_score, converts[1], causal=True)
            for _ in range(size.layers)
        )
        planned_once(self.decoder)
        self.decoder_norm = last_norm(size)

    def forward(
        self, source: Tokens, target: Tokens, graphs: Graphs | None = None
    ) -> Float[Tensor, "token vocabulary"]:
        """Logits of the token that follows each target token."""
        return self.logits(self.hidden(source, target, graphs))

    def hidden(
        self, source: Tokens, target: Tokens, graphs: Graphs | None = None
    ) -> Float[Tensor, "token dim"]:
        """What `logits` maps to logits: few numbers a token where the vocabulary is large."""
        encoder, decoder, cross = graphs or self.bind(source, target)
        return self.decode(target, self.encode(source, encoder), decoder, cross)

    def bind(self, source: Tokens, target: Tokens) -> Graphs:
        """The graphs of a batch, for who makes them ahead: in a worker, or for compiled code."""
        encoder = self.encoder_topology.bind(source)
        decoder = self.decoder_topology.bind(target)
        return Graphs(encoder, decoder, complete().bind(decoder.queries, encoder.queries))

    def encode(self, source: Tokens, graph: TokenGraph | None = None) -> Tokens:
        """The source tokens as the decoder reads them."""
        graph = graph or self.encoder_topology.bind(source)
        x = self.source(source)
        for block in self.encoder:
            x = block(x, graph)
        return source.with_x(self.encoder_norm(x))

    def decode(
        self,
        target: Tokens,
        memory: Tokens,
        graph: TokenGraph | None = None,
        cross: TokenGraph | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "token dim"]:
        """What `logits` maps to logits, for target tokens that attend to a memory.

        Args:
            target: ids of all target tokens so far, or with a cache of the new ones.
            memory: the encoded source. With a cache it may have fewer examples: each then serves as
                many of the target's, one after another.
            graph: who attends to whom in the target; bound here where left out.
            cross: the same for the source.
            cache: what was decoded before.
        """
        if cache is not None:
            target = cache.extend(target, self.decoder_topology)
            graph = cache.bind(self.decoder_topology, target)
            cross = cache.bind_memory(target, memory)
        graph = graph or self.decoder_topology.bind(target)
        cross = cross or complete().bind(join(target, memory.num_examples), memory)
        x = self.target(target)
        for block in self.decoder:
            x = block(x, graph, memory.x, cross, cache)
        return self.decoder_norm(x)

    def logits(self, hidden: Float[Tensor, "token dim"]) -> Float[Tensor, "token vocabulary"]:
        """Logits over the target ids."""
        return F.linear(hidden, self.output_weight)

    @property
    def output_weight(self) -> Float[Tensor, "vocabulary dim"]:
        """What hidden states are multiplied with; the target's vectors where all are one table."""
        return self.target.weight if self.output is None else self.output.weight

    def start(self, source: Tokens, begin: int) -> tuple[Tokens, Tokens]:
        """The first target token of each sentence, and the memory: where a search starts."""
        return one_each(source, begin), self.encode(source)


class LanguageModel(Pretrained):
    """A decoder alone: logits of each next token, with one table of vectors for input and output.

    Args:
        vocabulary: number of ids.
        size: how wide and deep.
        score: how strongly a query attends to a key, or its notation; each layer has a copy.
        positions: "sinusoidal", "Learned(512)", a module from positions to vectors, or None where
            the score knows positions.
        topology: who attends to whom, or its notation, cut to what is causal.
        feed_forward: "linear()", or "convolution(3)" over 3 tokens so far.

    Raises:
        ValueError: if a notation cannot be read, or a decoder could not go on by its topology.

    Source: Radford et al. 2018, Improving Language Understanding by Generative Pre-Training.
    """

    def __init__(
        self,
        vocabulary: int,
        size: Size | None = None,
        *,
        score: Score | str = "DotProduct()",
        positions: nn.Module | str | None = "sinusoidal",
        topology: Topology | str = "causal()",
        feed_forward: str = LINEAR,
    ) -> None:
        super().__init__()
        size = size or Size()
        self.settings = described(
            vocabulary=vocabulary,
            size=size,
            score=score,
            positions=positions,
            topology=topology,
            feed_forward=feed_forward,
        )
        self.topology = causal_topology(topology)
        self.embedding = make_embedding(vocabulary, size, positions)
        self.blocks = nn.ModuleList(
            make_block(size, score, feed_forward=feed_forward, causal=True)
            for _ in range(size.layers)
        )
        planned_once(self.blocks)
        self.norm = last_norm(size)

    def forward(
        self, tokens: Tokens, graph: TokenGraph | None = None
    ) -> Float[Tensor, "token vocabulary"]:
        """Logits of the token that follows each token."""
        return self.logits(self.decode(tokens, graph=graph))

    def decode(
        self,
        tokens: Tokens,
        memory: None = None,
        graph: TokenGraph | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "token dim"]:
        """What `logits` maps to logits.

        Args:
            tokens: ids of all tokens so far, or with a cache of the new ones.
            memory: there is none.
            graph: who attends to whom; bound here where left out.
            cache: what was decoded before.
        """
        if cache is not None:
            tokens = cache.extend(tokens, self.topology)
            graph = cache.bind(self.topology, tokens)
        graph = graph or self.topology.bind(tokens)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, graph, cache=cache)
        return self.norm(x)

    def logits(self, hidden: Float[Tensor, "token dim"]) -> Float[Tensor, "token vocabulary"]:
        """Logits over the ids."""
        return F.linear(hidden, self.output_weight)

    @property
    def output_weight(self) -> Float[Tensor, "vocabulary dim"]:
        """What hidden states are multiplied with: the vectors of the ids."""
        return self.embedding.weight

    def start(self, source: Tokens, begin: int | None = None) -> tuple[Tokens, None]:
        """The prompts themselves, and no memory: where a search starts."""
        return source, None
