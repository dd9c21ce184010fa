"""Greedy decoding: each next token is the likeliest."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from graphformer.models.decode.state import Decoder, State, kept_of, limits_of
from graphformer.tokens import Tokens


@torch.no_grad()
def greedy(
    model: Decoder, source: Tokens, *, begin: int, end: int, max_length: int | Tensor = 256
) -> list[Int[Tensor, "_"]]:
    """For each example the ids that follow when each next token is the likeliest, on the CPU.

    Args:
        model: a `Transformer` or an `AttentionalLSTM`, or a `LanguageModel`, whose prompts are the
            source.
        source: ids of the sentences.
        begin: id that a target begins with; a language model does not read it.
        end: id at which a sequence ends; it is not returned.
        max_length: most tokens to decode, end included, or those of each example [example].

    Raises:
        ValueError: if the model is in training mode, where dropout is on, or there is nothing to
            go on from.
    """
    state, limits = State(model, source, begin), limits_of(max_length, source)
    size = source.num_examples
    live, done = torch.arange(size), torch.zeros(size, dtype=torch.bool)
    columns: list[Tensor] = []
    while True:
        (new,) = state.of_logits(lambda logits, rows: (logits.argmax(1),))
        new = new.masked_fill(done, end)
        columns.append(torch.full((size,), end).index_copy_(0, live, new))
        done = done | (new == end) | (len(columns) >= limits[live])
        if bool(done.all()):
            break
        kept = kept_of(done)
        if kept is not None:
            live, done, new = live[kept], done[kept], new[kept]
        alone = new.unsqueeze(1)
        state.go_on(alone, torch.zeros_like(alone), kept)
    table = torch.stack(columns, 1)
    return [row[row != end] for row in table]
