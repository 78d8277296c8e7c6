"""The mean of a table whose rows and columns are both samples: tasks x seeds, or seeds x test examples.

x_ij = mu + a_i + b_j + e_ij with independent random a, b and e. With I rows, J columns and the mean squares A of rows, B of
columns and E of what is left (two-way analysis of variance), the variance of the mean of all cells is estimated by

    V = (A + B - E) / (I J),

which counts both samples once (Cornfield & Tukey 1956). A component that comes out negative is taken as 0, as restricted
maximum likelihood does: V is then the larger of A and B over I J, or the pooled square where neither exceeds E. Degrees of
freedom: Satterthwaite (1946). For complete tables these are the estimates of a mixed model by restricted maximum likelihood
(checked against statsmodels).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from peftlab.analysis.intervals import Interval

FLAT = 1e-12  #: spread below which nothing varies, in units of the largest value


@dataclasses.dataclass(frozen=True, slots=True)
class Crossed:
    """Mean of a complete table."""

    interval: Interval  #: n: rows or columns, whichever are fewer
    freedom: float
    p: float | None  #: two-sided, of H0: mu = 0; None where nothing varies
    rows: int
    columns: int
    sd_rows: float  #: standard deviation of a
    sd_columns: float
    sd_rest: float


def crossed_mean(table: ArrayLike, confidence: float = 0.95) -> Crossed | None:
    """``table`` [rows, columns], complete; None with fewer than two of either."""
    x = np.asarray(table, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        return None
    rows, columns = x.shape
    mean, by_row, by_column = float(x.mean()), x.mean(1), x.mean(0)
    rest = x - by_row[:, None] - by_column[None, :] + mean
    freedoms = (rows - 1, columns - 1, (rows - 1) * (columns - 1))
    squares = (
        columns * float(((by_row - mean) ** 2).sum()) / freedoms[0],
        rows * float(((by_column - mean) ** 2).sum()) / freedoms[1],
        float((rest**2).sum()) / freedoms[2],
    )
    variance, freedom = _variance(squares, freedoms, rows * columns)
    sds = (
        math.sqrt(max(0.0, squares[0] - squares[2]) / columns),
        math.sqrt(max(0.0, squares[1] - squares[2]) / rows),
        math.sqrt(squares[2]),
    )
    error = math.sqrt(variance)
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    flat = error <= FLAT * max(float(np.abs(x).max()), FLAT)
    p = None if flat else 2 * float(stdtr(freedom, -abs(mean) / error))
    n = min(rows, columns)
    interval = Interval(mean, error * math.sqrt(n), error, mean - half, mean + half, n, confidence)
    return Crossed(interval, freedom, p, rows, columns, *sds)


def _variance(squares: tuple[float, float, float], freedoms: tuple[int, int, int], cells: int) -> tuple[float, float]:
    """(of the mean, degrees of freedom), with components that are not negative."""
    of_rows, of_columns, rest = squares
    if of_rows >= rest and of_columns >= rest:
        parts = [(1.0, of_rows, freedoms[0]), (1.0, of_columns, freedoms[1]), (-1.0, rest, freedoms[2])]
    elif of_rows > rest or of_columns > rest:  # one of the two samples adds nothing of its own
        square, freedom = (of_rows, freedoms[0]) if of_rows >= of_columns else (of_columns, freedoms[1])
        return square / cells, freedom
    else:  # all cells are alike
        pooled = float(np.average(squares, weights=freedoms))
        return pooled / cells, float(sum(freedoms))
    variance = sum(sign * square for sign, square, _ in parts)
    if variance <= 0:
        return 0.0, float(min(freedoms))
    freedom = variance**2 / sum(square**2 / count for _, square, count in parts)
    return variance / cells, max(1.0, freedom)


def seed_item_bootstrap(
    differences: NDArray[np.float64], generator: np.random.Generator, *, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of ``differences`` [seeds, items], both drawn anew (a pigeonhole bootstrap, Owen 2007).

    Stands beside :func:`crossed_mean`, whose interval the findings rest on: with five seeds it covers too little, as every
    bootstrap of five values does (tests/analysis/test_crossed.py).
    """
    seeds, items = differences.shape
    by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    means = np.empty(resamples)
    for k in range(resamples):  # one at a time: all at once they would not fit into memory with many items
        drawn = np.bincount(generator.integers(0, items, items), minlength=items)
        means[k] = by_seed[k] @ (differences @ drawn) / items
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def mcnemar_p(first: ArrayLike, second: ArrayLike) -> float:
    """Exact McNemar test of two single models on the same items: ``first`` and ``second`` [items], whether each was right.

    Two-sided binomial test of the items that one alone got right; 1 where there are none.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only, other = int((a & ~b).sum()), int((b & ~a).sum())
    return 1.0 if only + other == 0 else float(binomtest(only, only + other, 0.5).pvalue)
