"""The translator that the Transformer replaced: LSTMs, and attention on a bipartite graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from graphformer.attend import attend
from graphformer.backends import Attended
from graphformer.graph import TokenGraph
from graphformer.layers.cache import Cache, Parts, one_query_each, sequences_per_source
from graphformer.layers.dropout import Dropout
from graphformer.models.packing import time_major
from graphformer.models.pretrained import Pretrained
from graphformer.models.settings import described
from graphformer.models.stack import (
    Size,
    make_embedding,
    make_score,
    one_each,
)
from graphformer.scores import Score
from graphformer.tokens import Tokens
from graphformer.topology import self_loops


class Hidden(NamedTuple):
    """What the decoder carries from one token to the next.

    Attributes:
        state: of each of its cells.
        cell: their memory.
    """

    state: Float[Tensor, "sequence layer hidden"]
    cell: Float[Tensor, "sequence layer hidden"]


class AttentionalLSTM(Pretrained):
    """An LSTM that reads both ways, and one that writes and attends to it before each token.

    One query a target sequence attends to all of its source: a bipartite graph, which is bound
    once and serves every token.

    Args:
        vocabulary: number of ids; one table of vectors then serves source, target and output. Of a
            pair (source, target) there are three tables.
        size: how wide and deep: `dim` is the width of the vectors, `hidden` that of the LSTMs,
            which both directions share in the encoder.
        cross_score: how strongly the state of the decoder attends to a source token, or its
            notation; `Bahdanau(heads)` where left out.

    Raises:
        ValueError: if the heads and both directions do not divide `hidden` evenly.

    Source: Bahdanau et al. 2015 (1409.0473), appendix A, with LSTMs for its gated units.
    """

    def __init__(
        self,
        vocabulary: int | tuple[int, int],
        size: Size | None = None,
        *,
        cross_score: Score | str | None = None,
    ) -> None:
        super().__init__()
        size = size or Size()
        cross_score = f"Bahdanau({size.heads})" if cross_score is None else cross_score
        self.settings = described(vocabulary=vocabulary, size=size, cross_score=cross_score)
        dim, hidden, self.heads = size.dim, size.hidden, size.heads
        if hidden % size.heads or hidden % 2:
            raise ValueError(
                f"hidden is {hidden}, which two directions and {size.heads} heads are to divide "
                "evenly; write a multiple of both"
            )
        if isinstance(vocabulary, int):
            self.source = self.target = make_embedding(vocabulary, size, None)
            self.table = None
        else:
            self.source, self.target = (make_embedding(ids, size, None) for ids in vocabulary)
            self.table = nn.Linear(dim, vocabulary[1], bias=False)
        between = size.dropout if size.layers > 1 else 0.0
        self.reader = nn.LSTM(dim, hidden // 2, size.layers, dropout=between, bidirectional=True)
        self.first = nn.Linear(hidden // 2, size.layers * hidden)
        self.key, self.query = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.score = make_score(cross_score)
        self.score.set_head_dim(hidden // size.heads)
        widths = [dim + hidden] + [hidden] * (size.layers - 1)
        self.writer = nn.ModuleList(nn.LSTMCell(width, hidden) for width in widths)
        self.output = nn.Linear(dim + 2 * hidden, dim)
        self.dropout = Dropout(size.dropout)

    def forward(
        self, source: Tokens, target: Tokens, graph: TokenGraph | None = None
    ) -> Float[Tensor, "token vocabulary"]:
        """Logits of the token that follows each target token."""
        return self.logits(self.hidden(source, target, graph))

    def hidden(
        self, source: Tokens, target: Tokens, graph: TokenGraph | None = None
    ) -> Float[Tensor, "token dim"]:
        """What `logits` maps to logits: few numbers a token where the vocabulary is large."""
        return self.decode(target, self.encode(source), graph)

    # What is bound is nobody's business but `hidden`'s: for a Transformer it is three graphs.
    def bind(self, source: Tokens, target: Tokens) -> Any:
        """The graph of a batch, for who makes it ahead."""
        count = sequences_per_source(target.num_examples, source.num_examples)
        return one_query_each(source, count)

    def encode(self, source: Tokens) -> Tokens:
        """The source tokens as the decoder reads them, forward and backward.

        Raises:
            ValueError: if an example has no token, of which an LSTM has nothing to say.
        """
        if int(source.lengths.min()) < 1:
            empty = int(source.lengths.argmin())
            raise ValueError(
                f"example {empty} of the source has no token, and an LSTM reads at least one; "
                "leave it out, or end each sentence with a token of its own"
            )
        order, sizes = time_major(source)
        read, _ = self.reader(PackedSequence(self.source(source).index_select(0, order), sizes))
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)).to(order))
        return source.with_x(read.data.index_select(0, back))

    def decode(
        self,
        target: Tokens,
        memory: Tokens,
        graph: TokenGraph | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "token dim"]:
        """What `logits` maps to logits, for target tokens that attend to a memory.

        Args:
            target: ids of all target tokens so far, or with a cache of the new ones.
            memory: the encoded source. With a cache it may have fewer examples: each then serves as
                many of the target's, one after another.
            graph: the sources that each sequence attends to; bound here where left out.
            cache: what was decoded before.
        """
        return self._decode(target, memory, graph, cache, None)

    @torch.no_grad()
    def align(self, source: Tokens, target: Tokens) -> list[Float[Tensor, "_ _"]]:
        """For each example the weights [target token, source token] with which it was attended to.

        They are those of the attention that tells the token after each of the target's, averaged
        over its heads, on the CPU.

        Raises:
            ValueError: if the model is in training mode.

        Source: Bahdanau et al. 2015 (1409.0473), section 5.2.1.
        """
        if self.training:
            raise ValueError("the model is training, with dropout on; call model.eval() first")
        seen: list[Tensor] = []
        self._decode(target, self.encode(source), None, None, seen)
        steps = [each.mean(1).cpu().split(source.lengths.tolist()) for each in seen]
        rows = zip(target.lengths.tolist(), zip(*steps, strict=True), strict=True)
        return [torch.stack(parts[:length]) for length, parts in rows]

    def _decode(
        self,
        target: Tokens,
        memory: Tokens,
        graph: TokenGraph | None,
        cache: Cache | None,
        seen: list[Tensor] | None,
    ) -> Float[Tensor, "token dim"]:
        """See `decode`; `seen` gets the weights [edge, head] of each step."""
        count = sequences_per_source(target.num_examples, memory.num_examples)
        if cache is not None:
            # Nobody hears the tokens themselves: no slot is kept of those before.
            target = cache.extend(target, self_loops())
            graph = graph or cache.bind_states(memory)
        graph = graph or one_query_each(memory, count)
        hidden = self._recall(memory, count, cache)
        key = self._keys(memory, cache)
        words, there = target.with_x(self.target(target)).padded()
        whole = bool((target.lengths == target.lengths[0]).all())
        outputs = []
        for step in range(words.shape[1]):
            context = self._attend(hidden, key, memory, graph, seen)
            moved = self._move(torch.cat([words[:, step], context], 1), hidden)
            outputs.append(torch.cat([words[:, step], context, moved.state[:, -1]], 1))
            # Beyond the end of a sequence nobody reads its state, unless it is to go on from there.
            keeps = cache is not None and not whole
            hidden = _where(there[:, step], moved, hidden) if keeps else moved
        if cache is not None:
            cache.keep(self, hidden)
        if not outputs:
            return words.new_zeros(0, self.output.out_features)
        example = target.layout.example
        rows = torch.arange(len(example)).to(example) - target.ptr[example]
        rows = rows + example * words.shape[1]
        out = torch.stack(outputs, 1).flatten(0, 1).index_select(0, rows)
        return self.dropout(torch.tanh(self.output(self.dropout(out))))

    def logits(self, hidden: Float[Tensor, "token dim"]) -> Float[Tensor, "token vocabulary"]:
        """Logits over the target ids."""
        return nn.functional.linear(hidden, self.output_weight)

    @property
    def output_weight(self) -> Float[Tensor, "vocabulary dim"]:
        """What hidden states are multiplied with; the target's vectors where all are one table."""
        return self.target.weight if self.table is None else self.table.weight

    def start(self, source: Tokens, begin: int) -> tuple[Tokens, Tokens]:
        """The first target token of each sentence, and the memory: where a search starts."""
        return one_each(source, begin), self.encode(source)

    def _recall(self, memory: Tokens, count: int, cache: Cache | None) -> Hidden:
        """What the decoder kept; at first, a function of the source read backward to its start."""
        kept = None if cache is None else cache.recall(self)
        if kept is not None:
            state, cell = kept
            assert state is not None
            assert cell is not None
            return Hidden(state, cell)
        starts = memory.x.index_select(0, memory.ptr[:-1])
        backward = starts[:, starts.shape[1] // 2 :]
        state = torch.tanh(self.first(backward)).unflatten(1, (len(self.writer), -1))
        state = state.repeat_interleave(count, 0)
        return Hidden(state, torch.zeros_like(state))

    def _keys(self, memory: Tokens, cache: Cache | None) -> Float[Tensor, "token head dim"]:
        def make() -> Parts:
            return (self.key(memory.x).unflatten(1, (self.heads, -1)),)

        (key,) = make() if cache is None else cache.once(self, make)
        assert key is not None
        return key

    def _attend(
        self,
        hidden: Hidden,
        key: Tensor,
        memory: Tokens,
        graph: TokenGraph,
        seen: list[Tensor] | None,
    ) -> Float[Tensor, "sequence hidden"]:
        query = self.query(hidden.state[:, -1]).unflatten(1, (self.heads, -1))
        value = memory.x.unflatten(1, (self.heads, -1))
        context = attend(query, key, value, graph, self.score, return_weights=seen is not None)
        if isinstance(context, Attended):
            assert seen is not None
            assert context.weights is not None
            seen.append(context.weights)
            context = context.out
        return context.flatten(1)

    def _move(self, x: Tensor, hidden: Hidden) -> Hidden:
        """The state after one more token, cell above cell."""
        states, cells = [], []
        for layer, cell in enumerate(self.writer):
            x = self.dropout(x) if layer else x
            x, inner = cell(x, (hidden.state[:, layer], hidden.cell[:, layer]))
            states.append(x)
            cells.append(inner)
        return Hidden(torch.stack(states, 1), torch.stack(cells, 1))


def _where(chosen: Tensor, new: Hidden, old: Hidden) -> Hidden:
    which = chosen.view(-1, 1, 1)
    return Hidden(*(torch.where(which, one, other) for one, other in zip(new, old, strict=True)))
