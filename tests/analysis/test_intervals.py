"""Coverage by simulation, and scipy as the judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from peftlab.analysis.intervals import t_interval, t_tail

RUNS = 4000


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=30).filter(lambda v: np.std(v) > 1e-3), st.sampled_from([0.8, 0.95, 0.99])
)
def test_equals_scipy(values: list[float], confidence: float) -> None:
    found = t_interval(values, confidence)
    low, high = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found.low == pytest.approx(low, rel=1e-9, abs=1e-9)
    assert found.high == pytest.approx(high, rel=1e-9, abs=1e-9)


def test_covers_95_percent_with_five_values() -> None:
    # 4,000 runs: the standard error of a coverage of 0.95 is 0.0034, four of them are 0.014
    generator = np.random.default_rng(1)
    found = [t_interval(v) for v in generator.normal(size=(RUNS, 5))]
    coverage = np.mean([f.low is not None and f.high is not None and f.low <= 0 <= f.high for f in found])
    assert abs(coverage - 0.95) < 0.014


def test_a_percentile_bootstrap_would_not() -> None:
    # STATISTICS: with 5 pairs a "95 %" percentile interval covers about 84 %; the reason for Student's t here
    generator = np.random.default_rng(2)
    data = generator.normal(size=(1000, 5))
    means = data[np.arange(1000)[:, None, None], generator.integers(0, 5, size=(1000, 500, 5))].mean(axis=2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert 0.78 < np.mean((low <= 0) & (high >= 0)) < 0.90


def test_folds_are_not_independent() -> None:
    # r folds share training data: errors with correlation 1/k, the case the correction is exact for (Nadeau and Bengio 2003)
    generator, k = np.random.default_rng(3), 5
    common = generator.normal(size=(RUNS, 1)) * math.sqrt(1 / k)
    data = common + generator.normal(size=(RUNS, k)) * math.sqrt(1 - 1 / k)
    corrected = [t_interval(v, folds=k) for v in data]
    naive = [t_interval(v) for v in data]
    cover = [
        np.mean([f.low <= 0 <= f.high for f in found if f.low is not None and f.high is not None]) for found in (corrected, naive)
    ]
    assert abs(cover[0] - 0.95) < 0.014
    assert cover[1] < 0.92


@pytest.mark.parametrize(("values", "n"), [([], 0), ([math.nan], 0), ([0.5], 1), ([0.5, math.nan], 1)])
def test_too_few_values_give_no_interval(values: list[float], n: int) -> None:
    found = t_interval(values)
    assert (found.n, found.low, found.high) == (n, None, None)


def test_no_variation_gives_no_p() -> None:
    assert t_tail(0.3, 0.0, 5) is None
    assert t_tail(0.3, 1e-17, 5) is None
    assert t_tail(0.3, 0.1, 5) == pytest.approx(stats.t.sf(3, 4))
