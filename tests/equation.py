"""The attention of the specification, pair by pair in plain Python: what `reference` is held to."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from cases import BOND_DIM, LARGEST_HOPS, Case
from torch import Tensor

import graphformer as gf


class At:
    """What an equation may read of one pair: numbers of a query, a key and their edge."""

    def __init__(self, case: Case, graph: gf.TokenGraph, key: int, query: int) -> None:
        tensors, self.heads = case.tensors, case.heads
        self.q = tensors["query"][query]
        self.k = tensors["key"][key].repeat_interleave(self.heads // case.shape.kv_heads, 0)
        queries, keys = graph.queries, graph.keys
        self.positions = int(queries.at[query, 0]), int(keys.at[key, 0])
        self.distance = self.positions[1] - self.positions[0]
        given = [(int(a), int(b)) for a, b in case.edge_index.T]
        ends = (real_id(key, keys), real_id(query, queries))
        found = given.index(ends) if ends in given else None
        self.bond = tensors["bond"].new_zeros(BOND_DIM) if found is None else tensors["bond"][found]
        self.hops = LARGEST_HOPS + 1 if found is None else int(case.hops[found])
        # The keys of a bipartite graph hear nobody: theirs is the number of those who hear them.
        row = 0 if graph.bipartite else 1
        ends = (graph.edge_index[1] == query, graph.edge_index[row] == key)
        self.degrees = tuple(int(edges.sum()) for edges in ends)


def real_id(token: int, layout: gf.Layout) -> int | None:
    """The id of a token without counting virtual ones, or None for one of those."""
    if int(layout.at[token, 0]) < 0:
        return None
    return token - layout.num_virtual * (int(layout.example[token]) + 1)


def dot(at: At) -> Tensor:
    return (at.q * at.k).sum(-1) / math.sqrt(at.q.shape[-1])


def turned(x: Tensor, position: int) -> Tensor:
    """RoFormer's rotation, as a product of complex numbers."""
    half = x.shape[-1] // 2
    angles = position * 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    product = torch.complex(x[..., :half], x[..., half:]) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.cat([product.real, product.imag], -1)


def t5_bucket(distance: int, buckets: int, largest: int, causal: bool = False) -> int:
    offset = 0
    if not causal:
        buckets //= 2
        offset = buckets if distance > 0 else 0
    distance = max(-distance, 0) if causal else abs(distance)
    exact = buckets // 2
    if distance < exact:
        return offset + distance
    far = math.log(distance / exact) / math.log(largest / exact) * (buckets - exact)
    return offset + min(exact + int(far), buckets - 1)


def alibi(at: At) -> Tensor:
    powers = torch.arange(1, at.heads + 1, dtype=torch.float64) * 8 / at.heads
    return -(2.0**-powers) * abs(at.distance)


def cosine(q: Tensor, k: Tensor) -> Tensor:
    return (q * k).sum(-1) / (q.norm(dim=-1) * k.norm(dim=-1))


def mapped(score: gf.GATv2 | gf.Bahdanau, at: At) -> Tensor:
    """What the edge adds to a pairwise score's sum, [head, dim]."""
    assert score.edge_weight is not None
    return (score.edge_weight * at.bond).sum(-1)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def curved(score: gf.Score, at: At) -> Tensor:
    finished = dot(at) + alibi(at)
    return finished + score.core.bend * finished**2 - 0.125 * abs(at.distance)


def pooled(score: gf.Score, at: At) -> Tensor:
    query, key = at.q.mean(0) @ score.weight, at.k.mean(0) @ score.weight
    return (query * key).sum().expand(at.heads)


