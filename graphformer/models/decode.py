"""Decoding: the likeliest next token, or the likeliest sequences that a beam finds."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from graphformer.layers import Cache
from graphformer.tokens import Tokens


@runtime_checkable
class Decoder(Protocol):
    """What a search needs of a model: `Transformer` and `LanguageModel` have it."""

    training: bool

    def start(self, source: Tokens, begin: int) -> tuple[Tokens, Tokens | None]: ...

    def decode(self, *tokens_and_memory: Any, **cache: Any) -> Float[Tensor, "token dim"]: ...

    def logits(self, hidden: Float[Tensor, "token dim"]) -> Float[Tensor, "token vocabulary"]: ...


class Hypothesis(NamedTuple):
    """A decoded sequence.

    Attributes:
        ids: its ids, without those of begin and end.
        score: its log-probability, end included, over its number of tokens to the power of the
            length penalty, in nats.
    """

    ids: Int[Tensor, "token"]
    score: float


@torch.no_grad()
def greedy(
    model: Decoder, source: Tokens, *, begin: int, end: int, max_length: int | Tensor = 256
) -> list[Int[Tensor, "_"]]:
    """For each example the ids that follow when each next token is the likeliest, on the CPU.

    Args:
        model: a `Transformer`, or a `LanguageModel`, whose prompts are the source.
        source: ids of the sentences.
        begin: id that a target begins with; a language model does not read it.
        end: id at which a sequence ends; it is not returned.
        max_length: most tokens to decode, end included, or those of each example [example].

    Raises:
        ValueError: if the model is in training mode, where dropout is on, or there is nothing to
            go on from.
    """
    search = _Search(model, source, begin)
    limits = _limits(max_length, source)
    live = torch.arange(source.num_examples)
    columns: list[Tensor] = []
    while live.numel():
        new = search.logits().argmax(-1).cpu()
        columns.append(torch.full((source.num_examples,), end).index_copy_(0, live, new))
        going = (new != end) & (len(columns) < limits[live])
        rows = going.nonzero().squeeze(1)
        search.go_on(new[rows], rows, rows)
        live = live[rows]
    table = torch.stack(columns, 1)
    return [row[row != end] for row in table]


@torch.no_grad()
def beam_search(
    model: Decoder,
    source: Tokens,
    *,
    begin: int,
    end: int,
    beam: int = 5,
    length_penalty: float = 1.0,
    max_length: int | Tensor = 256,
) -> list[list[Hypothesis]]:
    """For each example the best sequences that a beam finds, the best first, on the CPU.

    An example is done when `beam` of its sequences have ended and none under way scores better than
    the best of them. Where none has ended by `max_length`, those under way are given as they are.

    Args:
        model: a `Transformer`, or a `LanguageModel`, whose prompts are the source.
        source: ids of the sentences.
        begin: id that a target begins with; a language model does not read it.
        end: id at which a sequence ends; it is not returned.
        beam: number of sequences followed side by side.
        length_penalty: power of the length that a log-probability is divided by: at 0 short
            sequences are favored, at 1 means over tokens are compared.
        max_length: most tokens to decode, end included, or those of each example [example].

    Raises:
        ValueError: if the model is in training mode, where dropout is on, there is nothing to go on
            from, or the beam is wider than half the vocabulary.

    Source: candidates, twice as many as the beam is wide, follow Ott et al. 2019, fairseq
        (1904.01038). Its search ends with the `beam`-th sequence: of a model that is sure, that is
        often before the likeliest sequence has ended.
    """
    search = _Search(model, source, begin)
    limits = _limits(max_length, source)
    live = torch.arange(source.num_examples)
    finished: list[list[Hypothesis]] = [[] for _ in range(source.num_examples)]
    totals = torch.zeros(source.num_examples, 1)
    ids = torch.empty(source.num_examples, 1, 0, dtype=torch.int64)
    while live.numel():
        num_parents = totals.shape[1]
        totals, parents, new = _candidates(totals, search.logits(), beam)
        ids = torch.cat([_picked(ids, parents), new.unsqueeze(2)], 2)
        length = ids.shape[2]
        scores = totals / length**length_penalty
        ended = new == end
        _collect(finished, live, ids[..., :-1], scores, ended & (torch.arange(2 * beam) < beam))
        # Stable, so that the best come first.
        rest = ended.int().argsort(dim=1, stable=True)[:, :beam]
        parts = (totals, scores, parents, ids)
        totals, scores, parents, ids = (_picked(part, rest) for part in parts)
        over = length >= limits[live]
        none = torch.tensor([not finished[example] for example in live.tolist()])
        unfinished = (over & none).unsqueeze(1).expand_as(rest)
        _collect(finished, live, ids, scores, unfinished)
        going = _can_improve([finished[example] for example in live.tolist()], scores, beam)
        kept = (~over & going).nonzero().squeeze(1)
        rows = kept.unsqueeze(1) * num_parents + parents[kept]
        search.go_on(ids[kept, :, -1].flatten(), rows.flatten(), kept)
        live, totals, ids = live[kept], totals[kept], ids[kept]
    return [sorted(found, key=lambda one: -one.score)[:beam] for found in finished]


class _Search:
    """A model with its cache and its memory, one step after another."""

    def __init__(self, model: Decoder, source: Tokens, begin: int) -> None:
        if model.training:
            raise ValueError("the model is training, with dropout on; call model.eval() first")
        self.model = model
        self.new, self.memory = model.start(source, begin)
        if int(self.new.lengths.min()) < 1:
            empty = int(self.new.lengths.argmin())
            raise ValueError(
                f"example {empty} has no token to go on from; give each prompt at least one, such "
                "as that of a beginning"
            )
        self.cache = Cache(source.num_examples, device=source.x.device)

    def logits(self) -> Float[Tensor, "sequence vocabulary"]:
        """Logits of the token that follows each sequence."""
        hidden = self.model.decode(self.new, self.memory, cache=self.cache)
        return self.model.logits(hidden.index_select(0, self.new.ptr[1:] - 1))

    def go_on(
        self,
        ids: Int[Tensor, "chosen"],
        rows: Int[Tensor, "chosen"],
        examples: Int[Tensor, "kept"],
    ) -> None:
        """Goes on with these ids behind these sequences, of these examples of the memory."""
        device = self.new.x.device
        if not torch.equal(rows, torch.arange(self.cache.num_examples)):
            self.cache.select(rows.to(device))
        if self.memory is not None and examples.numel() != self.memory.num_examples:
            self.memory, kept = _examples(self.memory, examples.to(device))
            self.cache.select_memory(kept)
        ptr = torch.arange(ids.numel() + 1, device=device)
        self.new = Tokens(
            ids.to(device), ptr, torch.zeros_like(ptr[1:]).unsqueeze(1), torch.ones_like(ids)
        )


def _candidates(
    totals: Float[Tensor, "example parent"],
    logits: Float[Tensor, "sequence vocabulary"],
    beam: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Total log-probability, parent and new id of the best continuations, two a beam, in order."""
    size = logits.shape[1]
    if 2 * beam > size:
        raise ValueError(
            f"a beam of {beam} needs a vocabulary of at least {2 * beam} ids, it has {size}; "
            "search with a narrower beam"
        )
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    steps = precise.log_softmax(-1).view(*totals.shape, size)
    all_totals = totals.to(steps.device).unsqueeze(2) + steps
    best, index = all_totals.flatten(1).topk(2 * beam)
    index = index.cpu()
    return best.cpu(), index // size, index % size


