"""What a decoder remembers between steps, so that each token is projected once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from graphformer.graph import Side, TokenGraph
from graphformer.layers.slots import Slots
from graphformer.layout import Layout
from graphformer.tokens import Tokens
from graphformer.topology import Topology, complete
from graphformer.topology.table import table_of

Parts = tuple[Tensor | None, ...]


class Cache:
    """Keys and values of the tokens so far, for all layers of a decoder.

    A step first announces its tokens, then binds its topology to what is remembered, and runs:

        new = cache.extend(new, topology)
        graph = cache.bind(topology, new)
        x = block(x, graph, memory, memory_graph, cache)

    Each layer keeps all that its score reads of a key, and the values, in buffers [example, slot,
    ...] that grow when they are full; flat, they are the keys that the graph is bound to. Empty
    slots stand at a position that no causal rule contains. Nothing has gradients.

    An example may be several sequences, such as the hypotheses of a beam: `fork` says which of
    them go on. What they have in common is kept once, and nothing is moved; each hears the tokens
    that it is made of. Slots of tokens that no sequence is made of, and of those that the topology
    lets no later query hear, are used again: what a window needs does not grow.

    Args:
        num_examples: number of examples that are decoded side by side.
        capacity: slots of each to begin with, in tokens.
        device: where the decoder is.
    """

    def __init__(
        self, num_examples: int, capacity: int = 16, device: torch.device | str = "cpu"
    ) -> None:
        self._slots = Slots(num_examples, capacity, device)
        self._new_slots = torch.empty(0, dtype=torch.int64, device=device)
        self._new_sequences = self._new_slots
        self._own: dict[nn.Module, Parts] = {}
        self._memory: dict[nn.Module, Parts] = {}
        self._states: dict[nn.Module, Parts] = {}
        self._new: Tokens | None = None
        self._cross: TokenGraph | None = None
        self._cross_of_states: TokenGraph | None = None

    @property
    def num_examples(self) -> int:
        return self._slots.num_examples

    @property
    def num_sequences(self) -> int:
        """Sequences of each example."""
        return self._slots.num_sequences

    @property
    def capacity(self) -> int:
        """Slots of each example, in tokens."""
        return self._slots.capacity

    @property
    def lengths(self) -> Int[Tensor, "example"]:
        """Tokens of each sequence of an example so far."""
        return self._slots.lengths

    @property
    def tokens(self) -> Tokens:
        """The slots as tokens, to bind a topology to as keys; their values are their positions."""
        at, (size, capacity) = self._slots.at.flatten(), self._slots.at.shape
        ptr = torch.arange(size + 1, device=at.device) * capacity
        return Tokens(at, ptr, at.unsqueeze(1), torch.full((size,), capacity))

    @property
    def new(self) -> Layout:
        """Where the tokens announced last stand, those of each sequence by themselves."""
        assert self._new is not None, "a step first announces its tokens"
        return self._new.layout

    def extend(self, new: Tokens, topology: Topology | None = None) -> Tokens:
        """The same tokens at the positions that follow what is remembered.

        Args:
            new: the next tokens of each sequence, those of an example one after another; of any
                number, none included, and as many in all sequences of an example.
            topology: what it lets no query hear from now on is forgotten; nothing is where it is
                left out.

        Raises:
            ValueError: if there are not as many sequences as the cache has, or they differ in an
                example, if tokens are virtual, or if gradients are on.
        """
        self._check(new)
        if topology is not None:
            self._slots.forget(topology)
        more = self._slots.reserve(new)
        if more:
            self._own = _with_all(self._own, lambda part: _longer(part, more))
        self._new_slots, at, self._new_sequences = self._slots.place(new)
        self._new = new._replace(at=at.unsqueeze(1))
        return self._new

    def bind(self, topology: Topology, new: Tokens) -> TokenGraph:
        """The graph of the tokens announced last to all that their sequences are made of.

        Args:
            topology: rules of positions, by which no token hears one that follows it.
            new: what `extend` gave.
        """
        if self.num_sequences == 1 and int(new.lengths.max()) > 1:
            return topology.bind(new, self.tokens)
        queries, keys = Layout.of(join(new, self.num_examples)), Layout.of(self.tokens)
        heard = self._slots.heard.flatten(0, 1).index_select(0, self._new_sequences)
        return table_of(topology, queries, keys, heard).bind(queries, keys)

    def bind_memory(self, new: Tokens, memory: Tokens) -> TokenGraph:
        """The complete graph of the tokens announced last to a memory.

        Step after step it is the same graph at other positions where there are as many tokens: what
        was made for it serves them all.

        Args:
            new: what `extend` gave.
            memory: the tokens of the memory, whose examples share the sequences evenly.

        Raises:
            ValueError: if they cannot be shared evenly, or layers have kept keys of another memory.
        """
        self._check_memory(memory)
        queries = join(new, memory.num_examples)
        known = self._cross
        if (
            known is None
            or known.keys.ptr is not memory.ptr
            or not torch.equal(known.queries.lengths, queries.lengths)
        ):
            # At positions that will change, nothing may be made of their order.
            moving = Layout(queries.ptr, queries.at.clone(), queries.lengths, 0, contiguous=False)
            self._cross = known = complete().bind(moving, memory)
        known._move_queries(queries.at)
        return known

    def bind_states(self, memory: Tokens) -> TokenGraph:
        """The complete graph of a query for each sequence to a memory, whatever tokens are new.

        Args:
            memory: the tokens of the memory, whose examples share the sequences evenly.

        Raises:
            ValueError: if they cannot be shared evenly, or layers have kept keys of another memory.
        """
        self._check_memory(memory)
        sequences = self.num_examples * self.num_sequences
        count = sequences_per_source(sequences, memory.num_examples)
        known = self._cross_of_states
        if (
            known is None
            or known.keys.ptr is not memory.ptr
            or known.queries.num_tokens != sequences
        ):
            self._cross_of_states = known = one_query_each(memory, count)
        return known

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
                flat.index_copy_(0, self._new_slots, part)
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

    def fork(self, parents: Int[Tensor, "example sequence"]) -> None:
        """Goes on with these sequences of each example, in this order: drops and repeats them.

        Args:
            parents: for each sequence from now on, which of its example it goes on from.

        Raises:
            ValueError: if they are not those of each example.
        """
        if parents.dim() != 2 or parents.shape[0] != self.num_examples:
            raise ValueError(
                f"parents has shape {list(parents.shape)}: give [{self.num_examples}, sequence], "
                "those that each example goes on with"
            )
        if parents.device.type == "cpu" and parents.numel():
            first, last = map(int, parents.aminmax())
            if first < 0 or last >= self.num_sequences:
                raise ValueError(
                    f"parents names sequence {first if first < 0 else last}, and each example has "
                    f"{self.num_sequences}, 0 to {self.num_sequences - 1}"
                )
        parents = parents.to(self._new_slots.device)
        sequence = torch.arange(self.num_examples, device=parents.device).unsqueeze(1)
        sequence = (sequence * self.num_sequences + parents).flatten()
        self._states = _with_all(self._states, lambda part: part.index_select(0, sequence))
        self._slots.fork(parents)

    def select(self, index: Int[Tensor, "chosen"]) -> None:
        """Goes on with these examples, in this order: drops, reorders and repeats them.

        Args:
            index: numbers of examples.
        """
        index = index.to(self._new_slots.device)
        count = torch.arange(self.num_sequences, device=index.device)
        sequence = (index.unsqueeze(1) * self.num_sequences + count).flatten()
        self._states = _with_all(self._states, lambda part: part.index_select(0, sequence))
        self._slots.select(index)
        self._own = _with_all(self._own, lambda part: part.index_select(0, index))

    def select_memory(self, rows: Int[Tensor, "key"]) -> None:
        """Goes on with these tokens of the memory, when it was cut to fewer examples.

        Args:
            rows: flat numbers of tokens.
        """
        self._memory = _with_all(self._memory, lambda part: part.index_select(0, rows))

    def _make_buffer(self, part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        # Zeros, since what stands in an empty slot is multiplied with a weight of zero.
        return part.new_zeros(self.num_examples, self.capacity, *part.shape[1:])

    def _check_memory(self, memory: Tokens) -> None:
        parts = next(iter(self._memory.values()), ())
        kept = next((part.shape[0] for part in parts if part is not None), memory.num_tokens)
        if kept != memory.num_tokens:
            raise ValueError(
                f"the cache has keys of a memory of {kept} tokens, and this one has "
                f"{memory.num_tokens}; make a new cache for another memory, and cut both with "
                "cache.select_memory(rows)"
            )

    def _check(self, new: Tokens) -> None:
        if new.num_examples != self.num_examples * self.num_sequences:
            each = f" of {self.num_sequences} sequences" if self.num_sequences > 1 else ""
            raise ValueError(
                f"the cache has {self.num_examples} examples{each}, the new tokens "
                f"{new.num_examples}; give each sequence its next tokens, and drop examples with "
                "cache.select(index), sequences with cache.fork(parents)"
            )
        sizes = new.lengths.view(-1, self.num_sequences)
        if bool((sizes != sizes[:, :1]).any()):
            raise ValueError(
                f"the sequences of an example have {sizes.tolist()} new tokens; give all of one "
                "example as many, for they go on side by side"
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


def sequences_per_source(num_sequences: int, num_sources: int) -> int:
    """How many target sequences each source serves, one after another.

    Raises:
        ValueError: if not all serve as many.
    """
    count = num_sequences // num_sources
    if count * num_sources != num_sequences:
        raise ValueError(
            f"{num_sequences} target sequences cannot share {num_sources} sources evenly; "
            "give each source as many"
        )
    return count


def one_query_each(memory: Tokens, count: int) -> TokenGraph:
    """The graph of so many queries a source, each of which attends to all of it."""
    device, num_sources = memory.ptr.device, memory.num_examples
    # All at the start, for a score of distances is to say the same of each.
    at = torch.zeros(count * num_sources, dtype=torch.int64, device=device)
    ptr = torch.arange(num_sources + 1, device=device) * count
    queries = Tokens(at, ptr, at.unsqueeze(1), torch.full((num_sources,), count))
    return complete().bind(queries, memory)


def join(tokens: Tokens, num_groups: int) -> Tokens:
    """The same tokens, with as many examples one after another joined as make `num_groups`."""
    count = sequences_per_source(tokens.num_examples, num_groups)
    if count == 1:
        return tokens
    return tokens._replace(ptr=tokens.ptr[::count], lengths=tokens.lengths.view(-1, count).sum(1))


def _longer(buffer: Tensor, more: int) -> Tensor:
    size, slots, *rest = buffer.shape
    longer = buffer.new_empty(size, slots + more, *rest)
    longer[:, :slots], longer[:, slots:] = buffer, 0
    return longer


def _with_all(
    kept: dict[nn.Module, Parts], change: Callable[[Tensor], Tensor]
) -> dict[nn.Module, Parts]:
    return {
        layer: tuple(None if part is None else change(part) for part in parts)
        for layer, parts in kept.items()
    }
