"""Sampling: each next token is drawn, and each sentence has a generator of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
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


@dataclass(frozen=True)
class Draw:
    """How tokens are drawn.

    Attributes:
        temperature: what logits are divided by: below 1 likely tokens are favored.
        top_k: so many tokens at most are drawn from, the likeliest ones; all where left out.
        top_p: the likeliest tokens are drawn from that have this probability together, and none
            that is less likely.
        seed: with the number of a sentence it says what is drawn.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"temperature is {self.temperature}: write a number above 0, or decode greedily"
            )
        if self.top_k is not None:
            check_count("top_k", self.top_k)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: write a probability above 0")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: write a number of at least 0")


@torch.no_grad()
def sample(
    model: Decoder,
    source: Tokens,
    *,
    begin: int,
    end: int,
    draw: Draw | None = None,
    count: int = 1,
    numbers: list[int] | None = None,
    max_length: int | Tensor = 256,
) -> list[list[Hypothesis]]:
    """For each example `count` sequences drawn from what the model says, on the CPU.

    What is drawn for a sentence depends on the seed and on its number alone, not on what it is
    decoded with. A score is the mean log-probability that the model gives to a token, at
    temperature 1.

    Args:
        model: a `Transformer` or an `AttentionalLSTM`, or a `LanguageModel`, whose prompts are the
            source.
        source: ids of the sentences.
        begin: id that a target begins with; a language model does not read it.
        end: id at which a sequence ends; it is not returned.
        draw: how tokens are drawn.
        count: sequences of each example.
        numbers: the number of each example; 0, 1, 2, ... where left out.
        max_length: most tokens to decode, end included, or those of each example [example].

    Raises:
        ValueError: if the model is in training mode, where dropout is on, there is nothing to go on
            from, or a number makes no sense.

    Source: Fan et al. 2018 (1805.04833) for top-k, Holtzman et al. 2020 (1904.09751) for top-p.
    """
    check_count("count", count)
    draw = draw or Draw()
    state, limits = State(model, source, begin), limits_of(max_length, source)
    size = source.num_examples
    numbers = list(range(size)) if numbers is None else numbers
    if len(numbers) != size:
        raise ValueError(f"there are {len(numbers)} numbers for {size} examples: give one each")
    generators = [[_generator(draw.seed, at, which) for which in range(count)] for at in numbers]
    live, ended = torch.arange(size), torch.zeros(size, count, dtype=torch.bool)
    ids, totals = torch.full((size, count, 1), end), torch.zeros(size, count, dtype=torch.float64)
    lengths = torch.zeros(size, count, dtype=torch.int64)
    parents = torch.zeros(size, count, dtype=torch.int64)
    for length in range(1, int(limits.max()) + 1):
        going = ~ended[live]
        chance = _chances(generators, live.tolist(), going)
        # All sequences of an example begin with the same logits.
        repeats = 1 if length > 1 else count
        new, steps = _drawn(state, chance.flatten(), draw, repeats)
        new, steps = (part.view(-1, count) for part in (new, steps))
        new = new.masked_fill(~going, end)
        ids = torch.cat([ids, torch.full((size, count, 1), end)], 2)
        ids[live, :, length] = new
        totals[live] += steps.double() * going
        lengths[live] += going
        ended[live] |= (new == end) | (length >= limits[live]).unsqueeze(1)
        done = ended[live].all(1)
        if bool(done.all()):
            break
        kept = kept_of(done)
        if kept is not None:
            live, new = live[kept], new[kept]
        state.go_on(new, parents[live], kept)
        parents = torch.arange(count).expand(size, -1)
    scores = (totals / lengths).tolist()
    return [
        [Hypothesis(row[row != end], score) for row, score in zip(rows, of_rows, strict=True)]
        for rows, of_rows in zip(ids, scores, strict=True)
    ]


def _generator(seed: int, number: int, which: int) -> torch.Generator:
    mixed = np.random.SeedSequence([seed, number, which]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def _chances(
    generators: list[list[torch.Generator]], live: list[int], going: Tensor
) -> Float[Tensor, "example sequence"]:
    """A number between 0 and 1 for each sequence that goes on."""
    rows = [
        [
            float(torch.rand((), generator=each, dtype=torch.float64)) if goes else 0.0
            for each, goes in zip(generators[example], flags, strict=True)
        ]
        for example, flags in zip(live, going.tolist(), strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _drawn(
    state: State, chance: Float[Tensor, "sequence"], draw: Draw, repeats: int
) -> tuple[Int[Tensor, "sequence"], Float[Tensor, "sequence"]]:
    """The drawn ids and their log-probabilities; each row of logits serves `repeats` sequences."""

    def read(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        first = rows.start * repeats
        some = chance[first : first + logits.shape[0] * repeats].to(logits.device)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = precise.repeat_interleave(repeats, 0)
        ids = choose(logits, some, draw)
        return ids, logits.log_softmax(1).gather(1, ids.unsqueeze(1)).squeeze(1)

    ids, steps = state.of_logits(read)
    return ids, steps


def choose(
    logits: Float[Tensor, "row vocabulary"], chance: Float[Tensor, "row"], draw: Draw
) -> Int[Tensor, "row"]:
    """The id at which the probabilities, summed up, pass `chance` (0 to 1) in each row."""
    size = logits.shape[1]
    order = None
    if draw.top_k is not None and draw.top_k < size:
        logits, order, _ = find_best(logits, draw.top_k)
    elif draw.top_p < 1:
        logits, order = logits.sort(1, descending=True)
    # Of small temperatures what is divided would be infinite.
    below = logits.double() - logits.amax(1, keepdim=True)
    shares = (below / draw.temperature).softmax(1)
    if draw.top_p < 1:
        before = shares.cumsum(1) - shares
        shares = shares.masked_fill(before >= draw.top_p, 0.0)
    summed = shares.cumsum(1)
    passed = summed <= (chance * summed[:, -1]).unsqueeze(1)
    # Rounding must not lead behind the last one that has a share.
    last = shares.shape[1] - 1 - (shares > 0).flip(1).int().argmax(1)
    place = torch.minimum(passed.sum(1), last)
    return place if order is None else order.gather(1, place.unsqueeze(1)).squeeze(1)
