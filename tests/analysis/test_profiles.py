from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ecdf

from peftlab.analysis.profiles import RESAMPLES, band, profile

runs = st.lists(st.integers(0, 20), min_size=2, max_size=8)


@given(runs)
def test_of_one_task_it_is_the_survival_function(values: list[int]) -> None:
    levels = np.arange(-1.0, 21.0, 0.5)
    theirs = ecdf(values).sf.evaluate(levels)
    assert np.allclose(profile([np.array(values, dtype=float)], levels), theirs)
    below = profile([-np.array(values, dtype=float)], -levels, higher_is_better=False)
    assert np.allclose(below, theirs)


def test_tasks_count_alike_whatever_their_runs() -> None:
    found = profile([np.array([1.0]), np.array([0.0, 0.0, 0.0, 1.0])], np.array([0.5]))
    assert found.tolist() == [(1.0 + 0.25) / 2]


def test_band_covers_with_many_runs() -> None:
    """400 simulated samples of 40 normal runs, the true share above 0.3: 95 % less what a percentile bootstrap loses."""
    generator = np.random.default_rng(3)
    truth, levels, hits = 0.3820886, np.array([0.3]), 0
    for _ in range(400):
        low, high = band([generator.normal(size=40)], levels, generator, resamples=400)
        hits += bool(low[0] <= truth <= high[0])
    assert 0.90 < hits / 400 < 0.98


def test_band_is_that_of_naive_resampling() -> None:
    values, levels = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.5, 3.0, 5.0])
    generator = np.random.default_rng(0)
    drawn = [(generator.choice(values, 4)[:, None] > levels).mean(axis=0) for _ in range(20_000)]
    low, high = band([values], levels, np.random.default_rng(1), resamples=20_000)
    assert np.abs(np.quantile(drawn, 0.025, axis=0) - low).max() <= 0.25  # steps of a quarter
    assert np.abs(np.quantile(drawn, 0.975, axis=0) - high).max() <= 0.25


def test_a_band_holds_the_shares_of_runs_drawn_anew() -> None:
    """Of runs 0 and 1 the share above 1/2 is 0, 1/2 or 1 in a quarter, a half and a quarter of the draws."""
    runs, level = np.array([0.0, 1.0]), np.array([0.5])
    for tasks in ([runs], [runs, np.array([1.0])]):
        rest = len(tasks) - 1
        for confidence, ends in ((0.4, (0.5, 0.5)), (0.6, (0.0, 1.0))):
            low, high = band(tasks, level, np.random.default_rng(0), confidence=confidence)
            assert (low[0], high[0]) == tuple((end + rest) / len(tasks) for end in ends)
    low, high = band([np.array([0.0, 0.0, 1.0])], level, np.random.default_rng(0), higher_is_better=False, confidence=0.2)
    assert low[0] == pytest.approx(2 / 3) == high[0]


def test_two_thousand_draws_and_95_percent_where_nothing_else_is_said() -> None:
    runs, levels = [np.random.default_rng(2).normal(size=30)], np.linspace(-1, 1, 5)

    def found(**options: float) -> np.ndarray:
        return np.array(band(runs, levels, np.random.default_rng(0), **options))  # pyright: ignore

    assert np.array_equal(found(), found(resamples=2000, confidence=0.95, higher_is_better=True))
    assert RESAMPLES == 2000 and not np.array_equal(found(), found(confidence=0.9))
    assert np.array_equal(profile(runs, levels), profile(runs, levels, higher_is_better=True))


def test_a_run_at_a_level_is_not_beyond_it() -> None:
    for higher in (True, False):
        assert profile([np.array([1.0, 1.0])], np.array([1.0]), higher_is_better=higher).tolist() == [0.0]
