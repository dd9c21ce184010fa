"""Examples of about one length on one shelf: none is padded to the longest of the whole batch.

What is computed at once stays in the caches, and a batch of many lengths is hardly padded at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graphformer.graph import TokenGraph
from graphformer.layout import Layout

# Scores of a shelf, of which more would not stay in the caches.
MOST_SCORES = 2**20
# From so many on, a shelf is worth its calls, and is closed to examples that would be padded much.
LEAST_SCORES = 2**16
MUCH = 1.25


class Shelf(NamedTuple):
    """Some examples, each padded to the longest of them, or some heads of one example.

    Attributes:
        num_examples: number of examples.
        heads: which heads.
        rows: queries of an example.
        columns: keys of an example.
        first_query: the slot in which its first query stands.
        first_key: the slot in which its first key stands.
        mask: what is added to the scores, or None for nothing.
        empty: the queries without keys, or None where there are none.
    """

    num_examples: int
    heads: range
    rows: int
    columns: int
    first_query: int
    first_key: int
    mask: Float[Tensor, "_ 1 _ column"] | None
    empty: Bool[Tensor, "_ 1 row 1"] | None


class Order(NamedTuple):
    """The tokens of one side, head by head, in the slots of the shelves.

    Attributes:
        rows: the row [token * head] in each slot; where padded, one of the same example.
        slots: the slot of each row.
    """

    rows: Int[Tensor, "slot"]
    slots: Int[Tensor, "row"]


class _Pile(NamedTuple):
    """Examples of a shelf by their numbers, and their longest query and key side."""

    examples: list[int]
    rows: int
    columns: int


def make_shelves(
    graph: TokenGraph, heads: int, dtype: torch.dtype, fused: bool
) -> tuple[Shelf, ...]:
    """The shelves of a graph.

    Args:
        graph: the graph.
        heads: number of heads.
        dtype: dtype of the masks.
        fused: whether scores will never be in memory, so that heads stay together, and a causal
            mask is left to the kernel.
    """
    name = f"shelves:{heads}:{dtype}:{fused}"
    return graph._make(name, lambda: tuple(_shelves(graph, heads, dtype, fused)))


def make_order(graph: TokenGraph, side: str, heads: int, score_heads: int) -> Order | None:
    """The order of one side on the shelves of `score_heads` heads.

    None where all examples are equally long, and slots are tokens.
    """
    if graph.queries.uniform and graph.keys.uniform:
        return None
    if side == "key" and not graph.bipartite:
        side = "query"
    name = f"order:{side}:{heads}:{score_heads}"
    return graph._make(name, lambda: _order(graph, side, heads, score_heads))


def _shelves(graph: TokenGraph, heads: int, dtype: torch.dtype, fused: bool) -> Iterator[Shelf]:
    first_query = first_key = 0
    for pile in _piles(graph, heads):
        mask, empty = _mask(graph, pile, dtype, fused)
        num_examples, rows, columns = len(pile.examples), pile.rows, pile.columns
        at_once = heads
        if num_examples == 1 and not fused:
            at_once = min(max(MOST_SCORES // (rows * columns), 1), heads)
        for head in range(0, heads, at_once):
            some = range(head, min(head + at_once, heads))
            yield Shelf(num_examples, some, rows, columns, first_query, first_key, mask, empty)
        first_query += num_examples * rows
        first_key += num_examples * columns


def _piles(graph: TokenGraph, heads: int) -> list[_Pile]:
    """The examples of each shelf, long ones first, or in their order where all are alike."""
    return graph._make(f"piles:{heads}", lambda: list(_pile_up(graph, heads)))


def _pile_up(graph: TokenGraph, heads: int) -> Iterator[_Pile]:
    queries, keys = graph.queries.lengths, graph.keys.lengths
    num_rows, num_columns = queries.tolist(), keys.tolist()
    order = torch.argsort(queries + keys, descending=True, stable=True).tolist()
    pile = _Pile([], 1, 1)
    for example in order:
        least = max(num_rows[example], 1), max(num_columns[example], 1)
        rows, columns = max(pile.rows, least[0]), max(pile.columns, least[1])
        scores = (len(pile.examples) + 1) * heads * rows * columns
        padded = rows * columns > MUCH * least[0] * least[1]
        if pile.examples and scores > (LEAST_SCORES if padded else MOST_SCORES):
            yield pile
            pile, (rows, columns) = _Pile([], 1, 1), least
        pile.examples.append(example)
        pile = pile._replace(rows=rows, columns=columns)
    yield pile


def _mask(
    graph: TokenGraph, pile: _Pile, dtype: torch.dtype, fused: bool
) -> tuple[Tensor | None, Tensor | None]:
    rectangle, device = graph.rectangle, graph.device
    if rectangle.is_causal:
        if fused:
            return None, None
        name = f"triangle:{dtype}"
        triangle = graph._make(name, lambda: _triangle(graph.queries.max_length, dtype, device))
        return triangle[None, None, : pile.rows, : pile.columns], None
    if rectangle.mask is None:
        return None, None
    examples = torch.tensor(pile.examples, device=device)
    mask = rectangle.mask if rectangle.mask.shape[0] == 1 else rectangle.mask[examples]
    mask = mask[:, :, : pile.rows, : pile.columns]
    empty = rectangle.empty
    if empty is not None:
        empty = (empty if empty.shape[0] == 1 else empty[examples])[:, None, : pile.rows, None]
        empty = empty if bool(empty.any()) else None
    if bool(mask.all()):
        return None, empty
    return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, -torch.inf), empty


def _triangle(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((length, length), -torch.inf, dtype=dtype, device=device).triu(1)


def _order(graph: TokenGraph, side: str, heads: int, score_heads: int) -> Order:
    layout: Layout = graph.queries if side == "query" else graph.keys
    piles = _piles(graph, score_heads)
    widths = [pile.rows if side == "query" else pile.columns for pile in piles]
    counts = torch.tensor([len(pile.examples) for pile in piles])
    examples = torch.tensor([example for pile in piles for example in pile.examples])
    sizes = torch.tensor(widths).repeat_interleave(counts)
    examples, sizes = examples.to(layout.device), sizes.to(layout.device)
    token, first = _tokens(layout, examples, sizes)
    head = torch.arange(heads, device=layout.device)
    # Each example has a box for each of its heads, one after another.
    boxes = zip(token.split((torch.tensor(widths) * counts).tolist()), widths, strict=True)
    rows = [
        (part.view(-1, 1, width) * heads + head.unsqueeze(1)).flatten() for part, width in boxes
    ]
    of_example = torch.empty_like(sizes)
    of_example[examples] = first * heads
    size = torch.empty_like(sizes)
    size[examples] = sizes
    count = torch.arange(layout.num_tokens, device=layout.device)
    slots = (of_example - layout.ptr[:-1])[layout.example] + count
    steps = size[layout.example].unsqueeze(1) * head
    return Order(torch.cat(rows), (slots.unsqueeze(1) + steps).flatten())


def _tokens(
    layout: Layout, examples: Tensor, sizes: Tensor
) -> tuple[Int[Tensor, "slot"], Int[Tensor, "example"]]:
    """The token in each slot, and the first slot of each example."""
    first = sizes.cumsum(0) - sizes
    begin, end = layout.ptr[examples], layout.ptr[examples + 1]
    count = torch.arange(int(sizes.sum()), device=layout.device)
    token = count + (begin - first).repeat_interleave(sizes)
    # Padding holds the last token of its own example: what is infinite in one spoils no other.
    # Of an example without tokens it holds another's, and queries without keys are silenced.
    last = (end - 1).clamp(min=0).repeat_interleave(sizes)
    return torch.minimum(token, last), first
