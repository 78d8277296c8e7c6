"""Are arms told apart by their ranks over blocks? Friedman's test and Nemenyi's critical difference (Demšar 2006).

With k arms, N blocks and R_j the mean over blocks of arm j's rank (1 is the best, ties share), chi2 is Friedman's statistic with
its correction for ties; F = (N - 1) chi2 / (N (k - 1) - chi2) on (k - 1, (k - 1)(N - 1)) degrees of freedom is that of Iman and
Davenport (1980), which needs no many blocks. Two arms differ where their mean ranks lie further apart than
CD = q sqrt(k (k + 1) / (6 N)), q the upper alpha quantile of the studentized range over sqrt(2).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtrc
from scipy.stats import rankdata, studentized_range

FEWEST_ARMS, MOST_ARMS = 3, 40


@dataclasses.dataclass(frozen=True, slots=True)
class Ranked:
    """Of k arms over N blocks."""

    mean_ranks: NDArray[np.float64]  #: [k], 1 is the best
    chi2: float
    p: float  #: of Iman and Davenport's F; 1 where all arms always tie
    critical_difference: float

    @property
    def groups(self) -> list[list[int]]:
        """Largest sets of arms, best first, of which no two differ; an arm that differs from all others is in none."""
        order = [int(i) for i in np.argsort(self.mean_ranks, kind="stable")]
        ranks = self.mean_ranks[order]
        ends = [int(np.searchsorted(ranks, rank + self.critical_difference, side="right")) for rank in ranks]
        spans = [(start, end) for start, end in enumerate(ends) if end - start > 1 and (start == 0 or ends[start - 1] < end)]
        return [order[start:end] for start, end in spans]


def rank_blocks(values: ArrayLike, *, higher_is_better: bool, alpha: float = 0.05) -> Ranked:
    """``values`` [blocks, arms], complete."""
    table = np.asarray(values, dtype=np.float64)
    blocks, arms = table.shape
    ranks = rankdata(-table if higher_is_better else table, axis=1)
    means = ranks.mean(axis=0)
    spread = float(ranks.var(axis=1, ddof=1).sum())  # k (k + 1) / 12 per block without ties
    chi2 = 0.0 if spread == 0 else float(blocks**2 * ((means - (arms + 1) / 2) ** 2).sum() / spread)
    rest = blocks * (arms - 1) - chi2
    if chi2 == 0:
        p = 1.0
    elif rest <= 1e-12 * chi2:  # the same order in every block
        p = 0.0
    else:
        p = float(fdtrc(arms - 1, (arms - 1) * (blocks - 1), (blocks - 1) * chi2 / rest))
    return Ranked(means, chi2, p, critical_difference(arms, blocks, alpha))


@functools.lru_cache
def critical_difference(arms: int, blocks: int, alpha: float = 0.05) -> float:
    """Of two mean ranks, after Nemenyi."""
    quantile = float(studentized_range.ppf(1 - alpha, arms, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(arms * (arms + 1) / (6 * blocks))


def too_few(arms: int, blocks: int, alpha: float = 0.05, what: str = "blocks") -> str:
    """Why ranks could tell nothing apart; empty where they could."""
    if arms < FEWEST_ARMS:
        return f"there are no three arms to rank, but {arms}"
    if arms > MOST_ARMS:
        return f"no diagram of {arms} arms can be read; the most is {MOST_ARMS}"
    if blocks < 2:
        return f"there are no two {what} in which every arm has a value"
    if (needed := critical_difference(arms, blocks, alpha)) >= arms - 1:
        return (
            f"with {blocks} {what} no two of {arms} arms can be told apart: mean ranks would have to differ by {needed:.2f} and "
            f"cannot by more than {arms - 1}"
        )
    return ""
