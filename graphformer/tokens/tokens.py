"""A batch as one flat list of tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from graphformer.layout import Layout


class Tokens(NamedTuple):
    """A batch of examples as one flat list: a disjoint union, without padding.

    Example i is `x[ptr[i] : ptr[i + 1]]`. A named tuple, so that it is unpacked, pickled, pinned
    and compiled as one; `len` is therefore the number of fields: ask for `num_tokens` or
    `num_examples`.

    Attributes:
        x: values [token, dim], or ids [token].
        ptr: offsets of the examples, int64 [example + 1].
        at: positions, int64 [token, axis]: axis 0 is the index in the example; row, column, variate
            or patch follow. A virtual token has the same negative position on every axis.
        lengths: tokens of each example, virtual ones included, int64 [example], always on the CPU,
            so that nothing waits for a GPU to learn it.
        num_virtual: virtual tokens before each example, at positions -num_virtual to -1.
    """

    x: Tensor
    ptr: Tensor
    at: Tensor
    lengths: Tensor
    num_virtual: int = 0

    @property
    def num_tokens(self) -> int:
        return self.at.shape[0]

    @property
    def num_examples(self) -> int:
        return self.ptr.shape[0] - 1

    @property
    def layout(self) -> Layout:
        """Where the tokens stand: all but their values."""
        return Layout.of(self)

    def with_x(self, x: Shaped[Tensor, "token *dim"]) -> Tokens:
        """The same tokens with other values.

        Raises:
            ValueError: if `x` has not one row a token.
        """
        if x.ndim == 0 or x.shape[0] != self.num_tokens:
            raise ValueError(
                f"with_x got values of shape {tuple(x.shape)} for {self.num_tokens} tokens: "
                "give one row a token."
            )
        return self._replace(x=x)

    def with_virtual(self, n: int, x: Shaped[Tensor, "virtual *dim"] | None = None) -> Tokens:
        """The tokens with `n` more before each example, such as a class token.

        They stand before virtual tokens that are there already.

        Args:
            n: number of tokens.
            x: their values, the same for every example [n, dim] (ids [n] where tokens are ids);
                zeros where left out. Gradients flow back to it.

        Raises:
            ValueError: if `n` is negative, or `x` does not fit `n`, the width, the dtype or the
                device of the tokens.
        """
        _check_virtual(self.x, n, x)
        old_rows, new_rows = _interleaved(self.ptr, self.num_tokens, n)
        num_rows = self.num_tokens + n * self.num_examples
        # index_copy rather than indexing: its backward reads each row once, so gradients are the
        # same bit for bit however many threads run it.
        values = self.x.new_zeros(num_rows, *self.x.shape[1:]).index_copy(0, old_rows, self.x)
        if x is not None:
            repeated = x.expand(self.num_examples, *x.shape).flatten(0, 1)
            values = values.index_copy(0, new_rows, repeated)
        first = -self.num_virtual - n
        negative = torch.arange(first, -self.num_virtual, device=self.at.device)
        at = self.at.new_empty(num_rows, self.at.shape[1])
        at[old_rows] = self.at
        at[new_rows] = negative.repeat(self.num_examples)[:, None]
        shift = n * torch.arange(self.num_examples + 1, device=self.ptr.device)
        return Tokens(values, self.ptr + shift, at, self.lengths + n, self.num_virtual + n)

    def without_virtual(self) -> Tokens:
        """The tokens without their virtual ones."""
        n = self.num_virtual
        if n == 0:
            return self
        shift = n * torch.arange(self.num_examples + 1, device=self.ptr.device)
        ptr = self.ptr - shift
        rows, _ = _interleaved(ptr, self.num_tokens - n * self.num_examples, n)
        return Tokens(self.x.index_select(0, rows), ptr, self.at[rows], self.lengths - n)

    def unbatch(self) -> list[Tensor]:
        """The values of each example, as views [length, dim]; virtual tokens included."""
        return list(self.x.split(self.lengths.tolist()))

    def padded(
        self, fill: float | int = 0
    ) -> tuple[Shaped[Tensor, "example longest *dim"], Bool[Tensor, "example longest"]]:
        """The values as a rectangle, and a mask that is true where a token stands.

        Args:
            fill: what stands where no token does.
        """
        longest = int(self.lengths.max())
        shape = (self.num_examples, longest)
        count = torch.arange(longest, device=self.ptr.device)
        mask = count < self.ptr.diff()[:, None]
        if self.num_tokens == self.num_examples * longest:
            return self.x.unflatten(0, shape), mask
        start = torch.arange(shape[0], device=self.ptr.device) * longest - self.ptr[:-1]
        rows = torch.arange(self.num_tokens, device=self.ptr.device)
        rows = rows + start.repeat_interleave(self.ptr.diff(), output_size=self.num_tokens)
        flat = self.x.new_full((shape[0] * longest, *self.x.shape[1:]), fill)
        return flat.index_copy(0, rows, self.x).unflatten(0, shape), mask

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tokens:
        """The tokens on `device`; `lengths` stays on the CPU."""
        return self._replace(
            x=self.x.to(device, non_blocking=non_blocking),
            ptr=self.ptr.to(device, non_blocking=non_blocking),
            at=self.at.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Tokens:
        """The tokens in pinned memory, from which a GPU copies without waiting."""
        return self._replace(
            x=self.x.pin_memory(), ptr=self.ptr.pin_memory(), at=self.at.pin_memory()
        )


def _interleaved(
    ptr: Int[Tensor, "example_plus_one"], num_tokens: int, n: int
) -> tuple[Int[Tensor, "token"], Int[Tensor, "virtual"]]:
    """Rows of the tokens of `ptr`, and of `n` more before each example, in their joint list."""
    num_examples = ptr.shape[0] - 1
    example = torch.arange(num_examples, device=ptr.device)
    of_token = example.repeat_interleave(ptr.diff(), output_size=num_tokens)
    tokens = torch.arange(num_tokens, device=ptr.device) + n * (of_token + 1)
    start = ptr[:-1] + n * example
    return tokens, (start[:, None] + torch.arange(n, device=ptr.device)).flatten()


def _check_virtual(values: Tensor, n: int, x: Tensor | None) -> None:
    if n < 0:
        raise ValueError(f"with_virtual got n={n}: give the number of tokens to add, 0 or more.")
    if x is None:
        return
    needed = (n, *values.shape[1:])
    if tuple(x.shape) != needed:
        raise ValueError(
            f"with_virtual got x of shape {tuple(x.shape)}: {n} virtual tokens before tokens of "
            f"shape {tuple(values.shape)} need {needed}."
        )
    if x.dtype != values.dtype or x.device != values.device:
        raise ValueError(
            f"with_virtual got x of {x.dtype} on {x.device} for tokens of {values.dtype} on "
            f"{values.device}: write x.to(tokens.x)."
        )
