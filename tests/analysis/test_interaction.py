"""Rank and quantization, seed by seed: against numpy's fit, scipy's t test and the F of a paired contrast."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from peftlab.analysis.interaction import slope, two_way
from peftlab.analysis.intervals import t_interval

RANKS = np.array([2.0, 8.0, 64.0])


def test_the_slope_is_a_least_squares_fit_per_doubling_in_each_seed() -> None:
    effects = np.random.default_rng(0).normal(-0.3, 1.0, (6, 3))
    fits = [np.polyfit(np.log2(RANKS), row, 1)[0] for row in effects]
    found = slope(effects, RANKS)
    assert found.interval.mean == pytest.approx(np.mean(fits)) and found.interval.n == 6
    assert (found.interval.low, found.interval.high) == pytest.approx(stats.t.interval(0.95, 5, np.mean(fits), stats.sem(fits)))
    assert found.p == pytest.approx(stats.ttest_1samp(fits, 0).pvalue)
    assert slope(-effects, RANKS).p == pytest.approx(found.p)
    for confidence, folds in ((0.8, 1), (0.95, 3)):
        one, other = slope(effects, RANKS, confidence, folds).interval, t_interval(fits, confidence, folds)
        assert (one.low, one.high) == pytest.approx((other.low, other.high))
    assert slope(effects[:1], RANKS).p is None and slope(np.ones((4, 3)), RANKS).p is None


def test_two_by_two_is_the_t_test_of_the_difference_of_differences() -> None:
    for seeds in (2, 3, 6):
        values = np.random.default_rng(seeds).normal(size=(seeds, 2, 2))
        t = stats.ttest_1samp(values[:, 0, 0] - values[:, 0, 1] - values[:, 1, 0] + values[:, 1, 1], 0)
        found = two_way(values)
        assert found is not None and found.degrees == (1, seeds - 1)
        assert (found.f, found.p) == pytest.approx((t.statistic**2, t.pvalue))


def test_degrees_of_freedom_of_a_larger_design() -> None:
    found = two_way(np.random.default_rng(1).normal(size=(5, 3, 4)))
    assert found is not None and found.degrees == (6, 24) and found.p == pytest.approx(stats.f.sf(found.f, 6, 24))


@pytest.mark.parametrize("shape", [(1, 2, 2), (4, 1, 2), (4, 2, 1)])
def test_one_seed_one_rank_or_one_scheme_have_no_interaction(shape: tuple[int, int, int]) -> None:
    assert two_way(np.random.default_rng(2).normal(size=shape)) is None


@pytest.mark.parametrize("unit", [1.0, 1e6])
def test_where_only_rounding_is_left_nothing_is_tested(unit: float) -> None:
    """Values that are a sum of a seed's, a rank's and a scheme's part, apart from 1e-13 of their size."""
    random = np.random.default_rng(3)
    sums = random.normal(size=(5, 1, 1)) + random.normal(size=(1, 3, 1)) + random.normal(size=(1, 1, 2))
    noise = random.uniform(-1, 1, (5, 3, 2))
    sums /= np.abs(sums).max()
    assert two_way(unit * (sums + 1e-13 * noise)) is None
    assert two_way(unit * (sums + 1e-9 * noise)) is not None


def test_small_values_are_no_rounding_until_they_are_below_1e_12() -> None:
    noise = np.random.default_rng(4).normal(size=(5, 3, 2))
    assert two_way(1e-9 * noise) is not None and two_way(1e-13 * noise) is None
