"""Does what quantization costs depend on the rank? Two ways to ask, both paired by seed. Pure functions of arrays.

Shape legend: n seeds, R ranks, Q schemes, the first of which is float.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from peftlab.analysis.intervals import Interval, t_interval, t_tail


@dataclasses.dataclass(frozen=True, slots=True)
class Slope:
    """Change of the quantization effect per doubling of the rank."""

    interval: Interval
    p: float | None  #: two-sided t test of slope 0


@dataclasses.dataclass(frozen=True, slots=True)
class TwoWay:
    """F test of the interaction term."""

    f: float
    degrees: tuple[float, float]
    p: float


def slope(effects: NDArray[np.float64], ranks: NDArray[np.float64], confidence: float = 0.95, folds: int = 1) -> Slope:
    """``effects`` [n, R]: quantized minus float of the same seed and rank.

    Least squares over log2 rank within each seed, then Student's t over the n slopes: one degree of freedom, so no assumption
    about how the ranks of a seed vary together.
    """
    x = np.log2(ranks) - np.log2(ranks).mean()
    slopes = effects @ x / (x @ x)
    interval = t_interval(slopes, confidence, folds)
    tail = t_tail(abs(interval.mean), interval.standard_error, interval.n)
    return Slope(interval, None if tail is None else 2 * tail)


def two_way(values: NDArray[np.float64]) -> TwoWay | None:
    """Repeated-measures analysis of variance of ``values`` [n, R, Q], seeds as subjects: the term rank x scheme.

    statsmodels' AnovaRM; exact for a 2 x 2 design, else it assumes sphericity. None with fewer than two seeds, ranks or schemes,
    or where nothing varies between seeds.
    """
    from statsmodels.stats.anova import AnovaRM

    n, ranks, schemes = values.shape
    if min(n, ranks, schemes) < 2:
        return None
    residual = values - values.mean(0)
    residual = residual - residual.mean(1, keepdims=True) - residual.mean(2, keepdims=True) + residual.mean((1, 2), keepdims=True)
    if np.abs(residual).max() <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return None
    index = pd.MultiIndex.from_product([range(n), range(ranks), range(schemes)], names=["seed", "rank", "scheme"])
    table = pd.DataFrame({"value": values.ravel()}, index=index).reset_index()
    row = AnovaRM(table, "value", "seed", within=["rank", "scheme"]).fit().anova_table.loc["rank:scheme"]
    return TwoWay(float(row["F Value"]), (float(row["Num DF"]), float(row["Den DF"])), float(row["Pr > F"]))
