"""The embedded corpus: German dates and times, and what they say in English.

Many German ways to write a moment lead to one English way to write the same information: the
weekday is there if the source names it, the seconds if it gives them, and the year is always
written in full. So the target is a function of the source, and an exact match is a fair score.
Names and patterns come from Babel's copy of the Unicode locale data.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import product
from typing import NamedTuple

from babel import Locale
from babel.dates import DateTimePattern, parse_pattern

from graphformer.data.parallel import Pairs, TextSplits

_GERMAN, _ENGLISH = Locale("de"), Locale("en")
_TEST_FRACTION, _VALIDATION_FRACTION = 0.10, 0.05


class _Form(NamedTuple):
    """A German way to write a moment, and the English way to write what it says."""

    german: DateTimePattern
    english: DateTimePattern

    def write(self, moment: datetime) -> tuple[str, str]:
        source = self.german.apply(moment, _GERMAN)
        target = self.english.apply(moment, _ENGLISH)
        # The locale data separates "2:05" and "PM" by a narrow no-break space.
        return source, target.replace("\u202f", " ")


def dates(
    num_train: int = 20_000,
    num_test: int = 1_000,
    seed: int = 0,
    years: tuple[int, int] = (1900, 2099),
    num_validation: int = 500,
) -> TextSplits:
    """German and English moments; the years of the test set occur nowhere else.

    A tenth of the years, drawn at random, is kept for the test set and a twentieth for the
    validation set. No source is repeated. The same arguments give the same corpus, with one
    version of Babel.

    Args:
        num_train: number of training pairs.
        num_test: number of test pairs.
        seed: of the years held out, the moments and their forms.
        years: first and last year.
        num_validation: number of validation pairs.

    Raises:
        ValueError: fewer than 20 years, years outside 1000 to 9999, a count below one, or more
            pairs asked for than the years have days.
    """
    _check_years(years)
    generator = random.Random(seed)
    drawn = list(range(years[0], years[1] + 1))
    generator.shuffle(drawn)
    num_test_years = round(_TEST_FRACTION * len(drawn))
    num_held_out = num_test_years + max(1, round(_VALIDATION_FRACTION * len(drawn)))
    test_years, train_years = drawn[:num_test_years], drawn[num_held_out:]
    validation_years = drawn[num_test_years:num_held_out]
    _check_count("num_train", num_train, train_years)
    _check_count("num_validation", num_validation, validation_years)
    _check_count("num_test", num_test, test_years)
    forms = _forms()
    return TextSplits(
        name=f"dates {years[0]}-{years[1]}, seed {seed}",
        train=_draw_pairs(num_train, train_years, forms, generator),
        validation=_draw_pairs(num_validation, validation_years, forms, generator),
        test=_draw_pairs(num_test, test_years, forms, generator),
    )


def _check_years(years: tuple[int, int]) -> None:
    first, last = years
    if not 1000 <= first <= last <= 9999:
        raise ValueError(
            f"years {first} to {last}: write a first and a last year between 1000 and 9999, "
            f"such as (1900, 2099)"
        )
    if last - first + 1 < 20:
        raise ValueError(
            f"years {first} to {last} are {last - first + 1}: at least 20 are needed to keep "
            f"some out of training"
        )


def _check_count(name: str, count: int, years: list[int]) -> None:
    most = 365 * len(years)
    if not 1 <= count <= most:
        raise ValueError(
            f"{name} is {count}: its {len(years)} years allow 1 to {most} different pairs"
        )


def _draw_pairs(
    count: int, years: list[int], forms: list[_Form], generator: random.Random
) -> Pairs:
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        source, target = generator.choice(forms).write(_draw_moment(years, generator))
        pairs[source] = target
    return list(pairs.items())


def _draw_moment(years: list[int], generator: random.Random) -> datetime:
    start = datetime(generator.choice(years), 1, 1)
    num_days = (datetime(start.year, 12, 31) - start).days + 1
    return start + timedelta(
        days=generator.randrange(num_days), seconds=generator.randrange(24 * 60 * 60)
    )


def _forms() -> list[_Form]:
    """Every date form, alone and followed by every form of the time."""
    times = [("", ""), *_time_patterns()]
    return [
        _Form(parse_pattern(german_date + german_time), parse_pattern(english_date + english_time))
        for (german_date, english_date), (german_time, english_time) in product(
            _date_patterns(), times
        )
    ]


def _date_patterns() -> Iterator[tuple[str, str]]:
    german, english = _GERMAN.date_formats, _ENGLISH.date_formats
    skeletons = _GERMAN.datetime_skeletons
    # The short format is left out: its two digits do not say which century.
    numeric = german["medium"].pattern
    for pattern in (german["long"].pattern, numeric):
        yield pattern, english["long"].pattern
    for skeleton in ("yMd", "yMMMd"):
        yield skeletons[skeleton].pattern, english["long"].pattern
    for pattern in (german["full"].pattern, f"EEEE, {numeric}"):
        yield pattern, english["full"].pattern
    for skeleton in ("yMEd", "yMMMEd"):
        yield skeletons[skeleton].pattern, english["full"].pattern


def _time_patterns() -> Iterator[tuple[str, str]]:
    german, english = _GERMAN.time_formats, _ENGLISH.time_formats
    for length in ("short", "medium"):
        for before in (" 'um' ", ", "):
            yield before + german[length].pattern, " 'at' " + english[length].pattern
    yield f" 'um' {german['short'].pattern} 'Uhr'", " 'at' " + english["short"].pattern
    hour = _GERMAN.datetime_skeletons["H"].pattern
    yield f" 'um' {hour}", " 'at' " + _ENGLISH.datetime_skeletons["h"].pattern
