from __future__ import annotations

import pytest
from scipy import stats

from peftlab.analysis.intervals import t_interval
from peftlab.analysis.means import Mean, bounds, mean_of


def test_a_mean_over_the_seeds_that_have_a_value() -> None:
    found = mean_of([0.5, None, 0.7, 0.9], 0.9)
    assert found is not None and (found.n, found.mean) == (3, pytest.approx(0.7))
    assert found.interval == pytest.approx(stats.t.interval(0.9, 2, 0.7, stats.sem([0.5, 0.7, 0.9])))
    corrected, whole = mean_of([0.5, 0.7, 0.9], 0.9, folds=3), t_interval([0.5, 0.7, 0.9], 0.9, 3)
    assert corrected is not None and corrected.interval == pytest.approx((whole.low, whole.high))
    assert corrected.interval != pytest.approx(found.interval)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert mean_of([0.0], 0.95) == Mean(mean=0.0, interval=None, n=1)
    assert mean_of([None, None], 0.95) is None and mean_of([], 0.95) is None
    assert bounds(t_interval([0.5])) is None and bounds(t_interval([-1.0, 1.0, 0.0])) is not None
