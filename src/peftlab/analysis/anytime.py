"""Tests and intervals that hold at every n at once, however long the data are watched and whatever ends the watching.

Differences d_1, d_2, ... of two arms, one per seed, independent and normal with unknown mean and variance. With S = sum d_i,
Q = sum d_i^2, c = 1 / g and k = n + c the ratio of the likelihood of a mean of delta standard deviations, delta ~ N(0, g),
to that of a mean of 0, both averaged over the variance with the right Haar measure, is

    M_n = sqrt(c / k) (Q / (Q - S^2 / k))^(n/2)                                (Wang & Ramdas 2024, Theorem 4.9)

and with delta ~ |N(0, g)|, one-sided,

    E_n = 2 M_n F_n(S sqrt(n / k) / sqrt(Q - S^2 / k)),    F_n: Student's distribution function with n degrees of freedom

(the posterior of the mean under the first prior is a Student t with n degrees of freedom; E_n is M_n times twice its mass
above 0). Both are martingales with mean 1 under a mean of 0, so that P(M_n >= 1 / a for any n) <= a (Ville): 1 / max M_n is a p
value that holds at any n. For means below 0 the same bound holds for E_n: it is increasing in Student's t (the noncentral t has a
monotone likelihood ratio), and taking a constant from every d_i lowers every t_n and no standard deviation.

These are martingales for one pair of arms, watched alone. What stops the watching may look at anything, because the bound is on
the maximum over all n; but e-values of several pairs must not be averaged, so families are adjusted by Holm on the p values.

Sources: Wang & Ramdas, Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance, arXiv:2310.03722
(2024); Lai, On confidence sequences, Annals of Statistics 4 (1976); Perez-Ortiz, Lardy, de Heide & Grünwald, E-statistics, group
invariance and anytime-valid testing, Annals of Statistics 52 (2024).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, stdtr

from peftlab.analysis.comparison import Difference, OneSided, correlation, margin_differences, pairs, union
from peftlab.analysis.intervals import Interval, finite
from peftlab.study.schema import Margin

#: sqrt(g): differences between arms that are looked for, in paired standard deviations. At 5 to 15 seeds 3 finds 2 to 10 nearly
#: as early as any other value does (docs/racing.md)
SCALE = 3.0
_NO_SPREAD = 1e-12  #: a standard error below this share of the mean is none


def log_e(differences: ArrayLike, *, scale: float = SCALE, resolution: float = 0.0, since: int = 0) -> NDArray[np.float64]:
    """log E_n for n = ``since`` + 1 .. N: evidence that the mean of d is above 0.

    Args:
        differences: [..., N] in the order in which they came; NaN where there is no pair, which leaves the evidence as it is.
        scale: sqrt(g).
        resolution: the standard deviation counts as no smaller, because equal values on a grid do not show that nothing varies:
            half a step of the metric.
        since: how many places of the first differences are not asked for; Student's distribution takes most of the time.
    """
    n, total, squares = (part[..., since:] for part in _sums(differences, resolution))
    two_sided, rest = _log_m(n, total, squares, scale)
    k = n + scale**-2
    with np.errstate(divide="ignore", invalid="ignore"):
        score = total * np.sqrt(n / k) / np.sqrt(rest)
        tail = np.log(2.0) + _log_student(n, score)
    return np.where(np.isfinite(two_sided) & (rest > 0), two_sided + tail, 0.0)


def log_e_two_sided(differences: ArrayLike, *, scale: float = SCALE, resolution: float = 0.0) -> NDArray[np.float64]:
    """log M_n: evidence that the mean of d is not 0. Otherwise as :func:`log_e`."""
    found, rest = _log_m(*_sums(differences, resolution), scale)
    return np.where(np.isfinite(found) & (rest > 0), found, 0.0)


def _sums(differences: ArrayLike, resolution: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """n, S and Q after every difference; Q is NaN where nothing varied, so that nothing follows from it."""
    d = np.asarray(differences, dtype=np.float64)
    known = np.isfinite(d)
    kept = np.where(known, d, 0.0)
    n, total = np.cumsum(known, axis=-1).astype(np.float64), np.cumsum(kept, axis=-1)
    first = np.take_along_axis(kept, np.argmax(known, axis=-1)[..., None], axis=-1)
    shifted = np.where(known, d - first, 0.0)  # equal values then leave no rounding error that would pass for variation
    with np.errstate(divide="ignore", invalid="ignore"):
        around = np.cumsum(shifted**2, axis=-1) - np.cumsum(shifted, axis=-1) ** 2 / n
    around = np.maximum(around, 0.0)
    nothing = (n > 1) & (around <= (_NO_SPREAD * total) ** 2 + 1e-300) & (resolution <= 0)
    around = np.maximum(around, np.maximum(n - 1, 0) * resolution**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = around + total**2 / n
    return n, total, np.where(nothing | (n == 0), np.nan, squares)


def _log_m(
    n: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64], scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(log M_n, Q - S^2 / k)."""
    c = scale**-2
    k = n + c
    rest = squares - total**2 / k
    with np.errstate(divide="ignore", invalid="ignore"):
        return 0.5 * np.log(c / k) + 0.5 * n * (np.log(squares) - np.log(rest)), rest


