"""How good translations are."""

from __future__ import annotations

from typing import NamedTuple

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


class Quality(NamedTuple):
    """How good translations are; print it for the signature of sacreBLEU, too.

    Attributes:
        figures: `bleu` and `chrf` (of 100), `exact_match` (of 1).
        tokenize: how BLEU found words.
    """

    figures: dict[str, float]
    tokenize: str = "13a"

    def __str__(self) -> str:
        bleu, chrf, exact_match = self.figures.values()
        scores = f"BLEU {bleu:.2f}, chrF {chrf:.2f}, exact match {exact_match:.2%}"
        return f"{scores}\n{signature(self.tokenize)}"


def measure(found: list[str], references: list[str], tokenize: str = "13a") -> Quality:
    """The quality of the lines `found`, cased, against one reference each.

    Args:
        found: translations.
        references: what they should be.
        tokenize: how BLEU finds words: sacreBLEU's "13a", or "none" where spaces part them.

    Raises:
        ValueError: there is not one reference a line, or there is none.

    Source: Post 2018, A Call for Clarity in Reporting BLEU Scores (1804.08771).
    """
    check_lines(found, references)
    bleu, chrf = metrics(tokenize)
    return Quality(
        {
            "bleu": bleu.corpus_score(found, [references]).score,
            "chrf": chrf.corpus_score(found, [references]).score,
            "exact_match": sum(map(str.__eq__, found, references)) / len(found),
        },
        tokenize,
    )


def check_lines(found: list[str], references: list[str]) -> None:
    """Does nothing where there are translations, and a reference for each.

    Raises:
        ValueError: otherwise.
    """
    if len(found) != len(references):
        raise ValueError(
            f"there are {len(found):,} translations and {len(references):,} references: line i of "
            "one must translate what line i of the other does"
        )
    if not found:
        raise ValueError("there is no translation to score")


def metrics(tokenize: str = "13a") -> tuple[BLEU, CHRF]:
    """Cased BLEU, and chrF."""
    # Text that is tokenized already is what "none" is for: no need for a warning.
    return BLEU(tokenize=tokenize, force=tokenize == "none"), CHRF()


def signature(tokenize: str = "13a") -> str:
    """What sacreBLEU says of how BLEU and chrF are computed."""
    bleu, chrf = metrics(tokenize)
    for metric in (bleu, chrf):
        metric.corpus_score(["-"], [["-"]])  # before it has scored, a metric has no signature
    return f"BLEU {bleu.get_signature()}; chrF {chrf.get_signature()}"
