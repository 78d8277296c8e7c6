"""Friedman, Iman-Davenport and Nemenyi against scipy, published tables and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import friedmanchisquare

from peftlab.analysis.ranking import FEWEST_ARMS, MOST_ARMS, Ranked, critical_difference, rank_blocks, too_few


@pytest.mark.filterwarnings("ignore:invalid value")  # scipy's, where all ties
@given(st.lists(st.lists(st.integers(0, 6), min_size=4, max_size=4), min_size=3, max_size=9))
def test_statistic_is_scipys_with_ties(rows: list[list[int]]) -> None:
    table = np.array(rows, dtype=float)
    theirs = friedmanchisquare(*table.T).statistic
    ours = rank_blocks(table, higher_is_better=True).chi2
    assert (np.isnan(theirs) and ours == 0) or ours == pytest.approx(theirs)


@pytest.mark.parametrize(("arms", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (7, 2.949), (10, 3.164)])
def test_critical_difference_is_that_of_demsars_table_5(arms: int, quantile: float) -> None:
    blocks = 14
    assert critical_difference(arms, blocks) == pytest.approx(quantile * np.sqrt(arms * (arms + 1) / (6 * blocks)), abs=1e-3)


def test_false_alarms_under_the_null() -> None:
    """4,000 simulated studies of 5 blocks and 6 equal arms: 5 % +- 3 standard errors (0.35 points each) of the F test."""
    generator = np.random.default_rng(7)
    found = [rank_blocks(generator.normal(size=(5, 6)), higher_is_better=True) for _ in range(4000)]
    assert 0.035 < np.mean([f.p <= 0.05 for f in found]) < 0.062
    assert np.mean([np.ptp(f.mean_ranks) > f.critical_difference for f in found]) < 0.06


def test_the_same_order_in_every_block() -> None:
    table = np.arange(5.0) + np.arange(4.0)[:, None]
    up, down = rank_blocks(table, higher_is_better=True), rank_blocks(table, higher_is_better=False)
    assert list(up.mean_ranks) == [5, 4, 3, 2, 1] and list(down.mean_ranks) == [1, 2, 3, 4, 5]
    assert up.p == 0.0 and up.chi2 == pytest.approx(16)
    assert down.groups == [[0, 1, 2, 3], [1, 2, 3, 4]]  # CD 3.05: ranks 1 and 5 are told apart
    assert rank_blocks(np.ones((4, 5)), higher_is_better=True).p == 1.0


@pytest.mark.parametrize(
    ("arms", "blocks", "words"),
    [(2, 9, "three arms"), (50, 9, "50 arms"), (5, 1, "no two seeds"), (5, 2, "no two of 5 arms"), (7, 5, ""), (3, 3, "")],
)
def test_what_cannot_tell_anything_apart_is_refused(arms: int, blocks: int, words: str) -> None:
    reason = too_few(arms, blocks, what="seeds")
    assert (words in reason) if words else reason == ""


def test_three_to_forty_arms_over_two_blocks_or_more_are_ranked() -> None:
    assert (FEWEST_ARMS, MOST_ARMS) == (3, 40)
    assert too_few(40, 100) == "" and too_few(41, 100).startswith("no diagram of 41 arms can be read; the most is 40")
    assert too_few(3, 100) == "" and too_few(2, 100) == "there are no three arms to rank, but 2"
    assert too_few(3, 1) == "there are no two blocks in which every arm has a value"
    assert "with 2 blocks no two of 3 arms" in too_few(3, 2) and "cannot by more than 2" in too_few(3, 2)


def test_the_level_decides_whether_arms_can_be_told_apart() -> None:
    lenient, strict = critical_difference(4, 3, 0.2), critical_difference(4, 3, 0.05)
    assert lenient < 3 - 0.3 and lenient < strict
    blocks = next(n for n in range(2, 20) if critical_difference(4, n, 0.2) < 3)
    assert too_few(4, blocks, 0.2) == "" and too_few(4, blocks, 0.01) != ""
    assert too_few(4, blocks) == too_few(4, blocks, 0.05) and critical_difference(4, 3) == strict
    table = np.random.default_rng(0).normal(size=(6, 4))
    assert rank_blocks(table, higher_is_better=True).critical_difference == critical_difference(4, 6, 0.05)
    assert rank_blocks(table, higher_is_better=True, alpha=0.2).critical_difference == critical_difference(4, 6, 0.2)


@pytest.mark.parametrize(("blocks", "arms"), [(2, 3), (5, 4), (9, 6)])
def test_p_is_that_of_iman_and_davenports_f(blocks: int, arms: int) -> None:
    table = np.random.default_rng(blocks).normal(size=(blocks, arms)).round(1)
    found, chi2 = rank_blocks(table, higher_is_better=True), friedmanchisquare(*table.T).statistic
    f = (blocks - 1) * chi2 / (blocks * (arms - 1) - chi2)
    assert found.p == pytest.approx(stats.f.sf(f, arms - 1, (arms - 1) * (blocks - 1)))
    assert found.mean_ranks == pytest.approx(stats.rankdata(-table, axis=1).mean(axis=0))
    assert found.mean_ranks + rank_blocks(table, higher_is_better=False).mean_ranks == pytest.approx(np.full(arms, arms + 1))


@pytest.mark.parametrize(
    ("ranks", "width", "groups"),
    [
        ([1.0, 2.0, 3.0], 0.5, []),
        ([1.0, 2.0, 3.0], 1.0, [[0, 1], [1, 2]]),
        ([3.0, 1.0, 2.0], 1.0, [[1, 2], [2, 0]]),
        ([1.0, 1.0, 3.0], 0.5, [[0, 1]]),
        ([1.0, 3.0, 3.2], 0.5, [[1, 2]]),
        ([1.0, 2.0, 2.5, 5.0], 1.5, [[0, 1, 2]]),
        ([1.0, 2.0, 3.0, 4.0], 9.0, [[0, 1, 2, 3]]),
    ],
)
def test_groups_are_the_largest_sets_without_a_difference(ranks: list[float], width: float, groups: list[list[int]]) -> None:
    assert Ranked(np.array(ranks), 0.0, 1.0, width).groups == groups