EQUATIONS: dict[str, Callable[[gf.Score, At], Tensor]] = {
    "dot": lambda s, at: dot(at),
    "dot unnormalized": lambda s, at: 0.5 * (at.q * at.k).sum(-1),
    "additive": lambda s, at: leaky((at.q * s.query_weight + at.k * s.key_weight).sum(-1)),
    "gatv2": lambda s, at: (s.weight * leaky(at.q + at.k)).sum(-1),
    "bahdanau": lambda s, at: (s.weight * torch.tanh(at.q + at.k)).sum(-1),
    "degree": lambda s, at: at.k.new_full((at.heads,), math.prod(at.degrees) ** -0.5),
    "mean": lambda s, at: at.k.new_zeros(at.heads),
    "cosine": lambda s, at: cosine(at.q, at.k) * s.scale[:, 0],
    "gaussian": lambda s, at: -(at.q - at.k).square().sum(-1) / (2 * 1.5**2),
    "kernel": lambda s, at: (
        torch.where(at.q > 0, at.q + 1, at.q.exp()) * torch.where(at.k > 0, at.k + 1, at.k.exp())
    ).sum(-1),
    "alibi": lambda s, at: dot(at) + alibi(at),
    "t5": lambda s, at: dot(at) + s.biases[0].table[t5_bucket(at.distance, 8, 10)],
    "rotary": lambda s, at: (
        (turned(at.q, at.positions[0]) * turned(at.k, at.positions[1])).sum(-1)
        / math.sqrt(at.q.shape[-1])
    ),
    "rotary alibi": lambda s, at: (
        cosine(turned(at.q, at.positions[0]), turned(at.k, at.positions[1]))
        * s.core.score.scale[:, 0]
        + alibi(at)
    ),
    "edge dot": lambda s, at: (
        (at.q * (at.k + torch.einsum("hde,e->hd", s.weight, at.bond))).sum(-1)
        / math.sqrt(at.q.shape[-1])
    ),
    "edge bias": lambda s, at: leaky(
        (at.q * s.core.query_weight + at.k * s.core.key_weight).sum(-1)
        + at.bond @ s.biases[0].weight
    ),
    "hop bias": lambda s, at: dot(at) + s.biases[0].table[at.hops],
    "capped": lambda s, at: torch.tanh(
        dot(at) + s.biases[0].table[t5_bucket(at.distance, 4, 6, causal=True)]
    ),
    "curved": curved,
    "key alone": lambda s, at: (at.k * s.weight).sum(-1),
    "pooled": pooled,
    "gatv2 of edges": lambda s, at: (s.weight * leaky(at.q + at.k + mapped(s, at))).sum(-1),
    "bahdanau of edges": lambda s, at: (s.weight * (at.q + at.k + mapped(s, at)).tanh()).sum(-1),
    "gatv2 bond": lambda s, at: (
        (s.core.weight * leaky(at.q + at.k)).sum(-1) + at.bond @ s.biases[0].weight
    ),
}


def by_equation(case: Case, equation: Callable[[gf.Score, At], Tensor]) -> gf.Attended:
    """One query after another, one key after another."""
    graph, sizes = case.bind(), case.shape
    num_queries, edge_index = graph.queries.num_tokens, graph.edge_index
    out = [torch.zeros(case.heads, sizes.value_dim, dtype=torch.float64)] * num_queries
    edge_sum = [torch.zeros(case.heads, BOND_DIM, dtype=torch.float64)] * num_queries
    weights = torch.zeros(edge_index.shape[1], case.heads, dtype=torch.float64)
    for query in range(num_queries):
        edges = (edge_index[1] == query).nonzero()[:, 0]
        if not len(edges):
            continue
        pairs = [At(case, graph, int(key), query) for key in edge_index[0, edges]]
        shares = torch.stack([equation(case.score, pair) for pair in pairs])
        shares = shares.exp() if case.normalize == "softmax" else shares
        if case.normalize != "none":
            shares = shares / shares.sum(0)
        values = case.tensors["value"][edge_index[0, edges]]
        values = values.repeat_interleave(case.heads // sizes.kv_heads, 1)
        out[query] = (shares[:, :, None] * values).sum(0)
        bonds = torch.stack([pair.bond for pair in pairs])
        edge_sum[query] = (shares[:, :, None] * bonds[:, None]).sum(0)
        weights = weights.index_copy(0, edges, shares)
    return gf.Attended(torch.stack(out), torch.stack(edge_sum), weights)
