"""What the models of sequences are stacked from."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from graphformer.layers import Attention, Block, FeedForward
from graphformer.models.embedding import Embedding, make_positions
from graphformer.scores import Score
from graphformer.topology import Topology, causal


@dataclass(frozen=True)
class Size:
    """How wide and how deep a model is, and how its blocks are put together.

    Attributes:
        dim: width of the tokens.
        heads: number of heads.
        layers: number of blocks, of the encoder and of the decoder each.
        hidden: width inside the feed-forward networks.
        dropout: probability of zero behind embeddings, behind each part of a block, and inside the
            feed-forward networks.
        attention_dropout: probability of zero of an attention weight.
        kv_heads: number of heads of keys and values; as many as of queries where left out.
        norm_first: whether norms stand before the parts of a block instead of behind the sums.
    """

    dim: int = 128
    heads: int = 4
    layers: int = 4
    hidden: int = 256
    dropout: float = 0.1
    attention_dropout: float = 0.0
    kv_heads: int | None = None
    norm_first: bool = True


def make_block(size: Size, score: Score | str, cross_score: Score | str | None = None) -> Block:
    """A transformer's block with scores of its own; given a cross score, it reads a memory."""
    return Block(
        size.dim,
        _attention(size, score),
        FeedForward(size.dim, size.hidden, size.dropout),
        None if cross_score is None else _attention(size, cross_score),
        norm_first=size.norm_first,
        dropout=size.dropout,
    )


def make_embedding(vocabulary: int, size: Size, positions: nn.Module | str | None) -> Embedding:
    """The table of vectors of a vocabulary, with positions."""
    return Embedding(vocabulary, size.dim, make_positions(positions, size.dim), size.dropout)


def last_norm(size: Size) -> nn.Module:
    """What stands behind the last block: with norms in front of the parts, its sum has none yet."""
    return nn.LayerNorm(size.dim) if size.norm_first else nn.Identity()


def as_topology(topology: Topology | str) -> Topology:
    """The topology itself, or the one that a notation writes."""
    return Topology.parse(topology) if isinstance(topology, str) else topology


def causal_topology(topology: Topology | str) -> Topology:
    """What of the topology a decoder sees: no key after its query.

    Raises:
        ValueError: if who attends to whom depends on more than positions so far.
    """
    topology = as_topology(topology)
    if topology.depends_on_size:
        raise ValueError(
            f"a decoder cannot go on by {topology!r}: who attends to whom there is known for whole "
            "examples only, and a decoder sees one more token at a time; write rules of positions, "
            "such as window(64) | strided(64)"
        )
    return topology if topology.is_causal else topology & causal()


def _attention(size: Size, score: Score | str) -> Attention:
    own = Score.parse(score) if isinstance(score, str) else copy.deepcopy(score)
    return Attention(
        size.dim, size.heads, own, kv_heads=size.kv_heads, dropout=size.attention_dropout
    )
