"""Tests of the tests: scipy and statsmodels as judges, error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from peftlab.analysis.comparison import (
    correlation,
    equivalence_p,
    holm,
    margin_differences,
    non_inferiority,
    paired_difference,
    sign_flip_p,
    smallest_sign_flip_p,
    union,
)
from peftlab.analysis.intervals import t_interval
from peftlab.study.schema import Margin

RUNS = 3000
SLACK = 4 * (0.05 * 0.95 / RUNS) ** 0.5  # four standard errors of an error rate of 0.05
THREE = Margin(relative=0.03)


def seeds(generator: np.random.Generator, shift: float = 0.0, n: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Arm and baseline, [RUNS, n], correlated over seeds."""
    common = generator.normal(scale=0.004, size=(RUNS, n))
    base = 0.9 + common + generator.normal(scale=0.003, size=(RUNS, n))
    return 0.9 + shift + common + generator.normal(scale=0.003, size=(RUNS, n)), base


def test_paired_t_equals_scipy() -> None:
    arms, bases = seeds(np.random.default_rng(0))
    for arm, base in zip(arms[:50], bases[:50], strict=True):
        judge = stats.ttest_rel(arm, base)
        found = paired_difference(arm, base)
        assert found.p == pytest.approx(judge.pvalue, rel=1e-9)
        interval = judge.confidence_interval()
        assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert found.correlation == pytest.approx(stats.pearsonr(arm, base).statistic)


def test_missing_runs_leave_the_pair_out() -> None:
    found = paired_difference([1.0, 2.0, np.nan, 4.0], [0.5, np.nan, 1.0, 3.0])
    assert found.interval.n == 2
    assert found.interval.mean == pytest.approx(0.75)


@pytest.mark.parametrize("n", [2, 4, 7])
def test_sign_flip_equals_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(0.4, 1, n)
    judge = stats.permutation_test((values,), np.mean, permutation_type="samples", alternative="two-sided", n_resamples=np.inf)
    assert sign_flip_p(values) == pytest.approx(judge.pvalue)


def test_sign_flip_cannot_go_below_two_in_two_to_the_n() -> None:
    assert sign_flip_p([1.0, 1.1, 0.9, 1.2, 1.05]) == smallest_sign_flip_p(5) == 0.0625


def test_sign_flip_beyond_enumeration_needs_a_generator() -> None:
    values = np.random.default_rng(5).normal(0.3, 1, 20)
    assert sign_flip_p(values) is None
    drawn = sign_flip_p(values, np.random.default_rng(0))
    assert drawn == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.03)


def test_error_rate_under_the_null() -> None:
    arms, bases = seeds(np.random.default_rng(1))
    found = [paired_difference(a, b) for a, b in zip(arms, bases, strict=True)]
    assert abs(np.mean([f.p is not None and f.p <= 0.05 for f in found]) - 0.05) < SLACK
    assert np.mean([f.p_sign_flip is not None and f.p_sign_flip <= 0.0625 for f in found]) < 0.0625 + SLACK


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    judge = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(list(judge))


def test_holm_counts_tests_that_could_not_be_made() -> None:
    assert holm([0.01, None, 0.04]) == [pytest.approx(0.03), None, pytest.approx(0.08)]


def test_holm_keeps_the_family_wise_error_rate() -> None:
    generator = np.random.default_rng(2)
    p_values = stats.norm.sf(generator.normal(size=(RUNS, 6)))
    wrong = np.mean([min(p for p in holm(list(row)) if p is not None) <= 0.05 for row in p_values])
    assert wrong < 0.05 + SLACK


def test_non_inferiority_error_rate_at_the_margin() -> None:
    # the arm's true mean is exactly 0.97 of the baseline's: "non-inferior" is wrong in at most 5 %
    generator = np.random.default_rng(3)
    arms, bases = seeds(generator, shift=-0.03 * 0.9)
    p_values = [non_inferiority(margin_differences(a, b, THREE)).p for a, b in zip(arms, bases, strict=True)]
    rate = np.mean([p is not None and p <= 0.05 for p in p_values])
    assert abs(rate - 0.05) < SLACK


def test_non_inferiority_finds_an_equal_arm() -> None:
    arms, bases = seeds(np.random.default_rng(4))
    p_values = [non_inferiority(margin_differences(a, b, THREE)).p for a, b in zip(arms, bases, strict=True)]
    assert np.mean([p is not None and p <= 0.05 for p in p_values]) > 0.95