def _collect(
    finished: list[list[Hypothesis]],
    live: Int[Tensor, "example"],
    ids: Int[Tensor, "example candidate length"],
    scores: Float[Tensor, "example candidate"],
    which: Bool[Tensor, "example candidate"],
) -> None:
    """Adds candidates to what is finished."""
    for row, candidate in which.nonzero().tolist():
        one = Hypothesis(ids[row, candidate].clone(), float(scores[row, candidate]))
        finished[int(live[row])].append(one)


def _can_improve(
    finished: list[list[Hypothesis]], scores: Float[Tensor, "example candidate"], beam: int
) -> Bool[Tensor, "example"]:
    """Where fewer than `beam` sequences have ended, or one under way scores better than those."""
    few = torch.tensor([len(found) < beam for found in finished])
    highest = [max((one.score for one in found), default=0.0) for found in finished]
    return few | (scores.max(1).values > torch.tensor(highest, dtype=scores.dtype))


def _picked(
    table: Shaped[Tensor, "example candidate *rest"], index: Int[Tensor, "example chosen"]
) -> Shaped[Tensor, "example chosen *rest"]:
    """Of each example the candidates of these numbers."""
    example = torch.arange(table.shape[0]).unsqueeze(1)
    return table[example, index]


def _examples(tokens: Tokens, index: Int[Tensor, "kept"]) -> tuple[Tokens, Int[Tensor, "token"]]:
    """These examples of the tokens, and the rows that they had."""
    sizes = tokens.ptr.diff().index_select(0, index)
    lengths = tokens.lengths[index.cpu()]
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    shift = tokens.ptr.index_select(0, index) - ptr[:-1]
    num_tokens = int(lengths.sum())
    rows = torch.arange(num_tokens, device=index.device)
    rows = rows + shift.repeat_interleave(sizes, output_size=num_tokens)
    return Tokens(tokens.x[rows], ptr, tokens.at[rows], lengths, tokens.num_virtual), rows


def _limits(max_length: int | Tensor, source: Tokens) -> Int[Tensor, "example"]:
    limits = torch.as_tensor(max_length).cpu()
    if int(limits.min()) < 1:
        raise ValueError(f"max_length is at least 1 token, it is {int(limits.min())}")
    return limits.expand(source.num_examples)
