"""How sure scores are, and whether one system is better than another: by resampled test sets."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from typing import Any, NamedTuple

from sacrebleu.significance import PairedTest

from graphformer.tasks.translation.scores import check_lines, measure, metrics

NUM_RESAMPLES = 1000
# Of more lines there are no intervals: sacreBLEU's take 80 kB a line.
MOST_LINES = 20_000


class Interval(NamedTuple):
    """A score over resampled test sets.

    Attributes:
        metric: "BLEU" or "chrF".
        score: of the test set itself.
        mean: over the resampled ones, of which NaN says that there are none.
        half: half the width of the interval around the mean that holds 95% of them.
        p_value: how often a difference as large as that to the first system comes of the resampling
            alone; None for the first itself.
    """

    metric: str
    score: float
    mean: float
    half: float
    p_value: float | None = None

    def __str__(self) -> str:
        if isnan(self.mean):
            return f"{self.metric} {self.score:.2f}"
        p_value = "" if self.p_value is None else f", p = {self.p_value:.4f}"
        return f"{self.metric} {self.score:.2f} ({self.mean:.2f} +- {self.half:.2f}{p_value})"


class Comparison(NamedTuple):
    """Systems on the same resampled test sets; print it.

    Attributes:
        intervals: of each system by its name, the first one being what others are compared with.
    """

    intervals: dict[str, list[Interval]]

    @property
    def figures(self) -> dict[str, float]:
        """Mean, interval and p-value of each system, the first one unnumbered."""
        found: dict[str, float] = {}
        for number, each in enumerate(self.intervals.values(), start=1):
            for metric, score, mean, half, p_value in each:
                name = metric.lower() if number == 1 else f"{metric.lower()}_{number}"
                if number > 1:
                    found[name] = score
                if not isnan(mean):
                    found |= {f"{name}_resampled": mean, f"{name}_interval": half}
                if p_value is not None:
                    found[f"{name}_p"] = p_value
        return found

    def __str__(self) -> str:
        width = max(map(len, self.intervals))
        rows = [
            f"{name.ljust(width)}  {', '.join(map(str, each))}"
            for name, each in self.intervals.items()
        ]
        if any(isnan(one.mean) for each in self.intervals.values() for one in each):
            return "\n".join([*rows, f"(no intervals of more than {MOST_LINES:,} lines)"])
        how = f"(mean and 95% interval of {NUM_RESAMPLES:,} resampled test sets"
        if len(rows) > 1:
            how += ", the same for all; p of the difference to the first"
        return "\n".join([*rows, f"{how})"])


def resample(
    systems: dict[str, list[str]], references: list[str], tokenize: str = "13a"
) -> Comparison:
    """The intervals of each system's scores, all on the same resampled test sets.

    Of more than `MOST_LINES` lines the scores alone.

    Args:
        systems: translations of each system by its name.
        references: what they should be.
        tokenize: how BLEU finds words.

    Raises:
        ValueError: a system has not one translation a reference, or there is none.

    Source: Koehn 2004, Statistical Significance Tests for Machine Translation Evaluation.
    """
    for lines in systems.values():
        check_lines(lines, references)
    if len(references) > MOST_LINES:
        return Comparison(
            {name: _alone(lines, references, tokenize) for name, lines in systems.items()}
        )
    bleu, chrf = metrics(tokenize)
    names = list(systems)
    # A system against itself has an interval, and a p-value that says nothing.
    compared: list[tuple[str, Sequence[str]]] = [
        (name, systems[name]) for name in names[:1] + names
    ]
    kinds = {"BLEU": bleu, "chrF": chrf}
    test = PairedTest(compared, kinds, [references], test_type="bs", n_samples=NUM_RESAMPLES)
    scores: dict[str, list[Any]] = dict(test()[1])
    found: dict[str, list[Interval]] = {name: [] for name in names}
    # sacreBLEU names chrF by its order, as chrF2.
    columns = (scores[name] for name in scores if name != "System")
    for metric, column in zip(kinds, columns, strict=True):
        for at, (name, result) in enumerate(zip(names, column[1:], strict=True)):
            score, mean, half = (float(each) for each in (result.score, result.mean, result.ci))
            p_value = float(result.p_value) if at else None
            found[name].append(Interval(metric, score, mean, half, p_value))
    return Comparison(found)


def _alone(lines: list[str], references: list[str], tokenize: str) -> list[Interval]:
    """The scores of a system, without intervals."""
    figures = measure(lines, references, tokenize).figures
    return [Interval(metric, figures[metric.lower()], nan, nan) for metric in ("BLEU", "chrF")]
