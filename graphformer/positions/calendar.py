"""Where a moment stands in its minute, day, week and year."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Frequency = Literal["second", "minute", "hour", "day", "week", "month"]

_DAY = ("day of week", "day of month", "day of year")
_COLUMNS: dict[str, tuple[str, ...]] = {
    "second": ("second of minute", "minute of hour", "hour of day", *_DAY),
    "minute": ("minute of hour", "hour of day", *_DAY),
    "hour": ("hour of day", *_DAY),
    "day": _DAY,
    "week": ("day of month", "week of year"),
    "month": ("month of year",),
}


def time_features(
    timestamps: np.ndarray | Sequence[str], frequency: Frequency = "hour"
) -> Float[Tensor, "*time feature"]:
    """Where each moment stands in each longer period: -0.5 at its start, 0.5 at its end.

    The columns, by the frequency of the series:

    - second: second of minute, and those of minute;
    - minute: minute of hour, and those of hour;
    - hour: hour of day, and those of day;
    - day: day of week (from Monday), day of month, day of year;
    - week: day of month, week of year (ISO 8601);
    - month: month of year.

    Args:
        timestamps: numpy `datetime64` of any unit, or ISO 8601 strings without a time zone, such as
            "2016-07-01 13:00:00".
        frequency: the step of the series.

    Raises:
        ValueError: if the frequency is unknown, or a timestamp is missing, has a time zone or is
            not understood.

    Source: Alexandrov et al., "GluonTS", 2020; Informer and Autoformer use the same.
    """
    if frequency not in get_args(Frequency):
        raise ValueError(
            f"time_features got frequency={frequency!r}: use one of {get_args(Frequency)}."
        )
    moments = _moments(timestamps)
    parts = _parts(moments)
    columns = np.stack([parts[name] - 0.5 for name in _COLUMNS[frequency]], axis=-1)
    return torch.from_numpy(columns).to(torch.get_default_dtype())


def _moments(timestamps: np.ndarray | Sequence[str]) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            # numpy only warns that it drops a time zone.
            warnings.simplefilter("error")
            moments = np.asarray(timestamps, dtype="datetime64[s]")
    except (TypeError, ValueError, UserWarning, DeprecationWarning) as error:
        raise ValueError(
            "time_features takes numpy datetime64, or ISO 8601 strings in local time without a "
            f'zone, such as "2016-07-01 13:00:00": {error}.'
        ) from error
    missing = np.isnat(moments).ravel()
    if missing.any():
        raise ValueError(f"time_features got no time (NaT) at index {int(missing.argmax())}.")
    return moments


def _parts(moments: np.ndarray) -> dict[str, np.ndarray]:
    """Each part of the date and time over the most that it can be, 0 to 1."""
    seconds = moments.astype(np.int64)
    days = moments.astype("datetime64[D]")
    months = moments.astype("datetime64[M]")
    # The epoch was a Thursday. A week belongs to the year of its Thursday (ISO 8601).
    weekday = (days.astype(np.int64) + 3) % 7
    thursdays = days - weekday + 3
    return {
        "second of minute": seconds % 60 / 59,
        "minute of hour": seconds // 60 % 60 / 59,
        "hour of day": seconds // 3600 % 24 / 23,
        "day of week": weekday / 6,
        "day of month": _days_since(days, months) / 30,
        "day of year": _days_since(days, moments.astype("datetime64[Y]")) / 365,
        "week of year": _days_since(thursdays, thursdays.astype("datetime64[Y]")) // 7 / 52,
        "month of year": months.astype(np.int64) % 12 / 11,
    }


def _days_since(days: np.ndarray, start: np.ndarray) -> np.ndarray:
    return (days - start.astype("datetime64[D]")).astype(np.int64)
