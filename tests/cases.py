"""What the tests of the operator cross: scores, topologies and shapes of batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import graphformer as gf
from graphformer.backends import kernels
from graphformer.layout import Pair
from graphformer.tokens import Tokens, sequences

# Of the dense backend.
EXECUTORS = ["sdpa", "matmul", *(["tiles"] if kernels.why_missing() is None else [])]
BOND_DIM = 3
LARGEST_HOPS = 2


# ---- scores ----


class Capped(gf.DotProduct):
    """A dot product between -1 and 1, biases included."""

    pointwise = gf.SoftCap(1.0)


class Curved(gf.DotProduct):
    """A function of the finished score and of the distance, which runs unfused."""

    def __init__(self) -> None:
        super().__init__()
        self.bend = nn.Parameter(torch.tensor(0.3))

    def forward(self, score: Tensor, pair: Pair) -> Tensor:
        return score + self.bend * score.square() - 0.125 * pair.distance.abs()


class KeyAlone(gf.BilinearScore):
    """What a key says by itself; no query is read."""

    reads = ("key",)

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(heads, dim))

    def prepare_query(self, query: None, side: gf.Side) -> None:
        return None

    def prepare_key(self, key: Tensor, side: gf.Side) -> None:
        return None

    def key_term(self, key: Tensor, side: gf.Side) -> Tensor:
        heads = self.weight.shape[0]
        return (key.repeat_interleave(heads // key.shape[1], 1) * self.weight).sum(-1)


class Pooled(gf.BilinearScore):
    """One product for all heads, of a width of its own: a head axis of one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, 2) * dim**-0.5)

    def prepare_query(self, query: Tensor, side: gf.Side) -> Tensor:
        return query.mean(1, keepdim=True) @ self.weight

    def prepare_key(self, key: Tensor, side: gf.Side) -> Tensor:
        return key.mean(1, keepdim=True) @ self.weight


def bond_matrix(heads: int, dim: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(heads, dim, BOND_DIM) * BOND_DIM**-0.5)


# How each is made of heads and their dimension, and how its scores are normalized.
SCORES: dict[str, tuple[Callable[[int, int], gf.Score], str]] = {
    "dot": (lambda heads, dim: gf.DotProduct(), "softmax"),
    "dot unnormalized": (lambda heads, dim: gf.DotProduct(scale=0.5), "none"),
    "additive": (gf.Additive, "softmax"),
    "gatv2": (gf.GATv2, "softmax"),
    "bahdanau": (gf.Bahdanau, "softmax"),
    "degree": (lambda heads, dim: gf.SymmetricDegree(), "none"),
    "mean": (lambda heads, dim: gf.Mean(), "softmax"),
    "cosine": (lambda heads, dim: gf.Cosine(heads, 3.0), "softmax"),
    "gaussian": (lambda heads, dim: gf.Gaussian(1.5), "softmax"),
    "kernel": (lambda heads, dim: gf.Kernel(), "sum"),
    "alibi": (lambda heads, dim: gf.DotProduct() + gf.ALiBi(heads), "softmax"),
    "t5": (lambda heads, dim: gf.DotProduct() + gf.T5Bias(heads, 8, 10), "softmax"),
    "rotary": (lambda heads, dim: gf.Rotary(gf.DotProduct()), "softmax"),
    "rotary alibi": (
        lambda heads, dim: gf.Rotary(gf.Cosine(heads, 2.0)) + gf.ALiBi(heads),
        "softmax",
    ),
    "edge dot": (lambda heads, dim: gf.EdgeDot("bond", bond_matrix(heads, dim)), "softmax"),
    "edge bias": (
        lambda heads, dim: gf.Additive(heads, dim) + gf.EdgeBias("bond", heads, BOND_DIM),
        "softmax",
    ),
    "hop bias": (
        lambda heads, dim: gf.DotProduct() + gf.HopBias("hops", heads, LARGEST_HOPS),
        "softmax",
    ),
    "capped": (lambda heads, dim: Capped() + gf.T5Bias(heads, 4, 6, causal=True), "softmax"),
    "curved": (lambda heads, dim: Curved() + gf.ALiBi(heads), "softmax"),
    "key alone": (KeyAlone, "softmax"),
    "pooled": (lambda heads, dim: Pooled(dim), "softmax"),
    "gatv2 of edges": (
        lambda heads, dim: gf.GATv2(
            heads, dim, edge_data="bond", edge_weight=bond_matrix(heads, dim)
        ),
        "softmax",
    ),
    "bahdanau of edges": (
        lambda heads, dim: gf.Bahdanau(
            heads, dim, edge_data="bond", edge_weight=bond_matrix(heads, dim)
        ),
        "softmax",
    ),
    "gatv2 bond": (
        lambda heads, dim: gf.GATv2(heads, dim) + gf.EdgeBias("bond", heads, BOND_DIM),
        "softmax",
    ),
}


