"""A mean over seeds, as records say it."""

from __future__ import annotations

from collections.abc import Sequence

from peftlab.analysis.findings import Form
from peftlab.analysis.intervals import Interval, t_interval


class Mean(Form):
    """Over seeds, Student's t."""

    mean: float
    interval: tuple[float, float] | None
    n: int


def mean_of(values: Sequence[float | None], confidence: float, folds: int = 1) -> Mean | None:
    """Of the known values; None where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    interval = t_interval(known, confidence, folds)
    return Mean(mean=interval.mean, interval=bounds(interval), n=interval.n)


def bounds(interval: Interval) -> tuple[float, float] | None:
    return None if interval.low is None or interval.high is None else (interval.low, interval.high)
