"""Statistics against scipy and statsmodels on generated data; tests/analysis has what was compared there already."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some
from scipy import stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.libqsturng import qsturng
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from peftlab.analysis.comparison import equivalence_p, margin_differences, non_inferiority, paired_difference
from peftlab.analysis.intervals import t_interval
from peftlab.analysis.over_tasks import improvement, interquartile_mean, signed_rank_p, stratified_bootstrap
from peftlab.analysis.power import detectable_effect, power
from peftlab.analysis.profiles import band, profile
from peftlab.analysis.ranking import critical_difference, rank_blocks
from peftlab.study.schema import Margin

scipy_stats: Any = stats
SCORE = some.integers(0, 1000).map(lambda number: number / 1000)  # accuracies of three digits: ties do happen
PAIRS = some.lists(some.tuples(SCORE | some.none(), SCORE | some.none()), min_size=3, max_size=12)
LEVEL = some.sampled_from([0.8, 0.9, 0.95, 0.99])
TASKS = some.lists(some.lists(SCORE, min_size=2, max_size=7).map(np.array), min_size=1, max_size=4)


def columns(pairs: list[tuple[float | None, float | None]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both arms as given, and both of the complete pairs only; something varies in their differences."""
    first, second = np.array([[math.nan if v is None else v for v in pair] for pair in pairs]).T
    kept = np.isfinite(first) & np.isfinite(second)
    a, b = first[kept], second[kept]
    assume(a.size >= 2 and np.ptp(np.round(a - b, 6)) > 0)
    return first, second, a, b


@settings(max_examples=50)
@given(PAIRS, LEVEL)
def test_paired_difference_is_scipys_paired_t(pairs: list[tuple[float | None, float | None]], level: float) -> None:
    first, second, a, b = columns(pairs)
    found, wanted = paired_difference(first, second, confidence=level), scipy_stats.ttest_rel(a, b)
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-9)
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(wanted.confidence_interval(level)), abs=1e-12)


@given(some.lists(SCORE, min_size=2, max_size=12), LEVEL, some.integers(1, 10))
def test_intervals_are_those_of_statsmodels_and_wider_with_folds(values: list[float], level: float, folds: int) -> None:
    """Nadeau and Bengio's correction is a factor on the standard error."""
    found = t_interval(values, level, folds)
    low, high = DescrStatsW(values).tconfint_mean(alpha=1 - level)
    factor = math.sqrt(1 + len(values) / (folds - 1)) if folds > 1 else 1.0
    assert found.low is not None and found.high is not None
    assert (found.low + found.high) / 2 == pytest.approx((low + high) / 2, abs=1e-12)
    assert found.high - found.low == pytest.approx(factor * (high - low), abs=1e-12)


@settings(max_examples=50)
@given(PAIRS, some.floats(0.001, 0.5))
def test_equivalence_is_the_tost_of_statsmodels(pairs: Any, margin: float) -> None:
    first, second, a, b = columns(pairs)
    found = equivalence_p(first, second, Margin(absolute=margin))
    assert found == pytest.approx(ttost_paired(a, b, -margin, margin)[0], rel=1e-9, abs=1e-300)


@settings(max_examples=50)
@given(PAIRS, some.floats(0.01, 0.5), some.booleans(), LEVEL)
def test_non_inferiority_is_scipys_one_sided_t_test(pairs: Any, margin: float, higher: bool, level: float) -> None:
    """Of A - (1 - m) F, or (1 + m) F - A where lower is better."""
    first, second, a, b = columns(pairs)
    d = a - (1 - margin) * b if higher else (1 + margin) * b - a
    assume(np.ptp(np.round(d, 6)) > 0)
    found = non_inferiority(margin_differences(first, second, Margin(relative=margin), higher_is_better=higher), confidence=level)
    wanted = scipy_stats.ttest_1samp(d, 0, alternative="greater")
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-9)
    assert found.bound == pytest.approx(wanted.confidence_interval(level).low, abs=1e-12)


@settings(max_examples=25)
@given(some.lists(some.integers(1, 30), min_size=6, max_size=9), some.data())
def test_signed_ranks_are_counted_over_all_signs(sizes: list[int], data: some.DataObject) -> None:
    """The share of sign patterns whose rank sum lies as far from its mean as the one seen."""
    signs = np.array(data.draw(some.lists(some.sampled_from([-1, 1]), min_size=len(sizes), max_size=len(sizes))))
    ranks = stats.rankdata(sizes)
    patterns = np.array(list(itertools.product([-1, 1], repeat=len(sizes)))) @ ranks
    wanted = float(np.mean(np.abs(patterns) >= abs(signs @ ranks)))
    assert signed_rank_p((signs * sizes / 1000).tolist()) == pytest.approx(wanted)


