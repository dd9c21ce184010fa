"""Which keys each block of queries reads, where queries attend to keys at bounded distances."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

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
        rows: queries of a block.
    """

    low: int
    high: int
    step: int
    num_global: int
    rows: int

    @property
    def width(self) -> int:
        """Keys in the window of a block."""
        return self.rows + self.high - self.low


class Columns(NamedTuple):
    """The global tokens as keys of each block, and as queries.

    Attributes:
        num_global: global tokens of an example that has so many.
        token: the global tokens, `num_global` entries for each example that has tokens.
        there: whether the entry is a token; elsewhere `token` is any.
        first: for each block the first of its entries.
        query: the global tokens that there are.
    """

    num_global: int
    token: Int[Tensor, "entry"]
    there: Bool[Tensor, "entry"]
    first: Int[Tensor, "block"]
    query: Int[Tensor, "global"]


class Windows(NamedTuple):
    """Queries cut into blocks, each with the keys from `low` before its first query onwards.

    Tokens that attend to each other stand side by side in slots: where distances are multiples of
    a step, slots hold the tokens of an example by their positions modulo the step. A group of such
    tokens starts a block of its own, so that no example looks into another.

    Attributes:
        reach: how far queries look.
        order: the token in each slot, or None where slots are tokens.
        place: the slot of each token, or None.
        start: the first slot of each block.
        length: queries of each block.
        group: number of the group that each block is of.
        code: number of the group that each slot is of; -1 for tokens that no window has.
        row: where the query in each slot stands, among the rows of all blocks.
        near: pairs of a block and its window at an allowed distance.
        plain: the full blocks whose window is of one group, so that `near` says all.
        columns: global tokens, or None.
    """

    reach: Reach
    order: Int[Tensor, "slot"] | None
    place: Int[Tensor, "token"] | None
    start: Int[Tensor, "block"]
    length: Int[Tensor, "block"]
    group: Int[Tensor, "block"]
    code: Int[Tensor, "slot"]
    row: Int[Tensor, "slot"]
    near: Bool[Tensor, "row column"]
    plain: Bool[Tensor, "block"]
    columns: Columns | None


def reach_of(graph: TokenGraph) -> Reach | str:
    """What `find_reach` says of the graph, found once."""
    found: Reach | str = graph._make("reach", lambda: find_reach(graph))
    return found


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
    rows = max(power_of_two(int(high - low)) // 4, LEAST_ROWS)
    return Reach(int(low), int(high), step, num_global, min(rows, MOST_ROWS, farthest))


def make_windows(graph: TokenGraph, reach: Reach) -> Windows:
    """The blocks of a graph and their windows."""
    layout = graph.queries
    group, order, place = _order(layout, reach.step)
    ends = torch.cat([group.diff(), group.new_ones(1)]).nonzero().squeeze(1) + 1
    sizes = torch.cat([ends[:1], ends.diff()])
    blocks = -(-sizes // reach.rows)
    group_of_block = torch.repeat_interleave(blocks)
    turn = _within(blocks)
    start = (ends - sizes)[group_of_block] + turn * reach.rows
    length = (ends[group_of_block] - start).clamp(max=reach.rows)
    row = _within(length) + torch.repeat_interleave(length) * reach.rows
    code = _hide(graph, reach, group, order)
    near = graph.topology.contains(sample_pair(reach, layout.device)).squeeze(-1).squeeze(0)
    plain = _is_plain(reach, code, start) & (length == reach.rows) & near.any()
    columns = None
    if reach.num_global:
        token = start if order is None else order[start]
        columns = _make_columns(layout, reach.num_global, token)
    return Windows(
        reach, order, place, start, length, group_of_block, code, row, near, plain, columns
    )


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


def _order(
    layout: Layout, step: int
) -> tuple[Int[Tensor, "slot"], Int[Tensor, "slot"] | None, Int[Tensor, "token"] | None]:
    """The group of each slot, the token in each slot, and the slot of each token."""
    group = layout.example
    order = place = None
    if step > 1:
        # By example, then by position modulo the step, then by position.
        group, order = torch.sort(group * step + layout.at[:, 0] % step, stable=True)
        place = torch.argsort(order)
    begins = torch.cat([group.new_zeros(1, dtype=torch.bool), group[1:] != group[:-1]])
    return begins.cumsum(0), order, place


def _within(counts: Int[Tensor, "part"]) -> Int[Tensor, "item"]:
    """The number of each item in its part, where parts of such counts follow each other."""
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return torch.arange(first.shape[0], device=first.device) - first


def _hide(graph: TokenGraph, reach: Reach, group: Tensor, order: Tensor | None) -> Tensor:
    """The groups, -1 for tokens that look through no window and stand in none."""
    layout = graph.queries
    near = [term for term in graph.topology.closed_form or () if term.num_global is None]
    first = 0 if all(term.skips_virtual for term in near) else -layout.num_virtual
    # Global tokens are columns and rows of their own.
    first = max(first, reach.num_global - layout.num_virtual)
    position = layout.at[:, 0]
    return group.masked_fill((position if order is None else position[order]) < first, -1)


def _is_plain(reach: Reach, code: Tensor, start: Tensor) -> Bool[Tensor, "block"]:
    """The blocks whose first query and whole window are of one group, and not hidden."""
    first, last = start + reach.low, start + reach.low + reach.width - 1
    inside = (first >= 0) & (last < code.shape[0])
    # Runs of one code are numbered: a window is of one group if both of its ends are in one run.
    begins = torch.cat([code.new_zeros(1), (code.diff() != 0).cumsum(0)])
    first, last = (slot.clamp(0, code.shape[0] - 1) for slot in (first, last))
    same = (begins[first] == begins[last]) & (begins[start] == begins[first])
    return inside & same & (code[start] >= 0)


def _make_columns(layout: Layout, num_global: int, token_of_block: Tensor) -> Columns:
    held = layout.ptr.diff() > 0
    first, length = layout.ptr[:-1][held], layout.ptr.diff()[held]
    entry = torch.arange(num_global, device=layout.device)
    there = (entry < length.unsqueeze(1)).flatten()
    token = (first.unsqueeze(1) + entry).flatten().where(there, 0)
    example = (held.cumsum(0) - 1)[layout.example[token_of_block]]
    return Columns(num_global, token, there, example * num_global, token[there])