# ---- topologies ----


def has_even_sum(pair: Pair) -> Tensor:
    return (pair.query_position() + pair.key_position()) % 2 == 0


TOPOLOGIES: dict[str, gf.Topology] = {
    "complete": gf.complete(),
    "causal": gf.causal(),
    "window": gf.window(1),
    "causal window": gf.window(2) & gf.causal(),
    "dilated": gf.window(1, dilation=2) | gf.self_loops(),
    "strided": gf.strided(2),
    "log sparse": gf.log_sparse(),
    "longformer": gf.window(1) | gf.global_tokens(1),
    "bonds": gf.edges("bond"),
    "exphormer": gf.edges("bond") | gf.expander(3) | gf.global_tokens(1),
    "even": gf.where(has_even_sum),
    "difference": gf.complete() - gf.self_loops(),
    "nobody": gf.causal() - gf.complete(),
}


# ---- shapes ----


@dataclass(frozen=True)
class Shape:
    """Lengths of a batch, without virtual tokens, and sizes of its attention."""

    lengths: tuple[int, ...]
    key_lengths: tuple[int, ...] | None = None
    num_virtual: int = 0
    heads: int = 4
    kv_heads: int = 4
    dim: int = 6
    value_dim: int = 6


SHAPES: dict[str, Shape] = {
    "uniform": Shape((5, 5, 5)),
    "ragged": Shape((6, 2, 7)),
    "empty examples": Shape((0, 4, 0, 6)),
    "bipartite": Shape((3, 5, 2), (6, 4, 5)),
    "keyless examples": Shape((3, 4, 0, 2), (5, 0, 3, 0)),
    "virtual": Shape((4, 2, 5), num_virtual=2),
    "grouped heads": Shape((6, 2, 7), kv_heads=2),
    "one key head": Shape((5, 5), kv_heads=1),
    "narrow values": Shape((4, 6), value_dim=3),
    "one head": Shape((7, 6), heads=1, kv_heads=1, dim=4, value_dim=5),
    "single tokens": Shape((1, 1)),
}
# Too long for the tables.
LONG = Shape((16, 16, 16), value_dim=16)


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """One attention with its numbers."""

    shape: Shape
    topology: gf.Topology
    score: gf.Score
    normalize: str
    queries: Tokens
    keys: Tokens | None
    edge_index: Tensor
    tensors: Mapping[str, Tensor]
    hops: Tensor
    missing: Any = 0.0

    @property
    def heads(self) -> int:
        """Heads of the queries; where none is read, those of the values."""
        return self.shape.heads if "query" in self.score.reads else self.shape.kv_heads

    def to(self, dtype: torch.dtype) -> Case:
        """The same numbers in another dtype, score included."""
        tensors = {name: tensor.detach().to(dtype) for name, tensor in self.tensors.items()}
        missing = self.missing.to(dtype) if isinstance(self.missing, Tensor) else self.missing
        score = copy.deepcopy(self.score).to(dtype)
        return replace(self, tensors=tensors, score=score, missing=missing)

    def bind(self) -> gf.TokenGraph:
        """The graph, with the values of its bonds and its hops."""
        return self.topology.bind(
            self.queries,
            self.keys,
            bond=gf.EdgeValues(self.edge_index, self.tensors["bond"], self.missing),
            hops=gf.EdgeValues(self.edge_index, self.hops, LARGEST_HOPS + 1),
        )

    def operands(self) -> tuple[Tensor | None, ...]:
        """Query, key and value; None for what the score does not read."""
        read = {"value", *self.score.reads}
        names = ("query", "key", "value")
        return tuple(self.tensors[name] if name in read else None for name in names)

    def attend(self, graph: gf.TokenGraph | None = None, **settings: Any) -> gf.Attended:
        """What `attend` gives, as a triple."""
        graph = self.bind() if graph is None else graph
        settings = {"normalize": self.normalize, **settings}
        result = gf.attend(*self.operands(), graph, self.score, **settings)
        return result if isinstance(result, gf.Attended) else gf.Attended(result)

    def results(self, **settings: Any) -> dict[str, Tensor]:
        """Outputs, and gradients by the names of what they belong to."""
        return self.differentiate(lambda case: case.attend(**settings))

    def differentiate(self, attend: Callable[[Case], gf.Attended]) -> dict[str, Tensor]:
        """What `attend` gives for the case, and its gradients."""
        leaves = {name: t.clone().requires_grad_() for name, t in self.tensors.items()}
        attended = attend(replace(self, tensors=leaves))
        named = {**leaves, **dict(self.score.named_parameters())}
        given = {name: part.detach() for name, part in outputs(attended).items()}
        return {**given, **gradients(attended, named)}