def test_margin_differences_by_hand() -> None:
    assert margin_differences([0.88], [0.9], THREE) == pytest.approx([0.88 - 0.97 * 0.9])
    assert margin_differences([2.1], [2.0], THREE, higher_is_better=False) == pytest.approx([1.03 * 2.0 - 2.1])
    assert margin_differences([0.88], [0.9], Margin(absolute=0.01)) == pytest.approx([-0.01])
    assert margin_differences([2.1], [2.0], Margin(absolute=0.2), higher_is_better=False) == pytest.approx([0.1])
    assert margin_differences([0.88], [0.9], THREE, chance=0.1) == pytest.approx([0.78 - 0.97 * 0.8])


def test_one_sided_bound_belongs_to_the_p() -> None:
    d = np.array([0.01, 0.02, 0.015, 0.03, 0.005])
    found = non_inferiority(d)
    judge = stats.ttest_1samp(d, 0, alternative="greater")
    assert found.p == pytest.approx(judge.pvalue)
    assert found.bound == pytest.approx(judge.confidence_interval(0.95).low)
    assert found.p_opposite == pytest.approx(1 - judge.pvalue)


def test_tost_equals_statsmodels_for_an_absolute_margin() -> None:
    arms, bases = seeds(np.random.default_rng(6))
    for arm, base in zip(arms[:30], bases[:30], strict=True):
        judge = ttost_paired(arm, base, -0.004, 0.004)[0]
        assert equivalence_p(arm, base, Margin(absolute=0.004)) == pytest.approx(judge, rel=1e-9)


@pytest.mark.parametrize("shift", [-0.03 * 0.9, 0.03 * 0.9])
def test_tost_error_rate_at_either_margin(shift: float) -> None:
    arms, bases = seeds(np.random.default_rng(7), shift=shift)
    rate = np.mean([(equivalence_p(a, b, THREE) or 0) <= 0.05 for a, b in zip(arms, bases, strict=True)])
    assert rate < 0.05 + SLACK


def test_union_is_the_largest() -> None:
    assert union([0.01, 0.04]) == 0.04
    assert union([0.01, None]) is None
    assert union([]) is None


def test_nothing_varies_nothing_is_tested() -> None:
    found = paired_difference([0.9, 0.9, 0.9], [0.8, 0.8, 0.8])
    assert found.p is None and found.correlation is None
    assert non_inferiority(margin_differences([0.9] * 3, [0.8] * 3, THREE)).p is None


def test_union_keeps_its_level_where_one_task_is_at_the_margin() -> None:
    """Three tasks over the same seeds: exactly at the margin on one, clear on the others; and at the margin on all."""
    generator = np.random.default_rng(8)
    at_margin = [seeds(generator, shift=-0.03 * 0.9) for _ in range(3)]
    clear = [seeds(generator) for _ in range(2)]
    for tasks, least in ((at_margin[:1] + clear, 0.05 - SLACK), (at_margin, -1.0)):
        p_values = [
            union([non_inferiority(margin_differences(arm[i], base[i], THREE)).p for arm, base in tasks]) for i in range(RUNS)
        ]
        assert least < np.mean([p is not None and p <= 0.05 for p in p_values]) < 0.05 + SLACK


def test_non_inferiority_error_rate_at_the_margin_above_chance() -> None:
    arms, bases = seeds(np.random.default_rng(9), shift=-0.03 * (0.9 - 0.5))
    p_values = [non_inferiority(margin_differences(a, b, THREE, chance=0.5)).p for a, b in zip(arms, bases, strict=True)]
    assert abs(np.mean([p is not None and p <= 0.05 for p in p_values]) - 0.05) < SLACK


def test_confidence_and_folds_are_those_asked_for() -> None:
    arm, base = np.random.default_rng(10).normal(0.8, 0.02, (2, 6))
    assert paired_difference(arm, base).interval == t_interval(arm - base, 0.95)
    found = paired_difference(arm, base, confidence=0.8, folds=3)
    assert found.interval == t_interval(arm - base, 0.8, 3) and found.p_sign_flip is None, "folds are not exchangeable"
    t = found.interval.mean / (np.std(arm - base, ddof=1) * np.sqrt(1 / 6 + 1 / 2))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 5))
    assert paired_difference(arm, base, folds=2).p_sign_flip is None
    assert paired_difference(arm, base).p_sign_flip == sign_flip_p(arm - base)


def test_a_generator_reaches_the_sign_flips() -> None:
    arm, base = np.random.default_rng(11).normal(0.8, 0.02, (2, 20))
    assert paired_difference(arm, base).p_sign_flip is None
    found = paired_difference(arm, base, generator=np.random.default_rng(3)).p_sign_flip
    assert found == sign_flip_p(arm - base, np.random.default_rng(3))


