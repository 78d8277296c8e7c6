"""Arms over several tasks: by hand, against scipy, and by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from peftlab.analysis.comparison import sign_flip_p
from peftlab.analysis.over_tasks import (
    FEWEST_SAMPLED,
    FEWEST_TASKS,
    improvement,
    interquartile_mean,
    signed_rank_p,
    stratified_bootstrap,
    stratified_sign_flip,
)

GENERATOR = np.random.default_rng(0)


def test_sign_flip_by_enumeration() -> None:
    table = np.array([[0.3, 0.2], [0.1, 0.4], [-0.05, -0.3], [0.2, -0.1]])  # [seeds, tasks]
    means = [abs(float((np.array(signs)[:, None] * table).mean())) for signs in itertools.product([1, -1], repeat=4)]
    expected = np.mean(np.array(means) >= means[0] - 1e-12)
    assert stratified_sign_flip(table, GENERATOR) == pytest.approx(expected)
    one = np.array([0.3, 0.2, -0.1, 0.4])
    assert stratified_sign_flip(one[:, None], GENERATOR) == pytest.approx(sign_flip_p(one))
    lacking = np.vstack([table, [0.5, np.nan]])
    assert stratified_sign_flip(lacking, GENERATOR) == pytest.approx(expected)
    assert stratified_sign_flip(np.ones((5, 4)), GENERATOR) == 2 / 2**5  # twenty pairs, five draws
    assert stratified_sign_flip(np.ones((1, 4)), GENERATOR) is None


@pytest.mark.parametrize(("seeds", "share"), [(8, 0.0), (8, 0.9), (12, 0.9), (18, 0.5)])
def test_sign_flip_keeps_its_level(seeds: int, share: float) -> None:
    """However much a seed's differences on four tasks have in common (``share`` of their variance); tasks of unlike spread.

    Enumerated, and drawn at random (18). Flipping every pair by itself rejects in far more than 5 % of the studies.
    """
    generator, trials = np.random.default_rng(2), 1500 if seeds <= 16 else 300
    scale = np.array([1.0, 0.9, 1.2, 0.3])
    found = []
    for _ in range(trials):
        common, own = generator.normal(size=(seeds, 1)), generator.normal(size=(seeds, 4))
        found.append(stratified_sign_flip(scale * (np.sqrt(share) * common + np.sqrt(1 - share) * own), generator))
    rate = np.mean([p is not None and p <= 0.05 for p in found])
    assert rate == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / trials))


def test_interquartile_mean_by_hand() -> None:
    tasks = [np.array([1.0, 100.0, 3.0, 2.0]), np.array([4.0, -50.0, 5.0, 6.0])]
    assert float(interquartile_mean(tasks)) == pytest.approx(3.5)
    runs = np.random.default_rng(1).normal(size=11)
    assert float(interquartile_mean([runs[:4], runs[4:]])) == pytest.approx(stats.trim_mean(runs, 0.25))


def test_interquartile_mean_interval_with_enough_runs() -> None:
    generator, trials, hits = np.random.default_rng(4), 200, 0
    for _ in range(trials):
        runs = [generator.normal(0, 1, 30) for _ in range(2)]
        low, high = stratified_bootstrap(interquartile_mean, [runs], generator, draws=200)
        hits += low <= 0 <= high
    assert hits / trials > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials) - 0.02


def test_probability_of_improvement_is_mann_whitneys() -> None:
    generator = np.random.default_rng(9)
    first, second = generator.normal(0.5, 1, 7), generator.normal(0, 1, 9)
    u = stats.mannwhitneyu(first, second).statistic
    assert improvement([first], [second]) == pytest.approx(u / (7 * 9))
    assert improvement([first], [second], higher_is_better=False) == pytest.approx(1 - u / (7 * 9))
    assert improvement([first, first], [second, first]) == pytest.approx((u / 63 + 0.5) / 2)  # equal arms tie


def test_probability_of_improvement_interval_with_enough_runs() -> None:
    generator, trials, hits = np.random.default_rng(6), 150, 0
    truth = stats.norm.cdf(0.5 / np.sqrt(2))
    for _ in range(trials):
        first, second = [generator.normal(0.5, 1, 30)], [generator.normal(0, 1, 30)]
        low, high = stratified_bootstrap(improvement, [first, second], generator, draws=150)
        hits += low <= truth <= high
    assert hits / trials > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials) - 0.02


def test_signed_ranks_need_six_tasks() -> None:
    assert signed_rank_p([0.1] * 5) is None
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)


@pytest.mark.parametrize(("tasks", "exact"), [(6, 2 / 2**6), (8, 10 / 2**8), (12, 190 / 2**12)])
def test_signed_ranks_keep_their_level(tasks: int, exact: float) -> None:
    """2,000 studies of symmetric differences, long tails, unlike spreads: ranks come in steps, so the level is below 5 %."""
    generator, trials = np.random.default_rng(10), 2000
    scale = np.linspace(0.2, 3, tasks)
    found = [signed_rank_p((scale * generator.standard_t(3, tasks)).tolist()) for _ in range(trials)]
    rate = np.mean([p is not None and p <= 0.05 for p in found])
    assert rate == pytest.approx(exact, abs=3 * np.sqrt(exact * (1 - exact) / trials))


@pytest.mark.parametrize(("tasks", "patterns"), [(6, 2), (8, 10)])
def test_signed_ranks_over_all_signs(tasks: int, patterns: int) -> None:
    """Of all 2^n patterns of signs, W <= 0 and W <= 3 at either end are within 5 %; a normal approximation takes 14 of 256."""
    sizes = np.random.default_rng(11).random(tasks)
    found = [signed_rank_p((np.array(signs) * sizes).tolist()) for signs in itertools.product([1.0, -1.0], repeat=tasks)]
    assert sum(p is not None and p <= 0.05 for p in found) == patterns


def test_the_bootstrap_draws_runs_within_a_task() -> None:
    """Of runs 0 and 1 a drawn mean is 0, 1/2 or 1 in a quarter, a half and a quarter of 2,000 draws."""
    seen = []

    def mean(tasks) -> np.ndarray:
        (runs,) = tasks
        seen.append(runs.shape)
        return runs.mean(-1)

    runs = [np.array([0.0, np.nan, 1.0])]
    for confidence, expected in ((0.4, (0.5, 0.5)), (0.6, (0.0, 1.0))):
        assert stratified_bootstrap(mean, [runs], np.random.default_rng(0), confidence=confidence) == expected
    assert seen == [(2000, 2)] * 2
    many = [np.random.default_rng(1).normal(size=20)]

    def found(**options: float) -> tuple[float, float]:
        return stratified_bootstrap(mean, [many], np.random.default_rng(0), **options)  # pyright: ignore

    assert found() == found(confidence=0.95) != found(confidence=0.9)
    assert found(draws=300) != found() and seen[-2] == (300, 20)


@pytest.mark.parametrize("runs", range(1, 13))
def test_a_quarter_of_the_runs_rounded_down_is_cut_at_either_end(runs: int) -> None:
    values = np.arange(float(runs)) ** 2
    cut = int(runs / 4)
    assert float(interquartile_mean([values[:1], values[1:]])) == pytest.approx(values[cut : runs - cut].mean())


def test_more_is_better_unless_it_is_said_and_ties_count_half() -> None:
    assert float(improvement([np.array([3.0, 3.0])], [np.array([1.0, 3.0])])) == 0.75
    assert float(improvement([np.array([3.0, 3.0])], [np.array([1.0, 3.0])], higher_is_better=False)) == 0.25


def test_of_differences_that_are_all_zero_there_is_no_signed_rank() -> None:
    assert signed_rank_p([0.0] * 6) is None and signed_rank_p([0.0] * 5 + [0.1]) is not None
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5, float("nan")]) is None


def test_three_tasks_can_stand_for_others_and_six_are_ranked() -> None:
    assert (FEWEST_SAMPLED, FEWEST_TASKS) == (3, 6)
