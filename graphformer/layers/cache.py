"""What a decoder remembers between steps, so that each token is projected once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from graphformer.graph import Side
from graphformer.layout import Layout
from graphformer.tokens import Tokens

# Where an empty slot stands: after every query, so that no causal rule lets it be heard.
NOWHERE = 2**30

Parts = tuple[Tensor | None, ...]


class Cache:
    """Keys and values of the tokens so far, for all layers of a decoder.

    A step first announces its tokens, then binds its topology to what is remembered, and runs:

        new = cache.extend(new)
        graph = causal().bind(new, cache.tokens)
        x = block(x, graph, memory, memory_graph, cache)

    Each layer keeps all that its score reads of a key, and the values, in buffers [example, slot,
    ...] that double when they are full; flat, they are the keys that the graph was bound to. Empty
    slots stand at a position that no causal rule contains. Nothing has gradients.

    Args:
        num_examples: number of sequences that are decoded side by side.
        capacity: slots of each to begin with, in tokens.
        device: where the decoder is.
    """

    def __init__(
        self, num_examples: int, capacity: int = 32, device: torch.device | str = "cpu"
    ) -> None:
        self.lengths = torch.zeros(num_examples, dtype=torch.int64)
        self._at = torch.full((num_examples, capacity), NOWHERE, device=device)
        self._slots = torch.empty(0, dtype=torch.int64, device=device)
        self._own: dict[nn.Module, Parts] = {}
        self._memory: dict[nn.Module, Parts] = {}
        self._states: dict[nn.Module, Parts] = {}
        self._new: Tokens | None = None

    @property
    def num_examples(self) -> int:
        return self._at.shape[0]

    @property
    def capacity(self) -> int:
        """Slots of each example, in tokens."""
        return self._at.shape[1]

    @property
    def tokens(self) -> Tokens:
        """The slots as tokens, to bind a topology to as keys; their values are their positions."""
        size, capacity = self._at.shape
        ptr = torch.arange(size + 1, device=self._at.device) * capacity
        at = self._at.flatten()
        return Tokens(at, ptr, at.unsqueeze(1), torch.full((size,), capacity))

    @property
    def new(self) -> Layout:
        """Where the tokens announced last stand, those of each sequence by themselves."""
        assert self._new is not None, "a step first announces its tokens"
        return self._new.layout

    def extend(self, new: Tokens) -> Tokens:
        """The same tokens at the positions that follow what is remembered.

        Args:
            new: the next tokens of each example, of any number, none included.

        Raises:
            ValueError: if there are not as many examples as the cache has, if tokens are virtual,
                or if gradients are on.
        """
        self._check(new)
        at = new.at[:, 0] + self.lengths.to(new.at.device)[_example(new)]
        self.lengths = self.lengths + new.lengths
        self._reserve(int(self.lengths.max()))
        self._slots = _example(new) * self.capacity + at
        self._at.view(-1)[self._slots] = at
        self._new = new._replace(at=at.unsqueeze(1))
        return self._new

    def append(self, layer: nn.Module, new: Parts) -> Parts:
        """All that `layer` remembers, flat [example * slot, ...], with that of the new tokens.

        Args:
            layer: whose buffers they are.
            new: what it keeps of each of the tokens announced last, each [token, ...] or None.
        """
        if layer not in self._own:
            self._own[layer] = tuple(map(self._make_buffer, new))
        kept = tuple(None if part is None else part.flatten(0, 1) for part in self._own[layer])
        for flat, part in zip(kept, new, strict=True):
            if flat is not None and part is not None:
                flat.index_copy_(0, self._slots, part)
        return kept

    def once(self, layer: nn.Module, make: Callable[[], Parts]) -> Parts:
        """What `make` gave in the first call for `layer`: keys and values of a memory."""
        if layer not in self._memory:
            self._memory[layer] = make()
        return self._memory[layer]

    def recall(self, layer: nn.Module) -> Parts | None:
        """What `layer` kept last, or None in its first step."""
        return self._states.get(layer)

    def keep(self, layer: nn.Module, state: Parts) -> None:
        """Keeps what `layer` goes on from in the next step, in place of what it kept before.

        Args:
            layer: whose state it is.
            state: the same few numbers a sequence, however long it is: [sequence, ...] each.
        """
        self._states[layer] = state

    def select(self, index: Int[Tensor, "chosen"]) -> None:
        """Goes on with these examples, in this order: drops, reorders and repeats them.

        Args:
            index: numbers of examples.
        """
        index = index.to(self._at.device)
        self.lengths = self.lengths[index.cpu()]
        self._at = self._at.index_select(0, index)
        self._own = _rows_of_all(self._own, index)
        self._states = _rows_of_all(self._states, index)

    def select_memory(self, rows: Int[Tensor, "key"]) -> None:
        """Goes on with these tokens of the memory, when it was cut to fewer examples.

        Args:
            rows: flat numbers of tokens.
        """
        self._memory = _rows_of_all(self._memory, rows)

    def _make_buffer(self, part: Tensor | None) -> Tensor | None:
        # Zeros, since what stands in an empty slot is multiplied with a weight of zero.
        return None if part is None else part.new_zeros(*self._at.shape, *part.shape[1:])

    def _reserve(self, needed: int) -> None:
        if needed <= self.capacity:
            return
        more = max(needed, 2 * self.capacity) - self.capacity
        self._at = torch.cat([self._at, self._at.new_full((self.num_examples, more), NOWHERE)], 1)
        self._own = {
            layer: tuple(None if part is None else _longer(part, more) for part in parts)
            for layer, parts in self._own.items()
        }

    def _check(self, new: Tokens) -> None:
        if new.num_examples != self.num_examples:
            raise ValueError(
                f"the cache has {self.num_examples} examples, the new tokens {new.num_examples}; "
                "give each example its next tokens, and drop examples with cache.select(index)"
            )
        if new.num_virtual:
            raise ValueError(
                f"the new tokens have {new.num_virtual} virtual tokens before each example, which "
                "a cache cannot place behind what it has; write new.without_virtual()"
            )
        if torch.is_grad_enabled():
            raise ValueError(
                "a cache keeps no gradients; decode under torch.no_grad(), and train without a "
                "cache"
            )


class ArrivingSide(Side):
    """What a score may know of keys that go into a cache: not how many hear them."""

    @property
    def in_degree(self) -> None:
        raise ValueError(_UNKNOWN_DEGREE)

    @property
    def out_degree(self) -> None:
        raise ValueError(_UNKNOWN_DEGREE)


_UNKNOWN_DEGREE = (
    "the degree of a key changes with every token that follows, so a score of degrees has no "
    "cache; decode without one, or with another score"
)


def _example(tokens: Tokens) -> Int[Tensor, "token"]:
    count = torch.arange(tokens.num_examples, device=tokens.ptr.device)
    return count.repeat_interleave(tokens.ptr.diff(), output_size=tokens.num_tokens)


def _longer(buffer: Tensor, more: int) -> Tensor:
    return torch.cat([buffer, buffer.new_zeros(buffer.shape[0], more, *buffer.shape[2:])], dim=1)


def _rows_of_all(kept: dict[nn.Module, Parts], index: Tensor) -> dict[nn.Module, Parts]:
    return {
        layer: tuple(None if part is None else part.index_select(0, index) for part in parts)
        for layer, parts in kept.items()
    }
