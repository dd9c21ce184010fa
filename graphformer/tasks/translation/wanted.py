"""What is wanted of translations: how many of each line, drawn or searched for, and how scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from graphformer.models.decode import Draw
from graphformer.tasks.settings import check_least
from graphformer.tasks.translation.settings import Corpus, Search

Tokenize = Literal["13a", "none", "intl", "char"]


@dataclass(frozen=True)
class Sample:
    """How translations are drawn at random instead of searched for.

    Attributes:
        temperature: draws words from their probabilities, below 1 more often the likely ones;
            left out, nothing is drawn.
        top_k: so many words at most are drawn from, the likeliest.
        top_p: the likeliest words are drawn from that have this probability together.
        seed: another one draws other translations; what is drawn for a line depends on nothing
            but this and its number.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature is not None:
            self.draw  # noqa: B018 - which refuses what makes no sense
        elif (self.top_k, self.top_p, self.seed) != (None, 1.0, 0):
            raise ValueError(
                "sample.temperature is None, and how to draw is given: write --sample.temperature "
                "1 to draw translations, or leave out --sample.top_k, --sample.top_p and "
                "--sample.seed"
            )

    @property
    def draw(self) -> Draw:
        """How tokens are drawn, of a temperature that is given."""
        assert self.temperature is not None
        return Draw(self.temperature, self.top_k, self.top_p, self.seed)


@dataclass(frozen=True)
class Wanted:
    """What is written of each line.

    Attributes:
        n_best: number of translations of a line, the best first, or as many drawn ones. More than
            one are written a line each: number of the line, score, translation, between tabs.
        alignments: behind each translation and a tab, which words of the line it comes from: 0-1
            says that the second word of the translation comes from the first one of the line.
        longest: longer lines, in tokens, are not translated, with a warning.
        sample: how translations are drawn at random instead of searched for.
    """

    n_best: int = 1
    alignments: bool = False
    longest: int = 1000
    sample: Sample = field(default_factory=Sample)

    def __post_init__(self) -> None:
        check_least(self, n_best=1, longest=1)

    def check_fits(self, search: Search) -> None:
        """Does nothing where search and what is wanted fit each other.

        Raises:
            ValueError: the search follows fewer translations than are wanted, or nothing is
                searched for and how to search is given.
        """
        for name in ("beam", "length_penalty") if self.sample.temperature is not None else ():
            if (given := getattr(search, name)) != getattr(Search, name):
                raise ValueError(
                    f"{name} is {given}, and with sample.temperature translations are drawn, not "
                    "searched for: leave one of them out"
                )
        if self.sample.temperature is None and self.n_best > search.beam:
            raise ValueError(
                f"n_best is {self.n_best}, and a beam of {search.beam} finds {search.beam}: write "
                f"--beam {self.n_best}"
            )


@dataclass(frozen=True)
class Scoring:
    """How translations are scored.

    Attributes:
        tokenize: how BLEU finds words: 13a in detokenized text; none where text has spaces between
            its words and signs already; intl, by classes of characters; char, each by itself. Left
            out, it is none for the variant tok of Multi30k, and 13a for all else.
    """

    tokenize: Tokenize | None = None

    def finds_words(self, corpus: Corpus | None = None) -> Tokenize:
        """How words are found in the translations of a corpus, or in any text."""
        if self.tokenize is not None:
            return self.tokenize
        is_tokenized = corpus is not None and corpus.reads_multi30k and corpus.variant == "tok"
        return "none" if is_tokenized else "13a"