def _log_student(n: NDArray[np.float64], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """log of Student's distribution function; where it underflows, a bound of the normal one that is larger than 0."""
    with np.errstate(divide="ignore"):
        found = np.log(stdtr(n, score))
    return np.where(np.isfinite(found), found, log_ndtr(score))


def p_process(differences: ArrayLike, *, scale: float = SCALE, resolution: float = 0.0) -> NDArray[np.float64]:
    """min(1, 1 / max_{m <= n} E_m): p of H0 "the mean is at most 0" after every difference, [..., N]."""
    best = np.maximum.accumulate(log_e(differences, scale=scale, resolution=resolution), axis=-1)
    return np.exp(-np.maximum(best, 0.0))


def p_above(differences: ArrayLike, *, resolution: float = 0.0) -> float | None:
    """The last of :func:`p_process`; None with fewer than two pairs or where nothing varied."""
    kept = finite(differences)
    if kept.size < 2 or not _varies(kept, resolution):
        return None
    return float(p_process(kept, resolution=resolution)[-1])


def p_two_sided(differences: ArrayLike, *, resolution: float = 0.0) -> float | None:
    """Likewise of H0 "the mean is 0"."""
    kept = finite(differences)
    if kept.size < 2 or not _varies(kept, resolution):
        return None
    return math.exp(-max(0.0, float(log_e_two_sided(kept, resolution=resolution).max())))


def _varies(kept: NDArray[np.float64], resolution: float) -> bool:
    return resolution > 0 or float(np.std(kept)) > _NO_SPREAD * abs(float(kept.mean()))


def earliest(p: float, *, scale: float = SCALE, most: int = 1000) -> int:
    """The smallest number of pairs at which any data, however clear, can give so small a one-sided p."""
    for n in range(2, most):
        # all differences equal: Q = S^2 / n, so Q / (Q - S^2 / k) = k / c
        k, c = n + scale**-2, scale**-2
        best = 0.5 * (n - 1) * math.log(k / c) + math.log(2 * float(stdtr(n, n * scale)))
        if best >= -math.log(p):
            return n
    return most


def confidence_sequence(
    values: ArrayLike, confidence: float = 0.95, *, scale: float = SCALE, resolution: float = 0.0
) -> Interval:
    """Interval of the mean that holds at every n at once, after the last value.

    The means m with M_n(d - m) < 1 / a, a = 1 - confidence, solved for m: |mean - m| < s sqrt((n - 1) x / n) with
    x = (A - 1) / (1 - A r), r = c / k, A = (a^2 r)^(-1/n); the whole line where A r >= 1, which is so for two values. The
    intervals of all n hold together, so that what they share is given.
    """
    kept = finite(values)
    if kept.size == 0:
        return Interval(math.nan, None, None, None, None, 0, confidence)
    mean, sd = float(kept.mean()), float(np.std(kept, ddof=1)) if kept.size > 1 else None
    if sd is None:
        return Interval(mean, None, None, None, None, 1, confidence)
    low, high, last = -math.inf, math.inf, (-math.inf, math.inf)
    for n in range(2, kept.size + 1):
        here = kept[:n]
        spread = max(float(np.std(here, ddof=1)), resolution)
        half = spread * half_width(n, confidence, scale)
        last = (float(here.mean()) - half, float(here.mean()) + half)
        low, high = max(low, last[0]), min(high, last[1])
    if not low <= mean <= high:  # the values changed on the way: they are hardly from one normal distribution
        low, high = last
    bounds = (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)
    return Interval(mean, sd, sd / math.sqrt(kept.size), *bounds, int(kept.size), confidence)


def half_width(n: int, confidence: float, scale: float = SCALE) -> float:
    """Half the width of the interval after n values, in their standard deviations; infinite where it is the whole line."""
    r = scale**-2 / (n + scale**-2)
    grown = ((1 - confidence) ** 2 * r) ** (-1 / n)
    if grown * r >= 1:  # of one value always: it is 1 / a^2
        return math.inf
    return math.sqrt((n - 1) / n * (grown - 1) / (1 - grown * r))


def difference(arm: ArrayLike, baseline: ArrayLike, *, confidence: float, resolution: float = 0.0) -> Difference:
    """As :func:`comparison.paired_difference`, of one pair of values per seed."""
    first, second = pairs(arm, baseline)
    interval = confidence_sequence(first - second, confidence, resolution=resolution)
    return Difference(interval, p_two_sided(first - second, resolution=resolution), None, correlation(first, second))


def margin_test(differences: NDArray[np.float64], *, confidence: float, resolution: float = 0.0) -> OneSided:
    """As :func:`comparison.non_inferiority`; the one-sided bound is that of the two-sided interval, which holds as well."""
    interval = confidence_sequence(differences, confidence, resolution=resolution)
    p, opposite = (p_above(sign * differences, resolution=resolution) for sign in (1, -1))
    return OneSided(interval, interval.low, p, opposite)


def equivalence_p(arm: ArrayLike, baseline: ArrayLike, margin: Margin, *, resolution: float = 0.0) -> float | None:
    """As :func:`comparison.equivalence_p`."""
    both = [margin_differences(arm, baseline, margin, higher_is_better=higher) for higher in (True, False)]
    return union([p_above(d, resolution=resolution) for d in both])
