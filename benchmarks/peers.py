"""Attention over few edges: ours, and what others offer, as a careful user would call it.

Each takes query, key and value [token, head, dim] and gives [token, head, dim]. Masks, indexes and
layouts in memory are made beforehand.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from timing import Run
from torch import Tensor
from torch.nn import functional as F
from torch_geometric import nn as pyg

from graphformer import TokenGraph, attend

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
# Whether a query (first) may attend to a key (second), of ids that broadcast.
Rule = Callable[[Tensor, Tensor], Tensor]


def ours(graph: TokenGraph, backend: str | None = None) -> Attention:
    """`attend` on a graph, by this backend or by what the planner chooses."""

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = attend(query, key, value, graph, backend=backend)
        assert isinstance(out, Tensor)
        return out

    return run


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """The attention of torch itself, with the transposes that it needs."""
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.squeeze(0).transpose(0, 1)


def masked_sdpa(mask: Tensor) -> Attention:
    """The attention of torch itself with a mask of all pairs [query, key]."""
    return lambda query, key, value: sdpa(query, key, value, mask)


def propagate(edge_index: Tensor, heads: int, dim: int) -> Attention:
    """The operator of PyG's `TransformerConv`, without its projections."""
    layer = pyg.TransformerConv(heads * dim, dim, heads)

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        given = {"query": query, "key": key, "value": value, "edge_attr": None}
        return layer.propagate(edge_index, size=None, **given)

    return run


def torch_sparse(graph: TokenGraph) -> Attention:
    """Attention by `torch.sparse`, head by head.

    Scores are CSR, for `sampled_addmm` takes nothing else. `softmax` takes only COO; the weights go
    back to CSR, for the backward of a product with COO fills a matrix of all pairs. Where edges
    repeat, its gradients of query and key are wrong, so give it a graph without repeats.
    """
    adjacency = csr_matrix(graph, torch.zeros(graph.num_edges))

    def head(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scale = query.shape[-1] ** -0.5
        scores = torch.sparse.sampled_addmm(adjacency, query, key.t(), beta=0.0, alpha=scale)
        weights = torch.sparse.softmax(scores.to_sparse_coo(), dim=1)
        return torch.sparse.mm(weights.to_sparse_csr(), value)

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = zip(query.unbind(1), key.unbind(1), value.unbind(1), strict=True)
        return torch.stack([head(*(x.contiguous() for x in each)) for each in heads], 1)

    return run


def csr_matrix(graph: TokenGraph, values: Tensor) -> Tensor:
    """The edges as a sparse matrix [query, key] with these values, in the order of `graph.csr`."""
    size = (graph.queries.num_tokens, graph.keys.num_tokens)
    ptr, index = graph.csr.ptr.long(), graph.csr.index.long()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")
        return torch.sparse_csr_tensor(ptr, index, values, size)


def flex(rule: Rule, num_tokens: int) -> Attention:
    """FlexAttention of torch, compiled, with a block mask of the rule."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()
    blocks = create_block_mask(
        lambda _example, _head, query, key: rule(query, key),
        None,
        None,
        num_tokens,
        num_tokens,
        device="cpu",
    )
    compiled = torch.compile(flex_attention, fullgraph=True, dynamic=False)

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
        out: Tensor = compiled(query, key, value, block_mask=blocks)
        return out.squeeze(0).transpose(0, 1)

    return run


def those_that_run(title: str, runs: Mapping[str, Run], limit: float = 120) -> dict[str, Run]:
    """The runs whose first call, in which they compile, returns within so many seconds."""
    kept = {}
    for name, run in runs.items():
        try:
            with deadline(limit):
                run()
        except Exception as error:
            reason = str(error).strip().partition("\n")[0][:200]
            print(f"\n{title}, left out: {name}. {type(error).__name__}: {reason}", flush=True)
        else:
            kept[name] = run
    return kept


@contextmanager
def deadline(limit: float) -> Iterator[None]:
    """Raises in the block after so many seconds, where the system has alarms.

    Raises:
        TimeoutError: the time is over.
    """
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_: object) -> None:
        raise TimeoutError(f"took longer than {limit:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