def test_all_patterns_of_sixteen_pairs_are_enumerated_and_not_of_seventeen() -> None:
    clear = 1 + np.arange(16) / 100
    assert sign_flip_p(clear) == smallest_sign_flip_p(16) == 2.0**-15
    assert sign_flip_p([*clear, 1.0]) is None
    drawn = sign_flip_p(np.ones(40), np.random.default_rng(0))
    assert drawn == 1 / 10_000, "none of 9,999 patterns is as extreme"
    assert sign_flip_p([0.3]) is None and sign_flip_p([0.3, 0.4]) == 0.5


@pytest.mark.parametrize("pairs", [9, 20])
def test_ties_count_as_ties_whatever_the_unit(pairs: int) -> None:
    values = np.random.default_rng(12).integers(-3, 6, pairs)
    whole, tenths = (sign_flip_p(values * unit, np.random.default_rng(1)) for unit in (1.0, 0.1))
    assert whole == tenths and whole is not None and whole < 1
    assert sign_flip_p([0.1, 0.2, -0.3], np.random.default_rng(0)) == 1.0


def test_three_pairs_have_a_correlation_and_two_have_none() -> None:
    first, second = np.array([0.1, 0.4, 0.2]), np.array([0.3, 0.5, 0.45])
    assert correlation(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert correlation(first[:2], second[:2]) is None
    assert correlation(np.full(3, 0.1), second) is None and correlation(second, np.full(3, 0.1)) is None


def test_one_pair_tests_nothing_and_two_do() -> None:
    one, two = (paired_difference([0.5, 0.7][:n], [0.4, 0.3][:n]) for n in (1, 2))
    assert (one.p, one.p_sign_flip, one.interval.n) == (None, None, 1)
    assert two.p == pytest.approx(stats.ttest_rel([0.5, 0.7], [0.4, 0.3]).pvalue)
    margin = non_inferiority(np.array([0.3]))
    assert (margin.bound, margin.p, margin.p_opposite, margin.interval.n) == (None, None, None, 1)
    assert non_inferiority(np.array([0.3, 0.5])).p == pytest.approx(
        stats.ttest_1samp([0.3, 0.5], 0, alternative="greater").pvalue
    )
    assert equivalence_p([0.5], [0.5], THREE) is None
    assert equivalence_p([0.51, 0.5], [0.5, 0.52], THREE) is not None
    assert equivalence_p([0.5, 0.5], [0.5, 0.5], THREE) is None, "nothing varies"


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_bound_is_one_sided_at_the_declared_confidence(confidence: float) -> None:
    d = np.array([0.01, 0.02, 0.015, 0.03, 0.005])
    found = non_inferiority(d, confidence=confidence)
    judge = stats.ttest_1samp(d, 0, alternative="greater")
    assert found.bound == pytest.approx(judge.confidence_interval(confidence).low)
    assert found.interval == t_interval(d, confidence)
    folded = non_inferiority(d, confidence=confidence, folds=5)
    t = d.mean() / (d.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4))
    assert folded.p == pytest.approx(stats.t.sf(t, 4)) and folded.interval == t_interval(d, confidence, 5)
    assert folded.bound == pytest.approx(t_interval(d, 2 * confidence - 1, 5).low)


@pytest.mark.parametrize("margin", [THREE, Margin(absolute=0.02)], ids=["relative", "absolute"])
def test_equivalence_is_the_larger_of_two_one_sided_tests(margin: Margin) -> None:
    arm, base = 0.5 + np.random.default_rng(13).normal(0, 0.01, (2, 7))
    m, size = margin.relative or 0.0, margin.absolute
    low = arm - base + size if size else arm - (1 - m) * base
    high = base - arm + size if size else (1 + m) * base - arm
    for folds in (1, 4):
        error = np.sqrt(1 / 7 + (1 / (folds - 1) if folds > 1 else 0))
        p = [stats.t.sf(d.mean() / (d.std(ddof=1) * error), 6) for d in (low, high)]
        assert equivalence_p(arm, base, margin, folds=folds) == pytest.approx(max(p))
    assert equivalence_p(arm, base, margin) == equivalence_p(arm, base, margin, folds=1)
    assert list(margin_differences(arm, base, margin)) == list(margin_differences(arm, base, margin, higher_is_better=True))


def test_a_union_needs_every_test() -> None:
    assert union([0.01, math.nan]) is None and union([math.inf]) is None
    assert union([0.3]) == 0.3 and union([None]) is None


def test_holm_stops_at_one_and_never_falls() -> None:
    assert holm([0.6, 0.02, 0.03, 0.021]) == pytest.approx([0.6, 0.08, 0.08, 0.08])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == [] and holm([None]) == [None]
