"""What a score is: how strongly a query attends to a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graphformer.graph import Side
from graphformer.layout import Pair
from graphformer.scores.pointwise import Identity, Pointwise


class Score(nn.Module):
    """How strongly a query attends to a key: one number per (query, key) pair and head.

    Use `BilinearScore` or `PairwiseScore`; `score + bias` adds a `Bias`. A subclass that
    overrides `forward(score, pair)` computes any other function of the finished score, which
    runs unfused over [edge, head]. Constructor arguments are kept as attributes of the same
    name, so that `repr` can write the score down and `Score.parse` can read it.

    Attributes:
        reads: which projections are read, of "query" and "key"; `Attention` makes only those.
        edge_data: the name of the edge data that `edge_query` meets, or None.
        edge_dim: the dimension of that edge data; None where any will do.
        heads: the number of heads it was made for; None where any will do.
        planned_as: the score whose plans serve this one, or None; see `share_plans`.
    """

    heads: int | None = None
    planned_as: Score | None = None
    reads: tuple[str, ...] = ("query", "key")
    edge_data: str | None = None
    edge_dim: int | None = None

    @property
    def core(self) -> Score:
        """The score without its biases."""
        return self

    @property
    def biases(self) -> tuple[Bias, ...]:
        """The biases that were added to the score."""
        return ()

    def share_plans(self, other: Score) -> None:
        """Plans of `other`, which differs in its weights alone, serve this score from now on.

        So a layer may make its score anew from the weights of each call.
        """
        # Past `nn.Module`, of which `other` would be a part.
        object.__setattr__(self, "planned_as", other)

    def set_head_dim(self, dim: int) -> None:
        """Called by `Attention` with the dimension of its heads, once, before any forward."""

    def __add__(self, bias: Bias) -> Score:
        if not isinstance(bias, Bias):
            return NotImplemented
        return Biased(self.core, *self.biases, bias)

    def __repr__(self) -> str:
        from graphformer.scores.notation import write

        return write(self)

    @staticmethod
    def parse(text: str) -> Score:
        """The score that `text` writes, such as "Rotary(DotProduct()) + ALiBi(8)".

        Raises:
            ValueError: if a name is not a score of this library, or `text` is anything but
                names, literals, calls and sums.
        """
        from graphformer.scores.notation import read

        return read(text)


class BilinearScore(Score):
    """f(<prepared query, prepared key> + query term + key term + edge term + biases).

    Every part is optional. The products may be rounded to the dtype of the attention; the terms
    stay in float32, which is why they are terms and not coordinates of query and key.

    Attributes:
        pointwise: the function f, one of those that kernels fuse.
    """

    pointwise: Pointwise = Identity()

    def prepare_query(
        self, query: Float[Tensor, "query head dim"] | None, side: Side
    ) -> Float[Tensor, "query _ width"] | None:
        """The query as it is multiplied, scale included, or None for no product."""
        return query

    def prepare_key(
        self, key: Float[Tensor, "key kv_head dim"] | None, side: Side
    ) -> Float[Tensor, "key _ width"] | None:
        """The key as it is multiplied, or None for no product."""
        return key

    def query_term(
        self, query: Float[Tensor, "query head dim"] | None, side: Side
    ) -> Float[Tensor, "query head"] | None:
        """What is added to every score of a query."""
        return None

    def key_term(
        self, key: Float[Tensor, "key kv_head dim"] | None, side: Side
    ) -> Float[Tensor, "key kv_head"] | None:
        """What is added to every score of a key."""
        return None

    def edge_query(
        self, query: Float[Tensor, "query head dim"] | None, side: Side
    ) -> Float[Tensor, "query head edge_dim"] | None:
        """What is multiplied with the edge data named by `edge_data`."""
        return None

    def forward(
        self, score: Float[Tensor, "*pair head"], pair: Pair
    ) -> Float[Tensor, "*pair head"]:
        """A function of the finished score, in float32; by default the score itself."""
        return score


class PairwiseScore(Score):
    """Any function of a query, a key and their pair, such as v . tanh(q + k)."""

    def forward(
        self,
        query: Float[Tensor, "*pair head dim"],
        key: Float[Tensor, "*pair head dim"],
        pair: Pair,
    ) -> Float[Tensor, "*pair head"]:
        """The score of each pair and head."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(query, key, pair)")


class Bias(nn.Module):
    """What is added to a score, from the pair alone: its distance, ids, head or edge data.

    Attributes:
        edge_data: the name of the edge data that `forward` reads, or None.
        edge_dim: the dimension of that edge data; None where any will do.
        by_distance: whether `forward` reads nothing of a pair but `distance` and `head`.
        heads: the number of heads it was made for; None where any will do.
    """

    heads: int | None = None
    edge_data: str | None = None
    edge_dim: int | None = None
    by_distance: bool = False

    def forward(self, pair: Pair) -> Float[Tensor, "*pair head"]:
        """The bias of each pair and head, in float32."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(pair)")

    def __repr__(self) -> str:
        from graphformer.scores.notation import write

        return write(self)


class Biased(Score):
    """A score and the biases that are added to it; made by `score + bias`."""

    def __init__(self, score: Score, *biases: Bias) -> None:
        super().__init__()
        self.score = score
        self.added = nn.ModuleList(biases)

    @property
    def core(self) -> Score:
        return self.score

    @property
    def biases(self) -> tuple[Bias, ...]:
        return tuple(self.added)  # type: ignore[arg-type]

    @property
    def reads(self) -> tuple[str, ...]:
        return self.score.reads

    @property
    def edge_data(self) -> str | None:
        return self.score.edge_data

    def set_head_dim(self, dim: int) -> None:
        self.score.set_head_dim(dim)


@overload
def precise(tensor: Tensor) -> Tensor: ...
@overload
def precise(tensor: None) -> None: ...
def precise(tensor: Tensor | None) -> Tensor | None:
    """`tensor` in at least float32: what is added to a score would be lost in bfloat16."""
    if tensor is None or tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.float()


def evaluate(part: Score | Bias, heads: int, *given: Any) -> Tensor:
    """What `part.forward` makes of what it is given, the pair at last: a number a pair and head.

    Raises:
        ValueError: if it is anything else.
    """
    found: Any = part(*given)
    if torch.compiler.is_compiling():
        return found
    pair = given[-1]
    pairs = torch.broadcast_shapes(pair.query.shape[:-1], pair.key.shape[:-1])
    wanted = (*pairs, heads)
    shape = found.shape if isinstance(found, Tensor) else ()
    # With fewer axes heads might pass for keys, but for a bias of heads alone.
    like = wanted[-1:] if isinstance(part, Bias) and len(shape) == 1 else wanted
    if len(shape) == len(like) and all(map(fits_into, shape, like)):
        return found
    kind = type(found).__name__
    what = f"shape {list(shape)}" if isinstance(found, Tensor) else f"what is {kind}"
    raise ValueError(
        f"{type(part).__name__}.forward gave {what} for pairs of shape {list(pairs)} and {heads} "
        f"heads: it must give {list(wanted)}, a number for each pair and head, with 1 where it is "
        "the same for all"
    )


def fits_into(size: int, most: int) -> bool:
    """Whether an axis of this size broadcasts to the other one."""
    return size in (1, most)


def misshapen(name: str, part: Tensor, wanted: Sequence[int | torch.SymInt], heads: int) -> str:
    """What is wrong with the shape of what a score has made."""
    return (
        f"the score's {name} has shape {list(part.shape)}, and this graph, {heads} heads and what "
        f"it meets need {list(wanted)}; compare what the score's methods return with their "
        "docstrings in BilinearScore"
    )
