"""Every two arms: against scipy, against the declared comparison's own code, and by error rate under the null."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from peftlab.analysis import anytime
from peftlab.analysis.comparison import paired_difference
from peftlab.analysis.pairwise import _verdict, pair_count, pairwise
from peftlab.analysis.setting import Setting


def setting(values: np.ndarray, *, higher: bool = True, folds: int = 1, task: str = "t") -> Setting:
    """Arms a0, a1, ... with values [seeds, arms]."""
    index = pd.MultiIndex.from_tuples([(i // folds, i % folds) for i in range(len(values))], names=["seed", "fold"])
    table = pd.DataFrame(values, index=index, columns=pd.Index([f"a{i}" for i in range(values.shape[1])]))
    return Setting(task=task, backbone="b", values=table, runs=pd.DataFrame(), chance=None, higher_is_better=higher, folds=folds)


def test_as_scipy_says() -> None:
    values = np.random.default_rng(0).normal(size=(6, 5))
    (found,) = pairwise([setting(values)], None, 0.95)
    pairs = list(itertools.combinations(range(5), 2))
    assert list(zip(found.first, found.second, strict=True)) == pairs
    for k, (i, j) in enumerate(pairs):
        judge = stats.ttest_rel(values[:, i], values[:, j])
        interval = judge.confidence_interval()
        assert found.p[k] == pytest.approx(judge.pvalue, rel=1e-9)
        assert (found.low[k], found.high[k]) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert found.correlation[k] == pytest.approx(stats.pearsonr(values[:, i], values[:, j]).statistic)
    assert found.p_adjusted == pytest.approx(multipletests(found.p, method="holm")[1])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(2, 5), st.sampled_from([1, 3]), st.floats(0, 0.6), st.booleans())
def test_as_the_declared_comparison_computes_it(
    seed: int, units: int, arms: int, folds: int, lost: float, constant: bool
) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(units * folds, arms)).round(2)
    if constant:
        values[:, 0] = 0.5
    values[random.random(values.shape) < lost] = np.nan
    (found,) = pairwise([setting(values, folds=folds)], None, 0.9)
    for k, (i, j) in enumerate(zip(found.first, found.second, strict=True)):
        one = paired_difference(values[:, i], values[:, j], confidence=0.9, folds=folds)
        assert found.n[k] == one.interval.n
        assert found.estimate[k] == (pytest.approx(one.interval.mean) if one.interval.n else None)
        assert (found.low[k], found.high[k]) == (pytest.approx(one.interval.low), pytest.approx(one.interval.high))
        assert (found.p[k] is None) == (one.p is None)
        if one.p is not None:
            assert found.p[k] == pytest.approx(one.p, abs=1e-12)
        assert found.correlation[k] == (None if one.correlation is None else pytest.approx(one.correlation, abs=1e-9))


def test_pairs_with_the_baseline_are_not_exploratory_and_all_settings_are_one_family() -> None:
    random = np.random.default_rng(3)
    two = [setting(random.normal(size=(5, 4)), task="one"), setting(random.normal(size=(5, 4)), task="two")]
    found = pairwise(two, "a0", 0.95)
    assert [f.task for f in found] == ["one", "two"] and pair_count(two, "a0") == 6
    assert all(0 not in (*f.first, *f.second) for f in found)
    p = [value for f in found for value in f.p]
    assert [value for f in found for value in f.p_adjusted] == pytest.approx(multipletests(p, method="holm")[1])


def test_verdicts_follow_the_direction_of_the_metric() -> None:
    noise = 0.01 * np.random.default_rng(1).normal(size=(8, 1))
    values = np.hstack([np.full((8, 1), 0.9) + noise, np.full((8, 1), 0.5)])
    assert pairwise([setting(values)], None, 0.95)[0].verdict == ["better"]
    assert pairwise([setting(values, higher=False)], None, 0.95)[0].verdict == ["worse"]


@pytest.mark.parametrize("unit", [1e-15, 1e-9, 1e9])
def test_the_unit_of_the_metric_does_not_matter(unit: float) -> None:
    values = np.random.default_rng(4).normal(size=(6, 4))
    (found,), (scaled,) = pairwise([setting(values)], None, 0.95), pairwise([setting(unit * values)], None, 0.95)
    assert scaled.p == pytest.approx(found.p) and scaled.verdict == found.verdict


def test_what_cannot_be_tested_says_so() -> None:
    same = np.array([[0.5, 0.4], [0.5, 0.4], [0.5, 0.4]])
    for values in (same, same[:1], np.array([[0.5, np.nan], [np.nan, 0.4]])):
        (found,) = pairwise([setting(values)], None, 0.95)
        assert found.verdict == ["cannot be tested"] and found.p_adjusted == [None]
    assert pairwise([setting(same[:, :1])], None, 0.95) == []
    assert pairwise([setting(same)], "a1", 0.95) == []


def test_twenty_thousand_pairs_are_compared_and_not_one_more() -> None:
    """Settings of 200, 14, 4 and 3 arms have 20,000 pairs; one of two arms makes it one too many."""
    random = np.random.default_rng(0)
    full = [setting(random.normal(size=(3, arms))) for arms in (200, 14, 4, 3)]
    assert pair_count(full, None) == 20_000
    assert sum(len(found.first) for found in pairwise(full, None, 0.95)) == 20_000
    assert pairwise([*full, setting(random.normal(size=(3, 2)))], None, 0.95) == []


def test_family_wise_error_under_the_null_stays_below_five_percent() -> None:
    runs, random = 1500, np.random.default_rng(12)
    wrong = 0
    for _ in range(runs):
        values = random.normal(size=(5, 1)) + random.normal(size=(5, 6))
        (found,) = pairwise([setting(values)], None, 0.95)
        wrong += any(v in ("better", "worse") for v in found.verdict)
    assert wrong / runs <= 0.05 + 4 * (0.05 * 0.95 / runs) ** 0.5


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("level", [0.1, 0.7, 1.0])
def test_an_arm_that_does_not_vary_has_no_correlation(place: int, level: float) -> None:
    """Though the mean of three times 0.1 is not 0.1, and a range of 1 is a range."""
    values = np.array([[0.0, 0.2], [1.0, 0.4], [0.5, 0.3]])
    (found,) = pairwise([setting(values)], None, 0.95)
    assert found.correlation[0] == pytest.approx(np.corrcoef(values.T)[0, 1])
    values[:, place] = level
    assert pairwise([setting(values)], None, 0.95)[0].correlation == [None]
    assert pairwise([setting(values[:, ::-1])], None, 0.95)[0].correlation == [None]


def test_without_a_seed_nothing_is_known() -> None:
    (found,) = pairwise([setting(np.zeros((0, 3)))], None, 0.95)
    assert found.n == [0] * 3 and found.estimate == [None] * 3 and found.correlation == [None] * 3
    assert found.verdict == ["cannot be tested"] * 3


def test_three_pairs_have_a_correlation_and_two_an_interval() -> None:
    values = np.array([[0.1, 0.4], [0.3, 0.5], [0.2, 0.7]])
    (three,), (two,), (one,) = (pairwise([setting(values[:n])], None, 0.95) for n in (3, 2, 1))
    assert three.correlation[0] == pytest.approx(np.corrcoef(values.T)[0, 1])
    assert two.correlation == [None] and two.low[0] is not None and two.p[0] is not None
    assert (one.low, one.p, one.estimate) == ([None], [None], [pytest.approx(-0.3)])


def test_the_level_of_a_verdict_is_that_of_the_study() -> None:
    values = np.array([[0.10, 0.0], [0.30, 0.0], [0.20, 0.1], [0.15, 0.02], [0.08, 0.01]])
    p = stats.ttest_rel(*values.T).pvalue
    assert 0.01 < p < 0.2
    found = [pairwise([setting(values)], None, confidence)[0].verdict for confidence in (0.99, 0.8)]
    assert found == [["no difference shown"], ["better"]]


@pytest.mark.parametrize("higher", [True, False])
def test_a_verdict_says_better_at_the_level_itself_and_not_beyond(higher: bool) -> None:
    ends = ("better", "worse") if higher else ("worse", "better")
    assert (_verdict(0.1, 0.05, 0.05, higher), _verdict(-0.1, 0.05, 0.05, higher)) == ends
    assert _verdict(0.1, 0.0501, 0.05, higher) == "no difference shown"
    assert _verdict(None, 0.01, 0.05, higher) == "cannot be tested" == _verdict(0.1, None, 0.05, higher)


def test_arms_of_a_race_are_compared_by_tests_that_hold_at_any_time() -> None:
    values = np.random.default_rng(7).normal(0.5, 0.05, (7, 4))
    values[5:, 2], values[:, 3] = np.nan, np.nan
    raced = setting(values)
    raced = dataclasses.replace(raced, sequence=raced.values[::-1], resolution=0.02)
    (found,) = pairwise([raced], "a1", 0.9)
    pairs = list(zip(found.first, found.second, strict=True))
    assert pairs == [(0, 2), (0, 3), (2, 3)]
    for k, (i, j) in enumerate(pairs):
        one = anytime.difference(values[::-1, i], values[::-1, j], confidence=0.9, resolution=0.02)
        assert (found.n[k], found.low[k], found.high[k], found.p[k]) == (
            one.interval.n,
            one.interval.low,
            one.interval.high,
            one.p,
        )
        assert found.estimate[k] == (one.interval.mean if one.interval.n else None)
        assert found.correlation[k] == one.correlation
    assert found.n == [5, 0, 0] and found.verdict[1:] == ["cannot be tested"] * 2