@settings(max_examples=40)
@given(some.integers(2, 8), some.integers(3, 6), some.data())
def test_iman_and_davenports_f_is_the_analysis_of_variance_of_the_ranks(blocks: int, arms: int, data: some.DataObject) -> None:
    """Conover and Iman (1981); blocks are the subjects of statsmodels' AnovaRM, ties share ranks."""
    table = np.array(
        data.draw(some.lists(some.lists(some.integers(0, 6), min_size=arms, max_size=arms), min_size=blocks, max_size=blocks))
    )
    ranks = stats.rankdata(-table, axis=1)
    rest = ranks - ranks.mean(axis=0)
    assume(np.abs(rest).max() > 0 and np.ptp(ranks.mean(axis=0)) > 0)
    long = pd.DataFrame(
        [(block, arm, ranks[block, arm]) for block in range(blocks) for arm in range(arms)], columns=["block", "arm", "rank"]
    )
    wanted = AnovaRM(long, "rank", "block", within=["arm"]).fit().anova_table
    found = rank_blocks(table, higher_is_better=True)
    assert found.p == pytest.approx(float(wanted["Pr > F"].iloc[0]), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.1])
@pytest.mark.parametrize("arms", [3, 5, 10, 20])
def test_nemenyis_difference_is_that_of_statsmodels_studentized_range(arms: int, alpha: float) -> None:
    wanted = float(np.squeeze(qsturng(1 - alpha, arms, np.inf))) / math.sqrt(2) * math.sqrt(arms * (arms + 1) / (6 * 12))
    assert critical_difference(arms, 12, alpha) == pytest.approx(wanted, rel=1e-3)  # theirs is an approximation


@settings(max_examples=50)
@given(TASKS)
def test_interquartile_mean_is_scipys_trimmed_mean(tasks: list[np.ndarray]) -> None:
    wanted = scipy_stats.trim_mean(np.concatenate(tasks), 0.25)
    assert float(interquartile_mean(tasks)) == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=50)
@given(TASKS, some.booleans(), some.data())
def test_improvement_is_the_mean_of_mann_whitneys_u(tasks: list[np.ndarray], higher: bool, data: some.DataObject) -> None:
    others = [np.array(data.draw(some.lists(SCORE, min_size=2, max_size=7))) for _ in tasks]
    shares = [scipy_stats.mannwhitneyu(a, b).statistic / (a.size * b.size) for a, b in zip(tasks, others, strict=True)]
    wanted = np.mean(shares if higher else [1 - share for share in shares])
    assert float(improvement(tasks, others, higher_is_better=higher)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("statistic", ["inter-quartile mean", "improvement"])
def test_bootstrap_intervals_are_scipys_but_for_chance(statistic: str) -> None:
    """Percentile intervals of 10,000 draws each: ends within 5 % of the width, four standard errors of either."""
    random = np.random.default_rng(5)
    first, second = ([random.normal(level, 1, 8) for level in (shift, shift + 1, shift - 1)] for shift in (0.4, 0.0))

    def trimmed(*samples: Any, axis: int = -1) -> Any:
        return scipy_stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    def better(*samples: Any, axis: int = -1) -> Any:
        return np.mean(
            [(a[..., :, None] > b[..., None, :]).mean((-2, -1)) for a, b in zip(samples[:3], samples[3:], strict=True)], 0
        )

    samples, theirs = (first, trimmed) if statistic == "inter-quartile mean" else ([*first, *second], better)
    arms, ours = ([first], interquartile_mean) if theirs is trimmed else ([first, second], improvement)
    wanted = scipy_stats.bootstrap(samples, theirs, n_resamples=10_000, method="percentile", vectorized=True, rng=random)
    low, high = stratified_bootstrap(ours, arms, np.random.default_rng(6), draws=10_000)
    width = wanted.confidence_interval.high - wanted.confidence_interval.low
    assert low == pytest.approx(wanted.confidence_interval.low, abs=0.05 * width)
    assert high == pytest.approx(wanted.confidence_interval.high, abs=0.05 * width)


def test_the_band_of_a_profile_has_the_quantiles_of_a_binomial_distribution() -> None:
    """Runs above a level, drawn anew out of 40 of one task: Binomial(40, rho) of them."""
    runs, levels = np.arange(40) / 40, np.linspace(0.05, 0.95, 10)
    low, high = band([runs], levels, np.random.default_rng(3), resamples=20_000)
    share = profile([runs], levels)
    for found, side in ((low, 0.025), (high, 0.975)):
        assert np.abs(found * 40 - scipy_stats.binom.ppf(side, 40, share)).max() <= 1


@settings(max_examples=40)
@given(some.floats(0.1, 3.0), some.integers(2, 30), some.sampled_from([0.01, 0.05, 0.1]), some.booleans())
def test_power_and_its_inverse_are_those_of_statsmodels(effect: float, n: int, alpha: float, two_sided: bool) -> None:
    side = "two-sided" if two_sided else "larger"
    wanted = float(TTestPower().power(effect, n, alpha, df=n - 1, alternative=side))
    assume(math.isfinite(wanted))  # theirs is NaN where a tail underflows
    assert power(effect, n, alpha=alpha, two_sided=two_sided) == pytest.approx(wanted, abs=1e-6)
    least = detectable_effect(n, alpha=alpha, two_sided=two_sided)
    there = float(TTestPower().power(least, n, alpha, df=n - 1, alternative=side))
    assert math.isnan(there) or there == pytest.approx(0.8, abs=1e-6)
