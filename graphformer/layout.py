"""Where the tokens of a batch stand, and the pairs that rules and biases look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tokens of a batch stand: all of `Tokens` but its values.

    Attributes:
        ptr: offsets of the examples into the flat list of tokens, int64.
        at: positions; axis 0 is the index in the example, row, column or time follow.
        lengths: tokens of each example, virtual ones included, on the CPU.
        num_virtual: virtual tokens at the start of each example, at positions below zero.
        contiguous: whether axis 0 counts up from `-num_virtual` in every example, so that edges
            can be listed and counted in closed form.
    """

    ptr: Int[Tensor, "example_plus_one"]
    at: Int[Tensor, "token axis"]
    lengths: Int[Tensor, "example"]
    num_virtual: int
    contiguous: bool

    @classmethod
    def of(cls, tokens: Any) -> Layout:
        """The layout of `tokens` (anything with `ptr`, `at`, `lengths` and `num_virtual`).

        Raises:
            TypeError: if it is no such thing.
        """
        if isinstance(tokens, Layout):
            return tokens
        if not all(hasattr(tokens, name) for name in ("ptr", "at", "lengths", "num_virtual")):
            raise TypeError(
                f"a topology is bound to Tokens, it got a {type(tokens).__name__}: make them with "
                "sequences(...), series(...), patches(...), or of a graph with nodes(data)"
            )
        ptr, at, lengths, num_virtual = tokens.ptr, tokens.at, tokens.lengths, tokens.num_virtual
        # What reads them later, kernels among it, knows no other integers.
        ptr, at = ptr.long(), at.long()
        start = torch.repeat_interleave(ptr[:-1], ptr.diff(), output_size=at.shape[0])
        counted = torch.arange(at.shape[0], device=at.device) - start - num_virtual
        return cls(ptr, at, lengths, num_virtual, bool((at[:, 0] == counted).all()))

    @property
    def num_tokens(self) -> int:
        return self.at.shape[0]

    @property
    def num_examples(self) -> int:
        return self.ptr.shape[0] - 1

    @cached_property
    def max_length(self) -> int:
        return int(self.lengths.max()) if self.lengths.numel() else 0

    @cached_property
    def uniform(self) -> bool:
        """Whether all examples have the same length, so that a rectangle is a free view."""
        return self.num_tokens == self.num_examples * self.max_length

    @cached_property
    @torch.inference_mode(False)
    def example(self) -> Int[Tensor, "token"]:
        """The example of each token."""
        count = torch.arange(self.num_examples, device=self.ptr.device)
        return torch.repeat_interleave(count, self.ptr.diff(), output_size=self.num_tokens)

    @property
    def device(self) -> torch.device:
        return self.ptr.device

    def map(self, change: Callable[[Tensor], Tensor]) -> Layout:
        """The same layout with `ptr` and `at` changed, to another device or memory."""
        return replace(self, ptr=change(self.ptr), at=change(self.at))


@dataclass(frozen=True, eq=False)
class Pair:
    """Some (query, key) pairs of one batch, of any shape: a list of edges [edge, 1], or a
    rectangle of examples [example, query, key, 1] whose ids broadcast.

    Attributes:
        query: flat ids of the queries, integer [..., 1].
        key: flat ids of the keys, integer [..., 1].
        queries: where the queries stand.
        keys: where the keys stand.
        edge_data: values of the pairs by name, [..., dim].
        num_heads: heads of the attention that asks.
        counted: the pairs are a rectangle whose axis-0 positions count up in every example, so
            that what depends on them alone is computed once, [1, query, key, 1].
    """

    query: Int[Tensor, "*#pair 1"]
    key: Int[Tensor, "*#pair 1"]
    queries: Layout
    keys: Layout
    edge_data: Mapping[str, Tensor] = field(default_factory=dict)
    num_heads: int = 1
    counted: bool = False

    def query_position(self, axis: int = 0) -> Int[Tensor, "*pair 1"]:
        """Position of the query along `axis`."""
        return _position(self.query, self.queries, axis, self.counted)

    def key_position(self, axis: int = 0) -> Int[Tensor, "*pair 1"]:
        """Position of the key along `axis`."""
        return _position(self.key, self.keys, axis, self.counted)

    # Not cached: compiled code cannot enter the lock of Python 3.11's `cached_property`.
    @property
    def distance(self) -> Int[Tensor, "*pair 1"]:
        """Key position minus query position, in tokens."""
        return self.key_position() - self.query_position()

    @property
    def head(self) -> Int[Tensor, "head"]:
        """The heads, 0 to num_heads - 1."""
        return torch.arange(self.num_heads, device=self.query.device)


def check_layouts(queries: Layout, keys: Layout) -> None:
    """Raises an error where the examples of queries and keys do not meet."""
    if queries.num_examples != keys.num_examples:
        raise ValueError(
            f"queries have {queries.num_examples} examples, keys {keys.num_examples}; example i of "
            "the queries attends to example i of the keys, so give as many of one as of the other"
        )
    if queries.num_examples == 0:
        raise ValueError("an empty batch cannot be bound: it needs at least one example")
    if queries.device != keys.device:
        raise ValueError(
            f"queries are on {queries.device}, keys on {keys.device}; move both to one device "
            "with .to(device) before binding"
        )


def map_tensors(value: Any, change: Callable[[Tensor], Tensor], memo: dict[int, Any]) -> Any:
    """`value` with `change` applied to every tensor in its containers and dataclasses.

    What occurs twice is changed once: `memo` keeps it by identity. Layouts keep `lengths`.
    """
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, Tensor):
        result: Any = change(value)
    elif isinstance(value, Layout):
        result = value.map(change)
    elif isinstance(value, tuple):
        parts = [map_tensors(part, change, memo) for part in value]
        result = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    elif isinstance(value, dict):
        result = {key: map_tensors(part, change, memo) for key, part in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        parts_by_name = {
            part.name: getattr(value, part.name) for part in fields(value) if part.init
        }
        changed = {name: map_tensors(part, change, memo) for name, part in parts_by_name.items()}
        same = all(changed[name] is part for name, part in parts_by_name.items())
        result = value if same else replace(value, **changed)
    else:
        result = value
    memo[id(value)] = result
    return result


def _position(ids: Tensor, layout: Layout, axis: int, counted: bool) -> Tensor:
    if counted and axis == 0:
        count = torch.arange(ids[0].numel(), device=ids.device) - layout.num_virtual
        return count.view(1, *ids.shape[1:])
    return layout.at.select(1, axis)[ids]
