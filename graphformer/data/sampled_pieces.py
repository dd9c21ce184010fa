"""Words in other pieces each time: byte-pair encoding of which merges are left out by chance."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from random import Random

from tokenizers import Tokenizer

# Ways to write each word, of which one is drawn where it stands.
NUM_WAYS = 32
# A longer word, in bytes, is written in one way: of an address there is nothing to learn.
LONGEST_WORD = 64
# Words whose ways are kept; beyond, they are made again when they are needed.
MOST_WORDS = 2**18

Ways = list[list[int]]


class SampledPieces:
    """Byte-pair encoding that leaves out each merge with some probability.

    A word of at most `LONGEST_WORD` bytes is written in one of `NUM_WAYS` ways, which depend on
    nothing but the word, the vocabulary and the probability: they are made when the word is met, in
    whatever process. Which of them it is, the caller draws.

    Args:
        tokenizer: byte-pair encoding, see `train_bpe`.
        probability: of leaving out a merge each time it could be made; at 0 there is one way, that
            of the tokenizer.

    Raises:
        ValueError: the tokenizer merges nothing.

    Source: Provilkov et al., BPE-Dropout, 2020 (arXiv 1910.13267), algorithm 1.
    """

    def __init__(self, tokenizer: Tokenizer, probability: float) -> None:
        model = json.loads(tokenizer.to_str())["model"]
        if model["type"] != "BPE":
            raise ValueError(
                f"merges are left out of byte-pair encoding, and this vocabulary is a "
                f"{model['type']}: train it with train_bpe"
            )
        ids: dict[str, int] = model["vocab"]
        merges = [tuple(pair) for pair in model["merges"]]
        self._ids = ids
        self._ranks = {(ids[one], ids[two]): rank for rank, (one, two) in enumerate(merges)}
        self._merged = [ids[one + two] for one, two in merges]
        self._tokenizer = tokenizer
        self._probability = probability
        self._ways: dict[str, Ways] = {}

    def encode(self, lines: list[str], draw: Callable[[int], list[int]]) -> list[list[int]]:
        """The ids of each line; see `pick`."""
        return pick([self.split(line) for line in lines], draw)

    def split(self, line: str) -> list[Ways]:
        """The ways of each word of the line."""
        split = self._tokenizer.pre_tokenizer.pre_tokenize_str(line)
        known = self._ways
        return [known.get(word) or self._make_ways(word) for word, _ in split]

    def _make_ways(self, word: str) -> Ways:
        if len(self._ways) >= MOST_WORDS:
            self._ways.clear()
        random = Random(word)
        if len(word) > LONGEST_WORD or not self._probability:
            made = [self._merge(word, 0.0, random)]
        else:
            made = [self._merge(word, self._probability, random) for _ in range(NUM_WAYS)]
        self._ways[word] = made
        return made

    def _merge(self, word: str, probability: float, random: Random) -> list[int]:
        ranks, merged, chance = self._ranks, self._merged, random.random
        none = len(merged)
        pieces = [self._ids[each] for each in word]
        found = [ranks.get(pair, none) for pair in pairwise(pieces)]
        while found and (best := min(found)) < none:
            place = found.index(best)
            # The first in their order that is not left out is the first of those left.
            if probability and chance() < probability:
                for place in sorted(range(len(found)), key=found.__getitem__)[1:]:
                    if found[place] == none or chance() >= probability:
                        break
                else:
                    break
                if found[place] == none:
                    break
            pieces[place : place + 2] = [merged[found[place]]]
            del found[place]
            if place:
                found[place - 1] = ranks.get((pieces[place - 1], pieces[place]), none)
            if place < len(found):
                found[place] = ranks.get((pieces[place], pieces[place + 1]), none)
        return pieces


def pick(lines: list[list[Ways]], draw: Callable[[int], list[int]]) -> list[list[int]]:
    """The ids of each line, of which each word is written in one of its ways.

    Args:
        lines: the ways of each word, see `SampledPieces.split`.
        draw: so many numbers below `NUM_WAYS`.
    """
    drawn = iter(draw(sum(map(len, lines))))
    return [[id_ for ways in line for id_ in ways[next(drawn) % len(ways)]] for line in lines]


def mean_length(line: list[Ways]) -> float:
    """Number of ids of the line, on average."""
    return sum(sum(map(len, ways)) / len(ways) for ways in line)
