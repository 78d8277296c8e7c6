"""Pearson's r with Fisher's interval: of two quantities of runs, between arms and within them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

FEWEST = 4  #: points below which r has no interval


@dataclasses.dataclass(frozen=True, slots=True)
class Correlation:
    r: float
    interval: tuple[float, float] | None
    n: int  #: points


def pearson(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Correlation | None:
    """r and tanh(atanh r +- z / sqrt(n - 3)); None with fewer than three points or where one side does not vary."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    kept = np.isfinite(a) & np.isfinite(b)
    a, b, n = a[kept], b[kept], int(kept.sum())
    if n < 3 or _flat(a) or _flat(b):
        return None
    r = float(np.clip(np.corrcoef(a, b)[0, 1], -1.0, 1.0))
    free = n - 3
    if free < 1:
        return Correlation(r, None, n)
    if abs(r) == 1:
        return Correlation(r, (r, r), n)
    half = float(ndtri((1 + confidence) / 2)) / math.sqrt(free)
    return Correlation(r, (math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)), n)


def within(x: ArrayLike, y: ArrayLike, groups: Sequence[str]) -> Correlation | None:
    """r of what is left after every group's means are taken out: do the runs of one group go together?

    Without an interval: groups share their seeds (and the baseline's runs), so that their points are not independent, and
    Fisher's interval as if they were covers far less often than it says.
    """
    a, b, names = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(groups)
    kept = np.isfinite(a) & np.isfinite(b)
    a, b, names = a[kept], b[kept], names[kept]
    _, index = np.unique(names, return_inverse=True)
    found = pearson(a - _means(a, index)[index], b - _means(b, index)[index])
    return None if found is None else dataclasses.replace(found, interval=None)


def between(x: ArrayLike, y: ArrayLike, groups: Sequence[str], confidence: float = 0.95) -> Correlation | None:
    """r of the groups' means."""
    a, b, names = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(groups)
    kept = np.isfinite(a) & np.isfinite(b)
    _, index = np.unique(names[kept], return_inverse=True)
    return pearson(_means(a[kept], index), _means(b[kept], index), confidence)


def _means(values: NDArray[np.float64], index: NDArray[np.intp]) -> NDArray[np.float64]:
    return np.bincount(index, values) / np.bincount(index)


def _flat(values: NDArray[np.float64]) -> bool:
    return float(np.ptp(values)) <= 1e-12 * max(1.0, float(np.abs(values).max()))
