"""Kendall's tau and its jackknife by hand; what it covers is in `test_importance.py`."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from peftlab.analysis.agreement import FEWEST_SEEDS, Tau, between_seeds, between_settings, jackknife, tau_b, taus_with

NAN = math.nan


@pytest.mark.parametrize("modules", [3, 4, 7])
def test_three_modules_have_a_tau_and_two_have_none(modules: int) -> None:
    random = np.random.default_rng(modules)
    rows, last = random.normal(size=(5, modules)), random.normal(size=modules)
    expected = [stats.kendalltau(row, last).statistic for row in rows]
    assert [tau_b(row, last) for row in rows] == pytest.approx(expected)
    assert taus_with(rows, last) == pytest.approx(expected)
    assert taus_with(rows[:, :2], last[:2]) == [None] * 5 and tau_b(rows[0, :2], last[:2]) is None


def test_only_modules_that_both_have_count() -> None:
    assert tau_b([1, 2, 3, NAN, 9], [3, 2, 1, 4, NAN]) == pytest.approx(-1)
    rows, last = np.array([[1.0, 2, 3, 4], [NAN, 2, 3, 4], [4, 3, 2, 1]]), np.array([1.0, 2, 3, 4])
    assert taus_with(rows, last) == pytest.approx([1, 1, -1])
    assert taus_with(rows[[0, 2]], np.array([9.0, 2, 3, NAN])) == pytest.approx([-1 / 3, 1 / 3])
    assert taus_with(rows[[0, 2]], np.array([1.0, 2, NAN, NAN])) == [None, None]
    assert taus_with(rows[[0, 2]], np.ones(4)) == [None, None]


def by_hand(taus: list[tuple[int, int, float]], confidence: float) -> tuple[float, float, float]:
    """Mean, and mean -+ t sqrt((n - 1) / n sum of squares), each seed left out with all its pairs."""
    seeds = sorted({seed for i, j, _ in taus for seed in (i, j)})
    means = [np.mean([tau for i, j, tau in taus if seed not in (i, j)]) for seed in seeds]
    n, theta = len(seeds), float(np.mean([tau for *_, tau in taus]))
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * math.sqrt((n - 1) / n * sum((m - np.mean(means)) ** 2 for m in means))
    return theta, theta - half, theta + half


@pytest.mark.parametrize("seeds", [3, 4, 6])
@pytest.mark.parametrize("confidence", [0.5, 0.8])
def test_a_seed_is_left_out_with_all_its_pairs(seeds: int, confidence: float) -> None:
    random = np.random.default_rng(seeds)
    taus = [(i, j, float(random.uniform(-0.3, 0.3))) for i, j in itertools.combinations(range(seeds), 2)]
    found = jackknife([*taus, (0, seeds + 5, None)], confidence)
    tau, low, high = by_hand(taus, confidence)
    assert found is not None and found.interval is not None and (found.seeds, found.pairs) == (seeds, len(taus))
    assert (found.tau, *found.interval) == pytest.approx((tau, max(-1, low), min(1, high)))


def test_an_interval_needs_three_seeds_each_of_which_can_be_left_out() -> None:
    assert FEWEST_SEEDS == 3
    assert jackknife([(0, 1, 0.4)]) == Tau(0.4, None, 2, 1)
    assert jackknife([(0, 1, 0.4), (0, 2, 0.6)]) == Tau(0.5, None, 3, 2), "without seed 0 nothing is left"
    assert jackknife([(0, 1, None)]) is None and jackknife([]) is None
    same = jackknife([(0, 1, 0.4), (0, 2, 0.4), (1, 2, 0.4)])
    assert same is not None and same.interval == pytest.approx((0.4, 0.4))


def test_the_interval_is_cut_where_no_tau_can_be() -> None:
    wide = jackknife([(0, 1, 0.9), (0, 2, -0.9), (1, 2, 0.1)])
    assert wide is not None and wide.interval == (-1.0, 1.0)


def test_every_two_seeds_are_compared_and_confidence_is_95_percent_where_none_is_named() -> None:
    random = np.random.default_rng(5)
    base = np.arange(9.0)
    maps = {seed: base + 4 * random.normal(size=9) for seed in (7, 3, 11, 5)}
    taus = [(i, j, stats.kendalltau(maps[i], maps[j]).statistic) for i, j in itertools.combinations(sorted(maps), 2)]
    for options, confidence in (({}, 0.95), ({"confidence": 0.6}, 0.6)):
        found = between_seeds(maps, **options)
        tau, low, high = by_hand(taus, confidence)
        assert found is not None and (found.seeds, found.pairs) == (4, 6)
        assert (found.tau, found.interval) == (pytest.approx(tau), pytest.approx((max(-1, low), min(1, high))))
    alone = between_seeds({3: base})
    assert alone is None


def test_settings_are_compared_over_all_pairs_of_their_seeds() -> None:
    random = np.random.default_rng(6)
    base = np.arange(8.0)
    first, second = ({seed: base + 3 * random.normal(size=8) for seed in (0, 1, 2, 3)} for _ in range(2))
    taus = [(i, j, stats.kendalltau(first[i], second[j]).statistic) for i in first for j in second]
    for options, confidence in (({}, 0.95), ({"confidence": 0.6}, 0.6)):
        found = between_settings(first, second, **options)
        tau, low, high = by_hand(taus, confidence)
        assert found is not None and (found.seeds, found.pairs) == (4, 16)
        assert (found.tau, found.interval) == (pytest.approx(tau), pytest.approx((max(-1, low), min(1, high))))
