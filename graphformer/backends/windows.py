"""Which keys each block of queries reads, where queries attend to keys at bounded distances."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from graphformer.graph import TokenGraph
from graphformer.layout import Layout, Pair
from graphformer.topology.counting import Term

# Rows of a block, by the width of the window: below, kernels idle; above, masked pairs prevail.
LEAST_ROWS, MOST_ROWS = 32, 256


class Reach(NamedTuple):
    """How far a topology reaches: multiples `low * step` to `high * step`, in tokens.

    Attributes:
        low: least distance over `step`.
        high: greatest distance over `step`.
        step: all distances are multiples of it.
        num_global: so many first tokens of each example may reach, and be reached from, anywhere.
    """

    low: int
    high: int
    step: int
    num_global: int

    @property
    def rows(self) -> int:
        """Queries of a block."""
        half = power_of_two(self.high - self.low) // 2
        return min(max(half, LEAST_ROWS), MOST_ROWS)

    @property
    def width(self) -> int:
        """Keys in the window of a block."""
        return self.rows + self.high - self.low


class Columns(NamedTuple):
    """The global tokens as keys of each block, and as queries.

    Attributes:
        token: the global tokens, in as many entries for each example that has tokens; where there
            is none, some token.
        there: whether the entry is a token.
        first: for each block the first of its `width` entries.
        width: entries of a block: those of all examples that it may touch.
        query: the global tokens that there are.
    """

    token: Int[Tensor, "column"]
    there: Bool[Tensor, "column"]
    first: Int[Tensor, "block"]
    width: int
    query: Int[Tensor, "global"]


class Windows(NamedTuple):
    """Flat tokens cut into blocks of `rows` slots; block b reads slots b * rows + low onwards.

    Tokens that attend to each other stand side by side: where distances are multiples of a step,
    slots hold the tokens of an example by their positions modulo the step.

    Attributes:
        reach: how far queries look.
        order: the token in each slot, or None where slots are tokens.
        place: the slot of each token, or None.
        query_code: number of the group of tokens that a query may look into, -1 for none.
        key_code: number of the group that a key is in, -2 for none.
        near: pairs of a block and its window at an allowed distance.
        plain: the blocks whose pairs are all of one group, so that `near` says all.
        columns: global tokens, or None.
    """

    reach: Reach
    order: Int[Tensor, "slot"] | None
    place: Int[Tensor, "token"] | None
    query_code: Int[Tensor, "slot"]
    key_code: Int[Tensor, "slot"]
    near: Bool[Tensor, "row column"]
    plain: Bool[Tensor, "block"]
    columns: Columns | None


def find_reach(graph: TokenGraph) -> Reach | str:
    """How far the tokens of a graph reach, or a sentence that says why that is no window."""
    topology, layout = graph.topology, graph.queries
    if graph.repeats:
        return "the graph was given by its edges, and it runs windows only"
    if graph.bipartite:
        return "queries and keys are different tokens, and a window slides over one sequence"
    if not layout.contiguous:
        return "positions do not count up in every example, so that neighbors lie scattered"
    form = topology.closed_form
    if form is None:
        return f"it runs windows and global tokens only, and {topology!r} has other pairs"
    near = [term for term in form if term.num_global is None]
    spans = [span for term in near if form[term] > 0 and (span := _span(term)) is not None]
    if not spans:
        return f"it runs windows only, and {topology!r} has none"
    num_global = max((term.num_global or 0 for term in form), default=0)
    if len({term.skips_virtual for term in near}) > 1 and layout.num_virtual > num_global:
        return f"some rules of {topology!r} skip virtual tokens and others do not"
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    step = math.gcd(*(span[2] for span in spans)) or 1
    if step == 1 and math.inf in (-low, high):
        return f"it runs windows only, and {topology!r} has keys at any distance: use dense"
    # Beyond the longest example there are no keys; powers of two, since compiled code reads them.
    farthest = power_of_two(-(-layout.max_length // step))
    low, high = max(low / step, -farthest), min(high / step, farthest)
    if low > high:
        return f"no example is long enough for the keys of {topology!r}"
    return Reach(int(low), int(high), step, num_global)


def make_windows(graph: TokenGraph) -> Windows:
    """The blocks of a graph and their windows."""
    reach, layout = find_reach(graph), graph.queries
    assert isinstance(reach, Reach)
    order = place = None
    if reach.step > 1:
        order = _order(layout, reach.step)
        place = torch.empty_like(order)
        place[order] = torch.arange(order.shape[0], device=order.device)
    query_code, key_code = _codes(graph, reach, order)
    near = graph.topology.contains(sample_pair(reach, layout.device)).squeeze(-1).squeeze(0)
    plain = _plain(reach, query_code, key_code) & near.any()
    columns = make_columns(layout, reach, order) if reach.num_global else None
    return Windows(reach, order, place, query_code, key_code, near, plain, columns)


def make_columns(layout: Layout, reach: Reach, order: Int[Tensor, "slot"] | None = None) -> Columns:
    """The global tokens of all examples, and those that each block may need."""
    count, device = reach.num_global, layout.device
    held = layout.ptr.diff() > 0
    start, length = layout.ptr[:-1][held], layout.ptr.diff()[held]
    entry = torch.arange(count, device=device)
    example = (held.cumsum(0) - 1)[layout.example if order is None else layout.example[order]]
    first = example[:: reach.rows]
    last = torch.cat([example[reach.rows - 1 :: reach.rows], example[-1:]])[: first.shape[0]]
    width = (int((last - first).max()) + 1) * count
    # The last blocks may look beyond the last example.
    there = F.pad((entry < length.unsqueeze(1)).flatten(), (0, width))
    token = F.pad((start.unsqueeze(1) + entry).flatten(), (0, width)).where(there, 0)
    return Columns(token, there, first * count, width, token[there])


def sample_pair(reach: Reach, device: torch.device, num_heads: int = 1) -> Pair:
    """The pairs [1, row, column, 1] of a block and its window, somewhere in a long example.

    Their distances are those of every block; no token is global or virtual.
    """
    before, after = max(-reach.low, 0), max(reach.low, 0)
    size = max(before + reach.rows, after + reach.width)
    at = torch.arange(size, device=device).unsqueeze(1) * reach.step + reach.num_global
    ptr = torch.tensor([0, size], device=device)
    layout = Layout(ptr, at, torch.tensor([size]), 0, False)
    query = torch.arange(before, before + reach.rows, device=device)
    key = torch.arange(after, after + reach.width, device=device)
    return Pair(query.view(1, -1, 1, 1), key.view(1, 1, -1, 1), layout, layout, num_heads=num_heads)


def power_of_two(number: int) -> int:
    """The least power of two that is at least `number`."""
    return 1 << max(number - 1, 0).bit_length()


def _span(term: Term) -> tuple[float, float, int] | None:
    """Least and greatest distance of a term, and what divides all of them, or None for no pair."""
    low = -math.inf if term.low is None else term.low
    high = math.inf if term.high is None else term.high
    if term.distances is not None:
        inside = [d for d in term.distances if low <= d <= high and d % term.step == 0]
        return (min(inside), max(inside), math.gcd(*inside)) if inside else None
    if low == high:
        return low, high, abs(int(low))
    return (low, high, term.step) if low < high else None


def _order(layout: Layout, step: int) -> Int[Tensor, "slot"]:
    """Tokens by example, then by position modulo `step`, then by position."""
    key = layout.example * step + layout.at[:, 0] % step
    return torch.argsort(key, stable=True)


def _codes(graph: TokenGraph, reach: Reach, order: Tensor | None) -> tuple[Tensor, Tensor]:
    """The group of each slot as a query and as a key."""
    layout, position = graph.queries, graph.queries.at[:, 0]
    group = layout.example * reach.step + position % reach.step
    near = [term for term in graph.topology.closed_form or () if term.num_global is None]
    first = 0 if all(term.skips_virtual for term in near) else -layout.num_virtual
    # Global tokens are columns and rows of their own.
    outside = position < max(first, reach.num_global - layout.num_virtual)
    if order is not None:
        group, outside = group[order], outside[order]
    begins = torch.cat([group.new_zeros(1, dtype=torch.bool), group[1:] != group[:-1]])
    code = begins.cumsum(0).to(torch.int32)
    return code.masked_fill(outside, -1), code.masked_fill(outside, -2)


def _plain(reach: Reach, query_code: Tensor, key_code: Tensor) -> Bool[Tensor, "block"]:
    """The blocks in which all queries and all keys of the window have the same code."""
    rows, size = reach.rows, query_code.shape[0]
    blocks = -(-size // rows)
    query = F.pad(query_code, (0, blocks * rows - size), value=-1)
    back = blocks * rows + reach.high - size
    key = F.pad(key_code, (-reach.low, back), value=-2)
    query, key = query.view(blocks, rows), key.unfold(0, reach.width, rows)
    least = torch.minimum(query.amin(1), key.amin(1))
    return least == torch.maximum(query.amax(1), key.amax(1))
