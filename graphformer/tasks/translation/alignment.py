"""Which words of a line the words of its translation come from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from tokenizers import Encoding
from torch import Tensor

from graphformer.data.vocabulary import END, START
from graphformer.models.decode import align
from graphformer.tasks.translation.decoding import evaluating, runs_of
from graphformer.tokens import sequences

if TYPE_CHECKING:
    from graphformer.tasks.translation.translator import Translator

WORD = re.compile(r"\S+")


class Alignment(NamedTuple):
    """How much each word of a translation attends to each word of its source.

    Attributes:
        source: words of the source.
        target: words of the translation.
        weights: what the tokens of a source word get, on average over those of the target word.
    """

    source: list[str]
    target: list[str]
    weights: Float[Tensor, "target source"]

    def __str__(self) -> str:
        if not self.source or not self.target:
            return ""
        best = self.weights.argmax(1).tolist()
        return " ".join(f"{source}-{target}" for target, source in enumerate(best))


def align_words(
    translator: Translator, sources: Sequence[str], targets: Sequence[str]
) -> list[Alignment]:
    """The alignment of each translation with what it translates, by one pass through the model."""
    model = translator.model
    # As they were translated, and as training had them.
    sources, targets = ([line.strip() for line in lines] for lines in (sources, targets))
    read = translator.source_tokenizer.encode_batch(sources)
    written = translator.target_tokenizer.encode_batch(targets)
    found: list[Alignment | None] = [None] * len(read)
    lengths = [len(one.ids) + len(other.ids) + 2 for one, other in zip(read, written, strict=True)]
    device = model.output_weight.device
    by_length = sorted(range(len(read)), key=lambda index: lengths[index])
    with evaluating(translator):
        for chosen in runs_of(by_length, lengths):
            source = sequences([torch.tensor([*read[index].ids, END]) for index in chosen])
            target = sequences([torch.tensor([START, *written[index].ids]) for index in chosen])
            weights = align(model, source.to(device), target.to(device))
            for index, each in zip(chosen, weights, strict=True):
                sides = (sources[index], read[index]), (targets[index], written[index])
                # The row of a token is that of the token before it, which it is told by.
                found[index] = of_words(*sides, each[:-1, :-1])
    return [each for each in found if each is not None]


def of_words(
    source: tuple[str, Encoding],
    target: tuple[str, Encoding],
    weights: Float[Tensor, "target_token source_token"],
) -> Alignment:
    """The weights of tokens as those of words.

    Args:
        source: line and tokens of the source.
        target: line and tokens of its translation.
        weights: of each token of the target and of the source.
    """
    columns, rows = (word_of_tokens(line, encoding) for line, encoding in (source, target))
    names = [WORD.findall(line) for line in (source[0], target[0])]
    table = torch.zeros(len(names[1]), len(names[0]), dtype=torch.float64)
    count = torch.zeros(len(names[1]), 1, dtype=torch.float64)
    for row, line in zip(rows, weights.double(), strict=True):
        if row is None:
            continue
        count[row] += 1
        for column, weight in zip(columns, line.tolist(), strict=True):
            if column is not None:
                table[row, column] += weight
    return Alignment(names[0], names[1], table / count.clamp(min=1))


def word_of_tokens(line: str, encoding: Encoding) -> list[int | None]:
    """The number of the word that each token is of, the last one where it is of several."""
    number: list[int | None] = [None] * len(line)
    for word, match in enumerate(WORD.finditer(line)):
        number[match.start() : match.end()] = [word] * (match.end() - match.start())
    return [
        next((each for each in reversed(number[start:stop]) if each is not None), None)
        for start, stop in encoding.offsets
    ]
