"""Coverage by simulation, and scipy as the judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from peftlab.analysis.intervals import Interval, standard_error, t_interval, t_tail

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


def test_the_correction_for_folds_adds_their_share_of_test_data() -> None:
    values = np.array([0.5, 0.9, 0.6, 0.7])
    sd = values.std(ddof=1)
    for folds, more in ((1, 0.0), (2, 1.0), (3, 1 / 2), (5, 1 / 4)):
        error = sd * math.sqrt(1 / 4 + more)
        assert standard_error(values, folds) == pytest.approx(error)
        found = t_interval(values, folds=folds)
        assert (found.sd, found.standard_error, found.n, found.confidence) == (pytest.approx(sd), pytest.approx(error), 4, 0.95)
        assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 3, values.mean(), error))
    assert standard_error(values) == standard_error(values, 1)
    assert standard_error(values[:1]) is None and standard_error(values[:2]) == pytest.approx(0.4 / math.sqrt(2) / math.sqrt(2))


def test_one_value_is_a_mean_alone() -> None:
    assert t_interval([0.5, math.inf], 0.9) == Interval(0.5, None, None, None, None, 1, 0.9)
    none = t_interval([], 0.9)
    assert math.isnan(none.mean) and (none.n, none.sd, none.standard_error, none.confidence) == (0, None, None, 0.9)
    two = t_interval([0.5, 0.7])
    assert (two.n, two.low, two.high) == (2, *(pytest.approx(x) for x in stats.t.interval(0.95, 1, 0.6, 0.1)))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_standard_error_below_1e_12_of_the_mean_is_none(unit: float) -> None:
    assert t_tail(unit, 0.9e-12 * unit, 5) is None and t_tail(-unit, 0.9e-12 * unit, 5) is None
    assert t_tail(unit, 1.1e-12 * unit, 5) is not None
    assert t_tail(-unit, 0.5 * unit, 2) == pytest.approx(stats.t.sf(-2, 1))


def test_a_mean_of_zero_has_a_tail_unless_nothing_varies() -> None:
    assert t_tail(0.0, 1e-20, 5) == 0.5 and t_tail(0.0, 0.0, 5) is None
    assert t_tail(0.3, None, 5) is None and t_tail(0.3, 0.1, 1) is None
