"""How good translations are."""

from __future__ import annotations

from typing import NamedTuple

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


class Quality(NamedTuple):
    """How good translations are; print it for the signature of sacreBLEU, too.

    Attributes:
        figures: `bleu` and `chrf` (of 100), `exact_match` (of 1).
    """

    figures: dict[str, float]

    def __str__(self) -> str:
        bleu, chrf, exact_match = self.figures.values()
        return f"BLEU {bleu:.2f}, chrF {chrf:.2f}, exact match {exact_match:.2%}\n{signature()}"


def measure(found: list[str], references: list[str]) -> Quality:
    """The quality of the lines `found`, cased, against one reference each.

    Raises:
        ValueError: there is not one reference a line, or there is none.

    Source: Post 2018, A Call for Clarity in Reporting BLEU Scores (1804.08771).
    """
    if len(found) != len(references):
        raise ValueError(
            f"there are {len(found):,} translations and {len(references):,} references: line i of "
            "one must translate what line i of the other does"
        )
    if not found:
        raise ValueError("there is no translation to score")
    bleu, chrf = metrics()
    return Quality(
        {
            "bleu": bleu.corpus_score(found, [references]).score,
            "chrf": chrf.corpus_score(found, [references]).score,
            "exact_match": sum(map(str.__eq__, found, references)) / len(found),
        }
    )


def metrics() -> tuple[BLEU, CHRF]:
    """Cased BLEU of detokenized text, and chrF."""
    return BLEU(tokenize="13a"), CHRF()


def signature() -> str:
    """What sacreBLEU says of how BLEU and chrF are computed."""
    bleu, chrf = metrics()
    for metric in (bleu, chrf):
        metric.corpus_score(["-"], [["-"]])  # before it has scored, a metric has no signature
    return f"BLEU {bleu.get_signature()}; chrF {chrf.get_signature()}"
