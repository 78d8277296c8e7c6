"""Comparisons of two arms over the same seeds. Pure functions of arrays; a pair is one (task, seed[, fold]).

Symbols: A_i, F_i value of the arm and of the baseline in pair i; n pairs; m margin; c chance level.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peftlab.analysis.intervals import Interval, finite, standard_error, t_interval, t_tail
from peftlab.study.schema import Margin

EXACT_PAIRS = 16  #: up to here all 2^n sign patterns are enumerated
RESAMPLES = 9_999


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """Arm minus baseline over pairs, in units of the metric."""

    interval: Interval
    p: float | None  #: two-sided paired t test; None with fewer than two pairs or no variation
    p_sign_flip: float | None  #: two-sided sign-flip permutation test
    correlation: float | None  #: Pearson correlation of the two arms over pairs


@dataclasses.dataclass(frozen=True, slots=True)
class OneSided:
    """A margin test: is the mean of d_i above 0?"""

    interval: Interval  #: of d_i, two-sided at the declared confidence
    bound: float | None  #: one-sided lower bound of the mean of d_i at the declared confidence
    p: float | None  #: of H0: mean d_i <= 0
    p_opposite: float | None  #: of H0: mean d_i >= 0 (small: shown to be beyond the margin)


def pairs(arm: ArrayLike, baseline: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both values of every complete pair, [n] and [n]."""
    first, second = np.asarray(arm, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    kept = np.isfinite(first) & np.isfinite(second)
    return first[kept], second[kept]


def paired_difference(
    arm: ArrayLike,
    baseline: ArrayLike,
    *,
    confidence: float = 0.95,
    folds: int = 1,
    generator: np.random.Generator | None = None,
) -> Difference:
    """Mean of A_i - F_i with Student's interval, paired t test, sign-flip test and the correlation that pairing achieved."""
    first, second = pairs(arm, baseline)
    interval = t_interval(first - second, confidence, folds)
    tail = t_tail(abs(interval.mean), interval.standard_error, interval.n) if interval.n > 1 else None
    p = None if tail is None else 2 * tail
    flips = sign_flip_p(first - second, generator) if folds <= 1 else None  # folds are not exchangeable
    return Difference(interval, p, flips, correlation(first, second))


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Pearson's r; None with fewer than three pairs or where one side does not vary."""
    if first.size < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def sign_flip_p(differences: ArrayLike, generator: np.random.Generator | None = None) -> float | None:
    """Two-sided p of the sign-flip permutation test of the mean: the share of sign patterns at least as extreme.

    Exact up to :data:`EXACT_PAIRS` pairs, beyond that (b + 1) / (B + 1) over B random patterns from ``generator`` (None: not
    computed there). The smallest p that n pairs can give is 2 / 2^n: 0.0625 for five.
    """
    values = finite(differences)
    n = values.size
    if n < 2:
        return None
    observed = abs(values.sum())
    tolerance = 1e-12 * float(np.abs(values).sum())  # ties must count as ties in floating point
    if n <= EXACT_PAIRS:
        codes = np.arange(2 ** (n - 1))[:, None]  # the other half mirrors this one
        signs = 1 - 2.0 * ((codes >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ values) >= observed - tolerance))
    if generator is None:
        return None
    signs = generator.choice(np.array([-1.0, 1.0]), size=(RESAMPLES, n))
    extreme = int(np.count_nonzero(np.abs(signs @ values) >= observed - tolerance))
    return (extreme + 1) / (RESAMPLES + 1)


def smallest_sign_flip_p(n: int) -> float:
    """2 / 2^n, the smallest two-sided p of an exact sign-flip test with n pairs."""
    return 2.0 / 2.0**n


def holm(p_values: Sequence[float | None], family: int = 0) -> list[float | None]:
    """Holm's step-down adjustment over one family; a test that could not be made (None) is still a member of it.

    ``family``: how many members it was declared with, where those without a p are not all among the values.
    """
    size = max(family, len(p_values))
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for position, (p, index) in enumerate(sorted((p, i) for i, p in enumerate(p_values) if p is not None)):
        running = max(running, min(1.0, (size - position) * p))
        adjusted[index] = running
    return adjusted


def margin_differences(
    arm: ArrayLike, baseline: ArrayLike, margin: Margin, *, higher_is_better: bool = True, chance: float = 0.0
) -> NDArray[np.float64]:
    """d_i, positive where the arm is within the margin of the baseline.

    Relative margin m: (A_i - c) - (1 - m)(F_i - c), for lower-is-better metrics (1 + m) F_i - A_i. Absolute margin M:
    A_i - F_i + M, or F_i - A_i + M. ``chance`` c shifts relative margins on higher-is-better metrics only (0: not shifted).
    """
    first, second = pairs(arm, baseline)
    if margin.absolute is not None:
        return (first - second if higher_is_better else second - first) + margin.absolute
    m = float(margin.relative or 0.0)
    if higher_is_better:
        return (first - chance) - (1 - m) * (second - chance)
    return (1 + m) * second - first


def non_inferiority(differences: NDArray[np.float64], *, confidence: float = 0.95, folds: int = 1) -> OneSided:
    """One-sided t test of H0: mean d_i <= 0, with d_i from :func:`margin_differences`.

    A baseline that enters d_i as measured (not as a constant) keeps the test exact for a relative margin.
    """
    interval = t_interval(differences, confidence, folds)
    if interval.n < 2:
        return OneSided(interval, None, None, None)
    p = t_tail(interval.mean, interval.standard_error, interval.n)
    bound = t_interval(differences, 2 * confidence - 1, folds).low
    return OneSided(interval, bound, p, None if p is None else 1 - p)


def equivalence_p(arm: ArrayLike, baseline: ArrayLike, margin: Margin, *, folds: int = 1) -> float | None:
    """TOST (Schuirmann 1987): the larger of the one-sided p of "not worse" and "not better" than the baseline by the margin."""
    both = [margin_differences(arm, baseline, margin, higher_is_better=higher) for higher in (True, False)]
    tails = [t_tail(float(d.mean()), standard_error(d, folds), d.size) if d.size > 1 else None for d in both]
    return union(tails)


def union(p_values: Sequence[float | None]) -> float | None:
    """Intersection-union test, "on every task": the largest p; None if one test could not be made."""
    known = [p for p in p_values if p is not None and math.isfinite(p)]
    return max(known) if known and len(known) == len(p_values) else None
