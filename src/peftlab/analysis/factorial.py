"""Several factors at once: effects averaged over all combinations of the other options, and how effects depend on each other.

An arm is a cell of a design: what was done to the model, an option each. For a factor f and every combination of all other
options (a context) in which each of its levels was run, a contrast c over its levels gives sum_l c_l y_l per seed; the mean over
contexts is one number per seed, and Student's t over seeds does the rest: no assumption of equal variances or of sphericity. The
interaction of f and g is the same with the outer product of their contrasts. A factor of three or more positive numbers (rank,
alpha) has one contrast, the least-squares slope per doubling; any other factor has one per level, against its reference.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from peftlab.analysis.intervals import Interval, t_interval, t_tail

MOST_LEVELS = 12
Options = Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Contrast:
    """What is asked of one factor."""

    factor: str
    words: str  #: ``per doubling``, or ``LEVEL against REFERENCE``
    levels: tuple[str, ...]
    weights: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Effect:
    """Of one factor, or of two on each other, over seeds."""

    contrasts: tuple[Contrast, ...]  #: one: an effect; two: an interaction
    interval: Interval
    p: float | None
    contexts: int  #: combinations of the other options that it is averaged over
    by_unit: pd.Series  #: its value for each row of the table, NaN where a run is missing


def effects(
    arms: Mapping[Any, Options],
    values: pd.DataFrame,
    *,
    reference: Any = None,
    factors: Sequence[str] | None = None,
    alone: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> list[Effect]:
    """Effects of every factor, then interactions of every two.

    Args:
        arms: arm -> its options, in the order of the study.
        values: [unit, arm], a row per seed; NaN where a run is missing.
        reference: arm whose levels are the references; the first level met where it has none.
        factors: options to look at; None: all that differ.
        alone: factors whose own effect is wanted; None: of all.
    """
    levels = _levels(arms, reference)
    asked = [f for f in (factors or levels) if f in levels]
    contrasts = {factor: contrasts_of(factor, levels[factor]) for factor in asked}
    found: list[Effect | None] = []
    for number in (1, 2):
        for chosen in itertools.combinations(asked, number):
            if number == 1 and alone is not None and chosen[0] not in alone:
                continue
            groups = _contexts(chosen, arms)
            for pair in itertools.product(*(contrasts[factor] for factor in chosen)):
                found.append(_effect(pair, groups, values, confidence))
    return [effect for effect in found if effect is not None]


def contrasts_of(factor: str, levels: Sequence[str]) -> list[Contrast]:
    """``levels``: the reference first."""
    numbers = _positive(levels)
    if numbers is not None and len(levels) > 2:
        x = np.log2(numbers) - np.log2(numbers).mean()
        return [Contrast(factor, "per doubling", tuple(levels), x / (x @ x))]
    first = levels[0]
    return [Contrast(factor, f"{level} against {first}", (first, level), np.array([-1.0, 1.0])) for level in levels[1:]]


def _levels(arms: Mapping[Any, Options], reference: Any) -> dict[str, list[str]]:
    """Factors with two levels or more; the reference's level first, numbers in their order."""
    found: dict[str, list[str]] = defaultdict(list)
    order = sorted(arms, key=lambda arm: arm != reference)
    keys = dict.fromkeys(key for options in arms.values() for key in options)
    for key in keys:
        if all(key in options for options in arms.values()):
            found[key] = list(dict.fromkeys(arms[arm][key] for arm in order))
    kept = {key: levels for key, levels in found.items() if 2 <= len(levels) <= MOST_LEVELS}
    return {key: sorted(levels, key=float) if len(levels) > 2 and _positive(levels) is not None else levels
            for key, levels in kept.items()}  # fmt: skip


def _effect(
    contrasts: tuple[Contrast, ...], groups: Sequence[Mapping[tuple[str, ...], Any]], values: pd.DataFrame, confidence: float
) -> Effect | None:
    wanted = list(itertools.product(*(c.levels for c in contrasts)))
    weights = [float(np.prod(w)) for w in itertools.product(*(c.weights for c in contrasts))]
    columns = [
        np.sum([w * values[cells[level]].to_numpy(dtype=np.float64) for w, level in zip(weights, wanted, strict=True)], axis=0)
        for cells in groups
        if all(level in cells for level in wanted)
    ]
    if not columns:
        return None
    by_unit = pd.Series(np.mean(columns, axis=0), index=values.index)
    interval = t_interval(by_unit, confidence)
    if interval.n == 0:
        return None
    tail = t_tail(abs(interval.mean), interval.standard_error, interval.n)
    return Effect(contrasts, interval, None if tail is None else 2 * tail, len(columns), by_unit)


def _contexts(factors: Sequence[str], arms: Mapping[Any, Options]) -> list[dict[tuple[str, ...], Any]]:
    """One entry per combination of all other options: levels of the factors -> arm."""
    groups: dict[str, dict[tuple[str, ...], Any]] = defaultdict(dict)
    for arm, options in arms.items():
        rest = json.dumps({k: v for k, v in options.items() if k not in factors}, sort_keys=True)
        groups[rest].setdefault(tuple(options[f] for f in factors), arm)
    return list(groups.values())


def _positive(levels: Sequence[str]) -> NDArray[np.float64] | None:
    try:
        numbers = np.array([float(level) for level in levels])
    except ValueError:
        return None
    return numbers if bool((numbers > 0).all()) and bool(np.isfinite(numbers).all()) else None
