"""Lines of text through a model: in batches of like length, searched for or drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from graphformer.data.vocabulary import END, START
from graphformer.models.decode import Hypothesis, beam_search, greedy, sample
from graphformer.tasks.translation.corpus import encode_sources
from graphformer.tasks.translation.settings import Precision, Search
from graphformer.tasks.translation.wanted import Wanted
from graphformer.tokens import Tokens, sequences

if TYPE_CHECKING:
    from graphformer.tasks.translation.translator import Translator

# Source tokens that are translated at a time.
BATCH_TOKENS = 8192
# A translation has at most so many tokens more than its translator's `growth` allows.
MORE = 20


class Found(NamedTuple):
    """A translation.

    Attributes:
        text: of it.
        score: its log-probability a token, in nats, lengths counted as the search does; not a
            number where none was computed, as for the likeliest next tokens.
        is_cut: whether it has as many tokens as the translator allows, and no end.
    """

    text: str
    score: float = float("nan")
    is_cut: bool = False


def find(
    translator: Translator,
    lines: list[str],
    search: Search,
    wanted: Wanted | None = None,
    first: int = 0,
    report: Callable[[int], object] | None = None,
    name: str = "the text",
) -> list[list[Found]]:
    """The translations of each line, the best first; an empty line has one, which is empty.

    One that is too long has an empty one too, with a warning: its search would take hours.

    Args:
        translator: model and vocabulary.
        lines: of text.
        search: how translations are searched for.
        wanted: how many, and whether they are drawn.
        first: number of the first line, on which depends what is drawn.
        report: called with numbers of lines that were translated.
        name: of what the lines come from, for warnings.
    """
    wanted = wanted or Wanted()
    found = [[Found("", 0.0)] for _ in lines]
    sources = encode_sources(translator.source_tokenizer, lines)
    lengths = [len(source) for source in sources]
    _warn_of_long(lengths, wanted.longest, first, name)
    chosen_lines = [
        index
        for index, line in enumerate(lines)
        if line.strip() and lengths[index] - 1 <= wanted.longest
    ]
    by_length = sorted(chosen_lines, key=lambda index: lengths[index])
    if report is not None:
        report(len(lines) - len(by_length))
    with evaluating(translator, search.decoding_precision):
        for chosen in runs_of(by_length, lengths):
            tokens = sequences([sources[index] for index in chosen])
            numbers = [first + index for index in chosen]
            limits = limits_of(translator, tokens)
            hypotheses = decode(translator, tokens, search, wanted, numbers, limits)
            texts = iter(
                translator.target_tokenizer.decode_batch(
                    [one.ids.tolist() for each in hypotheses for one in each]
                )
            )
            for index, each, limit in zip(chosen, hypotheses, limits.tolist(), strict=True):
                found[index] = [
                    Found(in_a_line(next(texts)), one.score, len(one.ids) >= limit) for one in each
                ]
            if report is not None:
                report(len(chosen))
    return found


def best_of(
    translator: Translator, lines: list[str], search: Search, name: str = "the text"
) -> list[str]:
    """The best translation of each line; an empty line stays empty.

    Args:
        translator: model and vocabulary.
        lines: of text.
        search: how translations are searched for.
        name: of what the lines come from, for warnings.
    """
    return [each[0].text for each in find(translator, lines, search, name=name)]


def limits_of(translator: Translator, source: Tokens) -> Int[Tensor, "sentence"]:
    """Most tokens of each translation: an end to those that repeat themselves."""
    return (translator.growth * source.lengths).ceil().long() + MORE


def decode(
    translator: Translator,
    source: Tokens,
    search: Search,
    wanted: Wanted,
    numbers: list[int],
    limits: Int[Tensor, "sentence"],
) -> list[list[Hypothesis]]:
    """What is found for each sentence, of these numbers, with at most so many tokens."""
    model = translator.model
    source = source.to(model.output_weight.device)
    if wanted.sample.temperature is not None:
        draw, count = wanted.sample.draw, wanted.n_best
        return sample(
            model,
            source,
            begin=START,
            end=END,
            draw=draw,
            count=count,
            numbers=numbers,
            max_length=limits,
        )
    if search.beam == 1:
        likeliest = greedy(model, source, begin=START, end=END, max_length=limits)
        return [[Hypothesis(ids, float("nan"))] for ids in likeliest]
    penalty = search.length_penalty
    found = beam_search(
        model,
        source,
        begin=START,
        end=END,
        beam=search.beam,
        length_penalty=penalty,
        max_length=limits,
    )
    return [each[: wanted.n_best] for each in found]


def _warn_of_long(lengths: list[int], longest: int, first: int, name: str) -> None:
    """Warns, once, of the lines that are too long to be translated."""
    long = [at for at, length in enumerate(lengths) if length - 1 > longest]
    if not long:
        return
    most = max(lengths[at] for at in long) - 1
    others = f" and {len(long) - 1:,} others with up to {most:,}" if len(long) > 1 else ""
    stay = "stay" if others else "stays"
    warnings.warn(
        f"{name}, line {first + long[0] + 1:,} has {lengths[long[0]] - 1:,} tokens{others} and "
        f"{stay} untranslated: cut into sentences, or predict with --longest {most}",
        stacklevel=3,
    )


@contextmanager
def evaluating(translator: Translator, precision: Precision = "32-true") -> Iterator[None]:
    """In the block the model of a translator computes without dropout and without gradients."""
    model = translator.model
    was_training, device = model.training, model.output_weight.device.type
    model.eval()
    low = precision == "bf16-mixed"
    try:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=low):
            yield
    finally:
        model.train(was_training)


def in_a_line(text: str) -> str:
    """The text, which may hold what would end a line, as one line."""
    return text.replace("\n", " ").replace("\r", " ").strip()


def runs_of(indices: list[int], lengths: list[int]) -> list[list[int]]:
    """The indices in runs of at most BATCH_TOKENS tokens, or of one line."""
    runs: list[list[int]] = []
    size = 0
    for index in indices:
        if not runs or size + lengths[index] > BATCH_TOKENS:
            runs.append([])
            size = 0
        runs[-1].append(index)
        size += lengths[index]
    return runs
