from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from peftlab.analysis.power import detectable_effect, power, seeds_needed


@pytest.mark.parametrize(("n", "effect"), [(5, 1.68), (10, 1.00), (15, 0.78)])  # the analysis plan's own figures
def test_detectable_effect_of_the_plan(n: int, effect: float) -> None:
    assert round(detectable_effect(n), 2) == effect


@pytest.mark.parametrize("n", [3, 5, 12, 40])
@pytest.mark.parametrize("two_sided", [True, False])
def test_power_equals_statsmodels(n: int, two_sided: bool) -> None:
    judge = TTestPower().power(0.8, n, 0.05, alternative="two-sided" if two_sided else "larger")
    assert power(0.8, n, two_sided=two_sided) == pytest.approx(judge, abs=1e-6)


def test_power_by_simulation() -> None:
    # 20,000 runs: standard error 0.0028
    data = np.random.default_rng(0).normal(detectable_effect(5), 1, size=(20_000, 5))
    assert np.mean(stats.ttest_1samp(data, 0, axis=1).pvalue <= 0.05) == pytest.approx(0.8, abs=0.0115)


@pytest.mark.parametrize("effect", [0.2, 0.7, 1.7, 4.0])
def test_seeds_needed_is_the_smallest(effect: float) -> None:
    n = seeds_needed(effect)
    assert n is not None and power(effect, n) >= 0.8
    assert n == 2 or power(effect, n - 1) < 0.8


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 7])
@pytest.mark.parametrize("effect", [0.5, 1.5, 3.56, 8.0, 40.0])
def test_power_grows_with_seeds_however_large_the_difference(effect: float, alpha: float) -> None:
    found = [power(effect, n, alpha=alpha) for n in range(2, 1001)]
    assert all(0 <= a <= b + 1e-12 <= 1 + 1e-9 for a, b in itertools.pairwise(found))
    assert seeds_needed(effect, alpha=alpha) == next((n for n, p in enumerate(found, start=2) if p >= 0.8), None)


def test_what_no_number_of_seeds_shows() -> None:
    assert seeds_needed(0.0) is None
    assert seeds_needed(-1.0) is None
    assert seeds_needed(1e-3) is None
    assert detectable_effect(1) == math.inf


def test_one_pair_has_no_power_and_two_have_some() -> None:
    assert power(50.0, 1) == 0.0 and 0.05 < power(1.0, 2) < power(1.0, 3)
    assert detectable_effect(2) < math.inf and power(detectable_effect(2), 2) == pytest.approx(0.8)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(("n", "target", "alpha"), [(4, 0.9, 0.05), (40, 0.5, 0.01), (1000, 0.8, 0.05)])
def test_the_detectable_effect_is_found_with_the_power_asked_for(n: int, target: float, alpha: float, two_sided: bool) -> None:
    effect = detectable_effect(n, target=target, alpha=alpha, two_sided=two_sided)
    assert power(effect, n, alpha=alpha, two_sided=two_sided) == pytest.approx(target, abs=1e-6)
    larger, smaller = effect * 1.0001, effect * 0.9999
    assert seeds_needed(larger, target=target, alpha=alpha, two_sided=two_sided) == n
    assert (seeds_needed(smaller, target=target, alpha=alpha, two_sided=two_sided) or 1001) == n + 1


def test_eighty_percent_at_five_percent_two_sided_with_a_thousand_seeds_at_most() -> None:
    assert detectable_effect(7) == detectable_effect(7, target=0.8, alpha=0.05, two_sided=True)
    assert seeds_needed(0.5) == seeds_needed(0.5, target=0.8, alpha=0.05, two_sided=True, most=1000)
    assert power(0.5, 9) == power(0.5, 9, alpha=0.05, two_sided=True)
    assert seeds_needed(detectable_effect(1001) * 1.0001) is None
    n = seeds_needed(0.5)
    assert n is not None and seeds_needed(0.5, most=n) == n and seeds_needed(0.5, most=n - 1) is None
    assert seeds_needed(1e6) == 2


def test_no_difference_is_found_by_no_number_of_seeds() -> None:
    """Though a test at 5 % says so in 5 %: a false alarm is no finding."""
    assert seeds_needed(0.0, target=0.01) is None and seeds_needed(math.nan) is None
