from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ecdf

from peftlab.analysis.profiles import band, profile

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
