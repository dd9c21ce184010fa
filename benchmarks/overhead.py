"""What `attend` costs over bare torch on dense graphs, and over the tokens on long windows.

python benchmarks/overhead.py

Graphs are bound and planned beforehand, as every layer of a model shares them; peers have their
masks and indexes beforehand too. Peers are what a careful user would write, and the fastest counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from timing import (
    Demand,
    compare,
    in_fresh_process,
    pass_of,
    passes,
    print_machine,
    readable,
    seconds,
)
from torch import Tensor
from torch.nn import functional as F

from graphformer import attend, complete, plan, sequences, window
from graphformer.backends import dense
from graphformer.graph import TokenGraph

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
DTYPES = (torch.float32, torch.bfloat16)


def main() -> None:
    torch.manual_seed(0)
    print_machine()
    demands = [*one_example(), *short_sentences(), *equal_sentences(), *long_window()]
    demands += compilations()
    print("\nDemands")
    for demand in demands:
        print(f"  {demand}")


def one_example() -> list[Demand]:
    """One complete graph, against the bare call on either layout in memory."""
    demands = []
    for length, rounds in ((1024, 40), (16, 2000)):
        graph = complete().bind(sequences(torch.zeros(1, length, 1)))
        flat = [torch.randn(length, 8, 64) for _ in range(4)]
        tokens_first = [x.unsqueeze(0).transpose(1, 2) for x in flat]
        heads_first = [x.contiguous() for x in tokens_first]
        for backward in (False, True):
            name, attend_graph = attend_on(graph, flat[0], backward)
            runs = {
                "SDPA, [example, head, token, dim]": pass_of(bare, heads_first, backward),
                "SDPA, [example, token, head, dim]": pass_of(bare, tokens_first, backward),
                name: pass_of(attend_graph, flat, backward),
            }
            title = f"{length:,} tokens, 8 heads of 64, float32, {passes(backward)}"
            *peers, ours = compare(title, runs, rounds).values()
            if length > 16:
                demands.append(Demand(f"{title}, over SDPA", ours / min(peers), 1.05))
            elif not backward:
                more = 1e6 * (ours - min(peers))
                demands.append(Demand(f"{title}, more than SDPA", more, 60, "us"))
    return demands


def short_sentences() -> list[Demand]:
    """Ragged sentences: both sides are given flat tokens, and pad and unpad them."""
    lengths = torch.randn(200).mul(5).add(20).round().clamp(4, 40).long()
    return batch("200 sentences of about 20", lengths, 4, 32, 60, limit=1.15)


def equal_sentences() -> list[Demand]:
    """Sentences of one length: neither side pads; then some longer ones."""
    demands = batch("200 sentences of 20", torch.full((200,), 20), 4, 32, 60, limit=1.15)
    for examples, length, rounds in ((32, 128, 10), (8, 512, 5)):
        batch(f"{examples} examples of {length}", torch.full((examples,), length), 8, 64, rounds)
    return demands


def batch(
    what: str, lengths: Tensor, heads: int, dim: int, rounds: int, limit: float | None = None
) -> list[Demand]:
    """Forward and backward of a batch, in two dtypes."""
    tokens = sequences([torch.zeros(int(length), 1) for length in lengths])
    graph = complete().bind(tokens)
    sdpa, products = padded(lengths, bare), padded(lengths, plain_products)
    demands = []
    for dtype in DTYPES:
        flat = [torch.randn(tokens.num_tokens, heads, dim).to(dtype) for _ in range(4)]
        name, attend_graph = attend_on(graph, flat[0], True)
        runs = {
            "padded SDPA": pass_of(sdpa, flat, True),
            "padded batched matrix products": pass_of(products, flat, True),
            name: pass_of(attend_graph, flat, True),
        }
        title = f"{what} tokens, {heads} heads of {dim}, {str(dtype).removeprefix('torch.')}"
        *peers, ours = compare(f"{title}, forward and backward", runs, rounds).values()
        if limit is not None:
            demands.append(Demand(f"{title}, over the faster", ours / min(peers), limit))
    return demands


def long_window() -> list[Demand]:
    """A window over a million tokens: time to count, and memory of a fresh process."""
    length = 1_000_000
    tokens = sequences(torch.zeros(1, length, 1))
    graphs = [window(256).bind(tokens) for _ in range(20)]
    counting = statistics.median(seconds(lambda graph=graph: graph.num_edges) for graph in graphs)
    print(f"\nwindow(256) over {length:,} tokens: {graphs[0].num_edges:,} edges", end=" ")
    print(f"counted in {readable(counting)}; attention, 4 heads of 32:", flush=True)
    (forward, backward), peak = in_fresh_process(attend_window, length)
    print(f"  forward {readable(forward)}, backward {readable(backward)}, {peak / 1e9:.2f} GB")
    return [
        Demand("window(256), counting its edges", 1e3 * counting, 1, "ms"),
        Demand("window(256), forward and backward, peak memory", peak / 1e9, 8, "GB"),
    ]


def attend_window(length: int) -> tuple[float, float]:
    """Seconds of forward and of backward; the process that runs it holds nothing else."""
    graph = window(256).bind(sequences(torch.zeros(1, length, 1)))
    leaves = [torch.randn(length, 4, 32, requires_grad=True) for _ in range(3)]
    plan(graph, heads=4, dim=32, training=True)
    held: list[Tensor] = []
    forward = seconds(lambda: held.append(attend(*leaves, graph)))
    grad = torch.randn(length, 4, 32)
    return forward, seconds(lambda: held[0].backward(grad))


def compilations() -> list[Demand]:
    """How often ten batches of different sizes compile `attend` whole."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attend, fullgraph=True, backend=counter)
    for size in range(10):
        tokens = sequences([torch.zeros(9 + 7 * size, 1), torch.zeros(4 + size, 1)])
        graph = complete().bind(tokens)
        flat = [torch.randn(tokens.num_tokens, 4, 32, requires_grad=True) for _ in range(3)]
        plan(graph, heads=4, dim=32, training=True)
        compiled(*flat, graph).sum().backward()
    return [Demand("torch.compile(fullgraph=True), ten sizes", counter.frame_count, 2, "times")]


def bare(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def plain_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ value


def padded(lengths: Tensor, attention: Callable[..., Tensor]) -> Attention:
    """`attention` of flat tokens, padded to rectangles for it where lengths differ."""
    examples, longest = len(lengths), int(lengths.max())
    valid = torch.arange(longest) < lengths.unsqueeze(1)
    ragged = not bool(valid.all())
    rows = valid.flatten().nonzero().squeeze(1)
    mask = valid[:, None, None, :] if ragged else None

    def pad(x: Tensor) -> Tensor:
        if ragged:
            x = x.new_zeros(examples * longest, *x.shape[1:]).index_copy(0, rows, x)
        return x.view(examples, longest, *x.shape[1:]).transpose(1, 2)

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = attention(pad(query), pad(key), pad(value), mask).transpose(1, 2).flatten(0, 1)
        return out.index_select(0, rows) if ragged else out

    return run


def attend_on(graph: TokenGraph, like: Tensor, training: bool) -> tuple[str, Attention]:
    """`attend` on a graph that is planned for tensors like this one, and how it goes about it."""
    heads, dim = like.shape[1:]
    made = plan(graph, heads=heads, dim=dim, dtype=like.dtype, training=training, backend="dense")
    ways = {"sdpa": "SDPA", "matmul": "batched matrix products", "tiles": "its own kernel"}
    way = ways[str(dense.chosen_executor(made.request))]

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, graph, backend="dense")

    return f"attend, by {way}", run


if __name__ == "__main__":
    main()
