"""Performance profiles: the share of runs above each level (Dolan & Moré 2002; for runs over seeds Agarwal et al. 2021).

rho(tau) = mean over tasks of the share of an arm's runs with a value beyond tau. Bands are pointwise percentiles of a bootstrap
that draws runs anew within each task; with few runs they are too narrow, as every bootstrap is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
Values = NDArray[np.float64]


def profile(tasks: Sequence[Values], levels: Values, *, higher_is_better: bool = True) -> Values:
    """rho at ``levels`` [L], of runs [n] per task."""
    return np.mean([_share(runs, levels, higher_is_better).mean(axis=0) for runs in tasks], axis=0)


def band(
    tasks: Sequence[Values],
    levels: Values,
    generator: np.random.Generator,
    *,
    higher_is_better: bool = True,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[Values, Values]:
    """Lower and upper end of rho at every level."""
    drawn = np.zeros((resamples, len(levels)))
    for runs in tasks:
        counts = generator.multinomial(runs.size, np.full(runs.size, 1 / runs.size), size=resamples)
        drawn += counts @ _share(runs, levels, higher_is_better) / runs.size
    low, high = np.quantile(drawn / len(tasks), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def _share(runs: Values, levels: Values, higher_is_better: bool) -> Values:
    """[n, L]: 1 where a run lies beyond a level."""
    beyond = runs[:, None] > levels if higher_is_better else runs[:, None] < levels
    return beyond.astype(np.float64)
