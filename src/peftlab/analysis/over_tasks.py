"""Arms over a set of tasks: stratified sign-flip test, inter-quartile mean, probability of improvement (Agarwal et al. 2021).

Values come as one array of runs per task. Bootstraps draw runs anew within each task and give percentile intervals, which are too
narrow with few seeds: no verdict rests on them. The sign-flip test takes a seed with all its tasks as one draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import wilcoxon

from peftlab.analysis.comparison import sign_flip_p
from peftlab.analysis.intervals import finite

DRAWS = 2000
FEWEST_SAMPLED = 3  #: tasks that can stand for others: of two, one difference says how much tasks vary
FEWEST_TASKS = 6  #: for a two-sided signed-rank test at 5 %: with five tasks p cannot go below 0.0625
Values = NDArray[np.float64]


def stratified_sign_flip(differences: ArrayLike, generator: np.random.Generator) -> float | None:
    """Two-sided p of H0: no difference on any task. ``differences``: paired, [seeds, tasks]; incomplete seeds are left out.

    Statistic: the mean over tasks of the mean differences. A seed's differences on several tasks depend on each other, so that a
    seed changes its sign in all of them at once: exact for any dependence within seeds, and no p can be below 2 / 2^seeds.
    """
    return sign_flip_p(np.asarray(differences, dtype=np.float64).mean(axis=1), generator)


def interquartile_mean(tasks: Sequence[Values]) -> Values:
    """Mean of the middle half of all runs of all tasks, over the last axis; a quarter, rounded down, is cut at either end."""
    runs = np.sort(np.concatenate(tasks, axis=-1), axis=-1)
    cut = runs.shape[-1] // 4
    return runs[..., cut : runs.shape[-1] - cut].mean(-1)


def improvement(first: Sequence[Values], second: Sequence[Values], *, higher_is_better: bool = True) -> Values:
    """Probability that a run of the first arm beats one of the second, mean over tasks of U / (m n); ties count half."""
    shares = []
    for a, b in zip(first, second, strict=True):
        gaps = (1.0 if higher_is_better else -1.0) * (a[..., :, None] - b[..., None, :])
        shares.append((gaps > 0).mean((-2, -1)) + 0.5 * (gaps == 0).mean((-2, -1)))
    return np.mean(shares, axis=0)


def stratified_bootstrap(
    statistic: Callable[..., Values],
    arms: Sequence[Sequence[Values]],
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
) -> tuple[float, float]:
    """Percentile interval of ``statistic(*arms)``, runs drawn anew within each task and arm.

    ``statistic`` works on the last axis, so that all draws are computed at once.
    """

    def again(values: Values) -> Values:
        return values[generator.integers(values.size, size=(draws, values.size))]

    found = statistic(*([again(finite(values)) for values in tasks] for tasks in arms))
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Two-sided Wilcoxon signed-rank test of mean differences, one per task; None with fewer than six tasks or no difference."""
    values = finite(differences)
    if values.size < FEWEST_TASKS or not np.any(values):
        return None
    found: Any = wilcoxon(values)
    return float(found.pvalue)
