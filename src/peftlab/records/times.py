"""What a run took, read from ``time`` of its results (execution/costs.py writes it).

A run that was computed together with others has its figures below ``shared``, and they are those of all: of each, its part is
``part_s / total_s``, or one over the number of runs in the process where that is not on record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal


def own_s(time: Mapping[str, Any], *keys: str) -> float | None:
    """The sum of these seconds, of a run computed together with others its part of theirs; None where one is not on record."""
    shared = time.get("shared")
    figures = shared if isinstance(shared, Mapping) else time
    part = 1.0 if figures is time else _part(time, figures)
    values = [_number(figures.get(key)) for key in keys]
    known = [value for value in values if value is not None]
    return part * sum(known) if part is not None and len(known) == len(values) else None


def took_s(time: Mapping[str, Any]) -> float | None:
    """Seconds of all that the run did, of its training where no more is on record; None where not even that is."""
    total = own_s(time, "total_s")
    return own_s(time, "train_s") if total is None else total


def last_attempt_s(time: Mapping[str, Any], key: Literal["total_s", "cpu_s"]) -> float | None:
    """Without what went into attempts given up: of the attempt that all other figures are of. None of a run computed together."""
    total, given_up = _number(time.get(key)), time.get("given_up")
    before = _number(given_up.get(key)) if isinstance(given_up, Mapping) else 0.0
    return None if total is None or before is None else total - before


def _part(time: Mapping[str, Any], shared: Mapping[str, Any]) -> float | None:
    part, total, stacked = _number(shared.get("part_s")), _number(shared.get("total_s")), time.get("stacked")
    if part is not None and total:
        return part / total
    runs = _number(stacked.get("runs")) if isinstance(stacked, Mapping) else None
    return 1 / runs if runs else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
