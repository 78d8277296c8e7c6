"""Tests of the tests: scipy and statsmodels as judges, error rates by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from peftlab.analysis.comparison import (
    equivalence_p,
    holm,
    margin_differences,
    non_inferiority,
    paired_difference,
    sign_flip_p,
    smallest_sign_flip_p,
    union,
)
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
