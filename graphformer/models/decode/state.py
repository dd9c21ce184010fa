"""A model under way: its memory, its cache, and what it says of the tokens that may follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graphformer.layers import Cache
from graphformer.tokens import Tokens

# Sequences whose logits are made at a time: many, which share what a product first does to its
# weights, and yet few megabytes, which the search then reads from the caches.
ROWS = 512
# Examples that are done are dropped when they are so many of all: it costs a copy of the rest.
MOST_DONE = 0.2


@runtime_checkable
class Decoder(Protocol):
    """What a search needs of a model: a model of `graphformer.models` that decodes has it."""

    training: bool

    def start(self, source: Tokens, begin: int) -> tuple[Tokens, Tokens | None]: ...

    def decode(self, *tokens_and_memory: Any, **cache: Any) -> Float[Tensor, "token dim"]: ...

    def logits(self, hidden: Float[Tensor, "token dim"]) -> Float[Tensor, "token vocabulary"]: ...


class Hypothesis(NamedTuple):
    """A decoded sequence.

    Attributes:
        ids: its ids, without those of begin and end.
        score: its log-probability, end included, over its number of tokens to the power of the
            length penalty, in nats.
    """

    ids: Int[Tensor, "token"]
    score: float


class State:
    """A model with its cache and its memory, one step after another.

    Args:
        model: the model.
        source: ids of the sentences.
        begin: id that a target begins with.

    Raises:
        ValueError: if the model is in training mode, or there is nothing to go on from.
    """

    def __init__(self, model: Decoder, source: Tokens, begin: int) -> None:
        if model.training:
            raise ValueError("the model is training, with dropout on; call model.eval() first")
        self.model = model
        self.new, self.memory = model.start(source, begin)
        if int(self.new.lengths.min()) < 1:
            empty = int(self.new.lengths.argmin())
            raise ValueError(
                f"example {empty} has no token to go on from; give each prompt at least one, such "
                "as that of a beginning"
            )
        self.cache = Cache(source.num_examples, device=source.x.device)

    def of_logits(
        self, read: Callable[[Float[Tensor, "row vocabulary"], slice], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What `read` makes of the logits of the token that follows each sequence, on the CPU.

        Args:
            read: called with the logits of some sequences, and with which ones they are.
        """
        hidden = self.model.decode(self.new, self.memory, cache=self.cache)
        hidden = hidden.index_select(0, self.new.ptr[1:] - 1)
        parts = []
        for start in range(0, hidden.shape[0], ROWS):
            rows = slice(start, start + ROWS)
            parts.append(read(self.model.logits(hidden[rows]), rows))
        return tuple(torch.cat(each).cpu() for each in zip(*parts, strict=True))

    def go_on(
        self,
        ids: Int[Tensor, "example sequence"],
        parents: Int[Tensor, "example sequence"],
        kept: Int[Tensor, "example"] | None,
    ) -> None:
        """Goes on with these ids behind these sequences, of these examples or of all."""
        device = self.new.x.device
        if kept is not None:
            kept = kept.to(device)
            self.cache.select(kept)
            if self.memory is not None:
                self.memory, rows = _examples(self.memory, kept)
                self.cache.select_memory(rows)
        if parents.shape[1] > 1 or self.cache.num_sequences > 1:
            self.cache.fork(parents)
        flat = ids.flatten().to(device)
        ptr = torch.arange(flat.numel() + 1, device=device)
        ones = torch.ones(flat.numel(), dtype=torch.int64)
        self.new = Tokens(flat, ptr, torch.zeros_like(ptr[1:]).unsqueeze(1), ones)


def check_count(name: str, count: object) -> None:
    """Does nothing where `count` is a whole number of at least 1.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{name} is {count}: write a whole number of at least 1")


def limits_of(max_length: int | Tensor, source: Tokens) -> Int[Tensor, "example"]:
    """The most tokens of each example.

    Raises:
        ValueError: if one is to have none, or they are not whole numbers, one an example.
    """
    limits, size = torch.as_tensor(max_length).cpu(), source.num_examples
    if limits.is_floating_point() or limits.shape not in ((), (size,)):
        raise ValueError(
            f"max_length is {limits.dtype} of shape {list(limits.shape)}: give whole numbers, one "
            f"or [{size}], one an example"
        )
    if int(limits.min()) < 1:
        raise ValueError(f"max_length is at least 1 token, it is {int(limits.min())}")
    return limits.expand(size)


def kept_of(done: Bool[Tensor, "example"]) -> Int[Tensor, "kept"] | None:
    """The examples to go on with where enough are done to drop them, None for all."""
    if int(done.sum()) <= MOST_DONE * done.numel():
        return None
    return (~done).nonzero().squeeze(1)


def _examples(tokens: Tokens, index: Int[Tensor, "kept"]) -> tuple[Tokens, Int[Tensor, "token"]]:
    """These examples of the tokens, and the rows that they had."""
    sizes = tokens.ptr.diff().index_select(0, index)
    lengths = tokens.lengths[index.cpu()]
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    shift = tokens.ptr.index_select(0, index) - ptr[:-1]
    num_tokens = int(lengths.sum())
    rows = torch.arange(num_tokens, device=index.device)
    rows = rows + shift.repeat_interleave(sizes, output_size=num_tokens)
    return Tokens(tokens.x[rows], ptr, tokens.at[rows], lengths, tokens.num_virtual), rows
