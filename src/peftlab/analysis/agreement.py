"""Do importance maps agree? Kendall's tau-b, with intervals that know which pairs share a seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

FEWEST_SEEDS = 3  #: for an interval of tau


@dataclasses.dataclass(frozen=True, slots=True)
class Tau:
    """A mean tau. ``interval`` is None with fewer than three seeds, and without variation there is none to speak of."""

    tau: float
    interval: tuple[float, float] | None
    seeds: int
    pairs: int


def tau_b(first: ArrayLike, second: ArrayLike) -> float | None:
    """Kendall's tau-b over the modules that both have; None with fewer than three, or where one side does not vary."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 3:
        return None
    first_order, second_order = _order(a[known]), _order(b[known])
    scale = math.sqrt(float(np.square(first_order).sum()) * float(np.square(second_order).sum()))
    return float((first_order * second_order).sum()) / scale if scale else None


def taus_with(rows: NDArray[np.float64], last: NDArray[np.float64]) -> list[float | None]:
    """:func:`tau_b` of each row with ``last``, at once where every module has a value."""
    if last.size < 3 or not np.isfinite(rows).all() or not np.isfinite(last).all():
        return [tau_b(row, last) for row in rows]
    orders = np.sign(rows[:, :, None] - rows[:, None, :]).reshape(len(rows), last.size**2)
    order = _order(last).ravel()
    scales = np.sqrt(np.square(orders).sum(axis=1) * np.square(order).sum())
    return [float(product) / float(scale) if scale else None for product, scale in zip(orders @ order, scales, strict=True)]


def _order(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sign of the difference of every two modules; tau-b is the cosine between two such tables (Kendall 1945).

    scipy's function gives the same, but takes most of a millisecond for checking its arguments.
    """
    return np.sign(values[:, None] - values[None, :])


def between_seeds(maps: Mapping[int, ArrayLike], confidence: float = 0.95) -> Tau | None:
    """Mean tau over all pairs of seeds, with :func:`jackknife` over seeds."""
    seeds = sorted(maps)
    table = np.array([np.asarray(maps[seed], dtype=np.float64) for seed in seeds])
    taus: list[tuple[int, int, float | None]] = []
    for place, seed in enumerate(seeds[:-1]):
        taus += [(seed, j, tau) for j, tau in zip(seeds[place + 1 :], taus_with(table[place + 1 :], table[place]), strict=True)]
    return jackknife(taus, confidence)


def between_settings(first: Mapping[int, ArrayLike], second: Mapping[int, ArrayLike], confidence: float = 0.95) -> Tau | None:
    """Mean tau over all pairs of a seed here and a seed there, with :func:`jackknife` over seeds (left out on both sides)."""
    taus = [(i, j, tau_b(first[i], second[j])) for i, j in product(sorted(first), sorted(second))]
    return jackknife(taus, confidence)


def jackknife(taus: Sequence[tuple[int, int, float | None]], confidence: float = 0.95) -> Tau | None:
    """Mean over pairs (seed, seed, tau) with an interval that leaves out one seed, and so all its pairs, at a time.

    theta +- t(n - 1) sqrt((n - 1)/n sum (theta_(-u) - mean)^2) over the n seeds u (Arvesen 1969, U-statistics), cut at +-1. Pairs
    of seeds are not independent: n seeds give n (n - 1) / 2 of them, but no more than n pieces of information.
    """
    known = [(i, j, tau) for i, j, tau in taus if tau is not None]
    if not known:
        return None
    seeds = sorted({seed for i, j, _ in known for seed in (i, j)})
    theta = float(np.mean([tau for _, _, tau in known]))
    without = [[tau for i, j, tau in known if seed not in (i, j)] for seed in seeds]
    n = len(seeds)
    if n < FEWEST_SEEDS or not all(without):
        return Tau(theta, None, n, len(known))
    left_out = np.array([float(np.mean(rest)) for rest in without])
    error = math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    return Tau(theta, (max(-1.0, theta - half), min(1.0, theta + half)), n, len(known))