def make_case(score: str, topology: str, shape: str, seed: int = 0) -> Case:
    """A case of the tables, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    sizes = LONG if shape == "long" else SHAPES[shape]
    queries = make_tokens(sizes.lengths, sizes.num_virtual)
    key_lengths = sizes.lengths if sizes.key_lengths is None else sizes.key_lengths
    keys = None if sizes.key_lengths is None else make_tokens(key_lengths, sizes.num_virtual)
    num_keys = queries.num_tokens if keys is None else keys.num_tokens
    edge_index = make_bonds(sizes.lengths, key_lengths, generator)
    make, normalize = SCORES[score]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make(sizes.heads, sizes.dim)
        if "query" not in made.reads:
            # Nothing then has more heads than the values.
            made = make(sizes.kv_heads, sizes.dim)
    tensors = {
        "query": normal(queries.num_tokens, sizes.heads, sizes.dim),
        "key": normal(num_keys, sizes.kv_heads, sizes.dim),
        "value": normal(num_keys, sizes.kv_heads, sizes.value_dim),
        "bond": normal(edge_index.shape[1], BOND_DIM),
    }
    hops = torch.arange(edge_index.shape[1]) % (LARGEST_HOPS + 1)
    made, rule = made.double(), TOPOLOGIES[topology]
    return Case(sizes, rule, made, normalize, queries, keys, edge_index, tensors, hops)


def make_tokens(lengths: tuple[int, ...], num_virtual: int = 0) -> Tokens:
    """Tokens of such examples; their values do not matter."""
    return sequences([torch.zeros(length, 1) for length in lengths]).with_virtual(num_virtual)


def make_bonds(
    lengths: tuple[int, ...], key_lengths: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """About half of the pairs of each example, in no order; the first query hears nobody."""
    found, first_query, first_key = [torch.zeros(2, 0, dtype=torch.int64)], 0, 0
    for length, key_length in zip(lengths, key_lengths, strict=True):
        key, query = torch.meshgrid(torch.arange(key_length), torch.arange(length), indexing="ij")
        pairs = torch.stack([key.flatten() + first_key, query.flatten() + first_query])
        pairs = pairs[:, query.flatten() > 0]
        order = torch.randperm(pairs.shape[1], generator=generator)
        found.append(pairs[:, order[: (pairs.shape[1] + 1) // 2]])
        first_query, first_key = first_query + length, first_key + key_length
    return torch.cat(found, 1)


def fits(topology: str, shape: str) -> bool:
    """Expanders need queries that are the keys."""
    return "expander" not in repr(TOPOLOGIES[topology]) or SHAPES[shape].key_lengths is None


def table(step: int = 1, offset: int = 0) -> list[tuple[str, str, str]]:
    """Every score on every topology, or one in `step`; shapes take turns, and each meets each."""
    shapes, rows = list(SHAPES), []
    for number, score in enumerate(SCORES):
        for turn, topology in enumerate(TOPOLOGIES):
            at = 3 * number + turn + offset
            while not fits(topology, shapes[at % len(shapes)]):
                at += 1
            if (number + turn + offset) % step == 0:
                rows.append((score, topology, shapes[at % len(shapes)]))
    return rows


# ---- results ----


def outputs(attended: gf.Attended) -> dict[str, Tensor]:
    """What an attention gave, by name."""
    parts = attended._asdict().items()
    return {name: part for name, part in parts if part is not None}


def gradients(attended: gf.Attended, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a fixed linear function of all outputs; zeros where nothing depends."""
    loss = torch.zeros((), dtype=torch.float64)
    for number, part in enumerate(outputs(attended).values()):
        generator = torch.Generator().manual_seed(number)
        weight = torch.randn(part.shape, generator=generator, dtype=torch.float64)
        # Rounded as bfloat16 is, so that every dtype gets the same gradient from outside.
        loss = loss + (part * weight.bfloat16().to(part.dtype)).double().sum()
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        f"gradient of {name}": torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(named.items(), found, strict=True)
    }


def error(result: Tensor, expected: Tensor, floor: float = 1e-30) -> float:
    """Norm of the difference over the norm of what was expected, which counts `floor` or more."""
    assert result.shape == expected.shape
    difference = (result.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp(min=floor))


def errors(result: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """The error of each part, by name.

    A gradient that nearly cancels is rounded as what it is summed of, so it counts as a quarter of
    the gradient from outside at least.
    """
    assert result.keys() == expected.keys()
    outside = max(expected["out"].numel() ** 0.5 / 4, 1e-30)
    floors = {name: outside if name.startswith("gradient") else 1e-30 for name in expected}
    return {name: error(result[name], expected[name], floors[name]) for name in expected}


def assert_close(
    result: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float
) -> None:
    """All parts agree, and the message names those that do not."""
    found = errors(result, expected)
    wrong = {name: f"{value:.1e}" for name, value in found.items() if not value <= tolerance}
    assert not wrong, wrong
