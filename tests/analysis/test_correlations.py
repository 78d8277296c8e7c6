from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr
from statsmodels.formula.api import ols

from peftlab.analysis.correlations import between, pearson, within

GENERATOR = np.random.default_rng(11)


@pytest.mark.parametrize("n", [4, 5, 12, 60])
def test_r_and_its_interval_are_scipys(n: int) -> None:
    x = GENERATOR.normal(size=n)
    y = 0.5 * x + GENERATOR.normal(size=n)
    theirs, ours = pearsonr(x, y), pearson(x, y)
    assert ours is not None and ours.interval is not None
    assert ours.r == pytest.approx(theirs[0])
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_within_is_the_partial_correlation_given_the_groups() -> None:
    """That of the residuals of two regressions on the groups, from statsmodels."""
    groups = np.repeat(list("abcd"), 6)
    shift = np.repeat([0.0, 5.0, -3.0, 9.0], 6)
    table = pd.DataFrame({"g": groups, "x": shift + GENERATOR.normal(size=24), "y": -shift + GENERATOR.normal(size=24)})
    left = [ols(f"{name} ~ C(g)", table).fit().resid for name in "xy"]
    ours = within(table["x"], table["y"], list(groups))
    assert ours is not None and ours.r == pytest.approx(np.corrcoef(*left)[0, 1]) and ours.n == 24
    over = between(table["x"], table["y"], list(groups))
    assert over is not None and over.n == 4 and over.r < -0.9


def test_why_there_is_no_interval_within_groups() -> None:
    """500 studies of 6 arms over the same 5 seeds, which shift all arms alike, r = 0 within: Fisher's covers far less."""
    generator, hits = np.random.default_rng(5), 0
    groups = [name for name in "abcdef" for _ in range(5)]
    for _ in range(500):
        x, y = (np.tile(generator.normal(size=5), 6) + 0.3 * generator.normal(size=30) for _ in range(2))
        found = within(x + np.repeat(np.arange(6), 5), y, groups)
        assert found is not None and found.interval is None and found.n == 30
        half = 1.96 / np.sqrt(30 - 6 - 2)
        hits += abs(np.arctanh(found.r)) <= half
    assert hits / 500 < 0.75


def test_what_has_no_correlation() -> None:
    assert pearson([1, 2], [1, 2]) is None
    assert pearson([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert pearson([1, 2, np.nan, 4], [1, 2, 3, np.nan]) is None
    whole = pearson([1, 2, 3, 4, 5], [2, 4, 6, 8, 10])
    assert whole is not None and whole.interval == pytest.approx((1.0, 1.0))
    assert pearson([1, 2, 3], [1, 3, 2]) == pearson([2, 4, 6], [1, 3, 2])


@pytest.mark.parametrize(("n", "rho"), [(5, 0.6), (10, 0.6), (10, -0.9), (30, 0.3)])
def test_the_interval_covers_the_true_correlation(n: int, rho: float) -> None:
    """2,000 bivariate normal samples; Fisher's interval is an approximation that is a little wide with few points."""
    generator, trials = np.random.default_rng(6), 2000
    x = generator.normal(size=(trials, n))
    y = rho * x + np.sqrt(1 - rho**2) * generator.normal(size=(trials, n))
    hits = 0
    for a, b in zip(x, y, strict=True):
        found = pearson(a, b)
        assert found is not None and found.interval is not None
        hits += found.interval[0] <= rho <= found.interval[1]
    assert hits / trials == pytest.approx(0.955, abs=0.005 + 3 * np.sqrt(0.95 * 0.05 / trials))


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_confidence_is_the_one_asked_for(confidence: float) -> None:
    x = np.array([1.0, 4, 2, 8, 5, 7])
    y = np.array([2.0, 3, 1, 9, 4, 8])
    theirs, ours = pearsonr(x, y).confidence_interval(confidence), pearson(x, y, confidence)
    assert ours is not None and ours.interval == pytest.approx(tuple(theirs))
    means = between(np.repeat(x, 2), np.repeat(y, 2), [c for c in "abcdef" for _ in "12"], confidence)
    assert means is not None and means.interval == pytest.approx(tuple(theirs)) and means.n == 6
    plain = between(np.repeat(x, 2), np.repeat(y, 2), [c for c in "abcdef" for _ in "12"])
    assert plain is not None and plain.interval == pytest.approx(tuple(pearsonr(x, y).confidence_interval(0.95)))


def test_three_points_have_r_four_an_interval() -> None:
    x, y = np.array([1.0, 2, 4, 3]), np.array([1.0, 3, 2, 5])
    three, four = pearson(x[:3], y[:3]), pearson(x, y)
    assert three is not None and three.interval is None and three.n == 3 and three.r == pytest.approx(pearsonr(x[:3], y[:3])[0])
    assert four is not None and four.interval is not None and four.interval[0] < four.r < four.interval[1]


def test_a_perfect_correlation_has_an_interval_of_no_width() -> None:
    x = np.array([1.0, 2, 4, 8])
    for sign in (-1, 1):
        found = pearson(x, sign * x)
        assert found is not None and (found.r, found.interval) == (sign, (sign, sign))


def test_what_varies_by_rounding_alone_does_not_vary() -> None:
    steps, y = np.array([0.0, 1, 2, 1]), np.array([1.0, 3, 2, 5])
    for level, small, enough in ((1.0, 1e-13, 1e-11), (1e6, 1e-9, 1e-5), (0.0, 1e-13, 1e-11)):
        for x, there in ((level + small * steps, False), (level + enough * steps, True)):
            assert (pearson(x, y) is not None) == there == (pearson(y, x) is not None), (level, there)


def test_points_without_one_of_the_two_values_count_nowhere() -> None:
    x = np.array([1.0, 2, np.nan, 4, 6, 5, 9, 7])
    y = np.array([2.0, 1, 3, np.nan, 4, 8, 6, 9])
    groups = list("aabbbccc")
    kept = np.isfinite(x) & np.isfinite(y)
    own = [g for g, k in zip(groups, kept, strict=True) if k]
    for ask in (within, between):
        assert ask(x, y, groups) == ask(x[kept], y[kept], own)
    assert pearson(x, y) == pearson(x[kept], y[kept])
