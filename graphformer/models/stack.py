"""What the models of sequences are stacked from."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphformer.layers import Attention, Block, ConvFeedForward, FeedForward
from graphformer.models.embedding import Embedding, make_positions
from graphformer.scores import Score
from graphformer.tokens import Tokens
from graphformer.topology import Topology, causal

LINEAR = "linear()"
_FEED_FORWARD = re.compile(r"linear\(\s*\)|convolution\(\s*(?:kernel\s*=\s*)?(?P<kernel>\d+)\s*\)")


@dataclass(frozen=True)
class Size:
    """How wide and how deep a model is, and how its blocks are put together.

    Attributes:
        dim: width of the tokens.
        heads: number of heads.
        layers: number of blocks, of the encoder and of the decoder each.
        hidden: width inside the feed-forward networks.
        dropout: probability of zero behind embeddings and behind each part of a block.
        attention_dropout: probability of zero of an attention weight.
        activation_dropout: probability of zero inside the feed-forward networks.
        kv_heads: number of heads of keys and values; as many as of queries where left out.
        norm_first: whether norms stand before the parts of a block instead of behind the sums.
    """

    dim: int = 128
    heads: int = 4
    layers: int = 4
    hidden: int = 256
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    kv_heads: int | None = None
    norm_first: bool = True


def make_block(
    size: Size,
    score: Score | str,
    cross_score: Score | str | None = None,
    feed_forward: str = LINEAR,
    causal: bool = False,
) -> Block:
    """A transformer's block with scores of its own; given a cross score, it reads a memory."""
    return Block(
        size.dim,
        _attention(size, score),
        make_feed_forward(feed_forward, size, causal),
        None if cross_score is None else _attention(size, cross_score),
        norm_first=size.norm_first,
        dropout=size.dropout,
    )


def make_feed_forward(notation: str, size: Size, causal: bool = False) -> nn.Module:
    """What a block does to each token alone, or to each and its neighbors in the sequence.

    Args:
        notation: "linear()", or "convolution(3)" of which each convolution reads 3 tokens.
        size: of the block.
        causal: whether a convolution is to read none that follows.

    Raises:
        ValueError: if the notation cannot be read, or the convolution has no middle.
    """
    found = _FEED_FORWARD.fullmatch(notation.strip())
    if found is None or found["kernel"] == "0":
        raise ValueError(
            f"unknown feed_forward {notation!r}: write {LINEAR!r}, or a convolution with the "
            "number of tokens that it reads, such as 'convolution(3)'"
        )
    widths, dropout = (size.dim, size.hidden), size.activation_dropout
    if found["kernel"] is None:
        return FeedForward(*widths, dropout)
    return ConvFeedForward(*widths, int(found["kernel"]), dropout, causal=causal)


def planned_once(blocks: nn.ModuleList) -> nn.ModuleList:
    """The blocks, of which one is planned for all: their scores differ in their weights alone."""
    for name in ("attention", "cross"):
        parts = [part for block in blocks if (part := getattr(block, name)) is not None]
        for part in parts[1:]:
            part.layer.score.share_plans(parts[0].layer.score)
    return blocks


def make_embedding(vocabulary: int, size: Size, positions: nn.Module | str | None) -> Embedding:
    """The table of vectors of a vocabulary, with positions."""
    return Embedding(vocabulary, size.dim, make_positions(positions, size.dim), size.dropout)


def last_norm(size: Size) -> nn.Module:
    """What stands behind the last block: with norms in front of the parts, its sum has none yet."""
    return nn.LayerNorm(size.dim) if size.norm_first else nn.Identity()


def make_score(score: Score | str) -> Score:
    """A copy of the score, or the one that a notation writes."""
    return Score.parse(score) if isinstance(score, str) else copy.deepcopy(score)


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


def one_each(source: Tokens, begin: int) -> Tokens:
    """The first target token of each sentence."""
    size, device = source.num_examples, source.x.device
    ids = torch.full((size,), begin, device=device)
    ptr = torch.arange(size + 1, device=device)
    return Tokens(ids, ptr, torch.zeros_like(ids).unsqueeze(1), torch.ones(size, dtype=torch.int64))


def of_each(value: Any) -> tuple[Any, Any]:
    """What the encoder and the decoder are given, where it may be the same."""
    return value if isinstance(value, tuple) else (value, value)


def _attention(size: Size, score: Score | str) -> Attention:
    own = make_score(score)
    return Attention(
        size.dim, size.heads, own, kv_heads=size.kv_heads, dropout=size.attention_dropout
    )
