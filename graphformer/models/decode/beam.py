"""Beam search: the likeliest sequences that a few followed side by side lead to."""

from __future__ import annotations

from itertools import count

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from graphformer.models.decode.state import (
    Decoder,
    Hypothesis,
    State,
    check_count,
    kept_of,
    limits_of,
)
from graphformer.models.decode.top import find_best
from graphformer.tokens import Tokens


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
        model: a `Transformer` or an `AttentionalLSTM`, or a `LanguageModel`, whose prompts are the
            source.
        source: ids of the sentences.
        begin: id that a target begins with; a language model does not read it.
        end: id at which a sequence ends; it is not returned.
        beam: number of sequences followed side by side.
        length_penalty: power of the length that a log-probability is divided by: at 0 short
            sequences are favored, at 1 means over tokens are compared.
        max_length: most tokens to decode, end included, or those of each example [example].

    Raises:
        ValueError: if the model is in training mode, where dropout is on, there is nothing to go on
            from, a number makes no sense, or the beam is wider than half the vocabulary.

    Source: candidates, twice as many as the beam is wide, follow Ott et al. 2019, fairseq
        (1904.01038). Its search ends with the `beam`-th sequence: of a model that is sure, that is
        often before the likeliest sequence has ended.
    """
    check_count("beam", beam)
    state = State(model, source, begin)
    limits, size = limits_of(max_length, source), source.num_examples
    found = _Found(size, beam)
    live, done = torch.arange(size), torch.zeros(size, dtype=torch.bool)
    totals = torch.zeros(size, 1)
    ids = torch.empty(size, 1, 0, dtype=torch.int64)
    for length in count(1):
        totals, parents, new = _candidates(state, totals, beam)
        ids = torch.cat([_picked(ids, parents), new.unsqueeze(2)], 2)
        scores = totals / length**length_penalty
        ended, live_rows = new == end, ~done.unsqueeze(1)
        found.add(live, ids[..., :-1], scores, ended & live_rows & (torch.arange(2 * beam) < beam))
        # Stable, so that the best come first.
        rest = ended.int().argsort(dim=1, stable=True)[:, :beam]
        totals, scores, parents, ids = (
            _picked(part, rest) for part in (totals, scores, parents, ids)
        )
        over = length >= limits[live]
        without = (over & ~done & (found.num_ended[live] == 0)).unsqueeze(1)
        found.add(live, ids, scores, without.expand_as(rest))
        done = done | over | ~found.can_improve(live, scores)
        if bool(done.all()):
            break
        kept = kept_of(done)
        if kept is not None:
            live, done, totals, ids, parents = (
                part[kept] for part in (live, done, totals, ids, parents)
            )
        state.go_on(ids[..., -1], parents, kept)
    return found.best()


class _Found:
    """The sequences that have ended, and how good those of each example are."""

    def __init__(self, num_examples: int, beam: int) -> None:
        self.beam = beam
        self.num_ended = torch.zeros(num_examples, dtype=torch.int64)
        self.highest = torch.full((num_examples,), -torch.inf, dtype=torch.float64)
        self.hypotheses: list[list[Hypothesis]] = [[] for _ in range(num_examples)]

    def add(
        self,
        live: Int[Tensor, "example"],
        ids: Int[Tensor, "example candidate length"],
        scores: Float[Tensor, "example candidate"],
        which: Bool[Tensor, "example candidate"],
    ) -> None:
        """Adds candidates."""
        row, candidate = which.nonzero().unbind(1)
        owners, sequences = live[row].tolist(), ids[row, candidate].unbind(0)
        for owner, one, score in zip(
            owners, sequences, scores[row, candidate].tolist(), strict=True
        ):
            self.hypotheses[owner].append(Hypothesis(one, score))
        self.num_ended[live] += which.sum(1)
        best = scores.double().masked_fill(~which, -torch.inf).amax(1)
        self.highest[live] = torch.maximum(self.highest[live], best)

    def can_improve(
        self, live: Int[Tensor, "example"], scores: Float[Tensor, "example candidate"]
    ) -> Bool[Tensor, "example"]:
        """Where fewer than `beam` sequences have ended, or one under way scores better."""
        few = self.num_ended[live] < self.beam
        return few | (scores.double().amax(1) > self.highest[live])

    def best(self) -> list[list[Hypothesis]]:
        """The best of each example, in falling order."""
        ranked = (sorted(each, key=lambda one: -one.score) for each in self.hypotheses)
        return [each[: self.beam] for each in ranked]


def _candidates(
    state: State, totals: Float[Tensor, "example parent"], beam: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Total log-probability, parent and new id of the best continuations, two a beam, in order."""

    def read(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        size = logits.shape[1]
        if 2 * beam > size:
            raise ValueError(
                f"a beam of {beam} needs a vocabulary of at least {2 * beam} ids, it has {size}; "
                "search with a narrower beam"
            )
        best = find_best(logits, 2 * beam)
        return best.values - best.log_sums.unsqueeze(1), best.columns

    steps, ids = state.of_logits(read)
    each = (totals.shape[0], -1)
    best, place = (totals.unsqueeze(2) + steps.view(*totals.shape, -1)).view(each).topk(2 * beam)
    return best, place.div(2 * beam, rounding_mode="floor"), ids.view(each).gather(1, place)


def _picked(
    table: Shaped[Tensor, "example candidate *rest"], index: Int[Tensor, "example chosen"]
) -> Shaped[Tensor, "example chosen *rest"]:
    """Of each example the candidates of these numbers."""
    example = torch.arange(table.shape[0]).unsqueeze(1)
    return table[example, index]
