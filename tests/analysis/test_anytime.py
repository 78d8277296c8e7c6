"""Anytime-valid tests: the closed forms against quadrature over the likelihoods, error rates and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import integrate, stats

from peftlab.analysis import comparison
from peftlab.analysis.anytime import (
    SCALE,
    confidence_sequence,
    difference,
    earliest,
    equivalence_p,
    half_width,
    log_e,
    log_e_two_sided,
    margin_test,
    p_above,
    p_process,
)
from peftlab.study.schema import Margin

RUNS, SEEDS = 20_000, 15


def tolerance(rate: float) -> float:
    """Three standard errors of a simulated rate."""
    return 3 * math.sqrt(rate * (1 - rate) / RUNS)


def ratios(d: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Likelihood of d under a mean of delta standard deviations over that under 0, both averaged over sigma by 1 / sigma."""
    log_sigma = math.log(float(np.sqrt(np.mean(d**2)))) + np.linspace(-6, 12, 6001)
    sigma = np.exp(log_sigma)[:, None]

    def averaged(effect: float) -> float:
        return float(integrate.simpson(np.exp(stats.norm.logpdf(d, effect * sigma, sigma).sum(axis=1)), x=log_sigma))

    return np.array([averaged(effect) for effect in deltas]) / averaged(0.0)


@pytest.mark.parametrize("values", [[0.3, 0.5], [1.0, -0.4, 0.7], [2.0, 2.2, 1.8, 2.1], [-1.0, -0.8, 0.1, -0.5, -1.2]])
def test_closed_forms_are_mixtures_of_the_likelihood_ratio(values: list[float]) -> None:
    d, scale = np.asarray(values), 1.5
    grid = np.linspace(-12, 12, 241)
    weighed = ratios(d, grid) * stats.norm.pdf(grid, 0, scale)
    both, above = integrate.simpson(weighed, x=grid), 2 * integrate.simpson(weighed[120:], x=grid[120:])
    assert math.exp(log_e_two_sided(d, scale=scale)[-1]) == pytest.approx(both, rel=2e-3)
    assert math.exp(log_e(d, scale=scale)[-1]) == pytest.approx(above, rel=2e-3)


@given(some.lists(some.floats(-5, 5), min_size=2, max_size=12), some.floats(0.01, 100.0), some.integers(0, 11))
def test_unit_and_missing_pairs_do_not_matter(values: list[float], unit: float, gap: int) -> None:
    d = np.round(np.asarray(values), 3)
    with_gap = np.insert(d, min(gap, len(d)), np.nan)
    assert log_e(d * unit)[-1] == pytest.approx(log_e(d)[-1], abs=1e-6)
    assert log_e(with_gap)[-1] == pytest.approx(log_e(d)[-1], abs=1e-9)


@given(some.lists(some.floats(-3, 3), min_size=3, max_size=10), some.floats(0.001, 3))
def test_lower_differences_are_never_more_evidence(values: list[float], less: float) -> None:
    d = np.round(np.asarray(values), 2) + np.linspace(0, 0.01, len(values))  # no two alike
    assert np.all(log_e(d - less)[1:] <= log_e(d)[1:] + 1e-9)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 56])
@pytest.mark.parametrize("mean", [0.0, -0.5])
def test_error_rate_over_all_looks(mean: float, alpha: float) -> None:
    draws = np.random.default_rng(1).standard_normal((RUNS, 100)) + mean
    assert (p_process(draws)[:, -1] <= alpha).mean() <= alpha + tolerance(alpha)


def test_looking_with_the_ordinary_test_is_what_this_is_for() -> None:
    draws = np.random.default_rng(2).standard_normal((2000, SEEDS))
    naive = np.array([stats.ttest_1samp(draws[:, :n], 0, axis=1, alternative="greater").pvalue for n in range(2, SEEDS + 1)])
    assert (naive.min(axis=0) <= 0.05).mean() > 0.13
    assert (p_process(draws)[:, -1] <= 0.05).mean() <= 0.05


@pytest.mark.parametrize("sd", [0.3, 0.5, 1.0, 2.0])
def test_error_rate_of_values_on_a_grid(sd: float) -> None:
    """Accuracies move in steps of one example: a few equal differences are no proof that nothing varies."""
    steps = np.round(np.random.default_rng(3).standard_normal((RUNS, SEEDS)) * sd)
    for alpha in (0.05, 0.05 / 56):
        assert (p_process(steps, resolution=0.5)[:, -1] <= alpha).mean() <= alpha


POWER = {1: (0, 2, 16), 1.5: (1, 9, 63), 2: (1, 25, 94), 3: (6, 72, 100), 5: (26, 100, 100), 10: (91, 100, 100)}


def test_power_at_five_to_fifteen_seeds() -> None:
    """The table of docs/racing.md, in percent: a race of 8 arms, by seeds 5, 8 and 15."""
    generator = np.random.default_rng(4)
    for effect, percents in POWER.items():
        p = p_process(generator.standard_normal((RUNS, SEEDS)) + effect)
        assert [100 * (p[:, n - 1] <= 0.05 / 56).mean() for n in (5, 8, 15)] == pytest.approx(percents, abs=1.6)


def test_the_scale_is_within_a_seed_of_the_best() -> None:
    generator = np.random.default_rng(8)
    for effect in (1.5, 2.0, 3.0, 5.0, 10.0):
        draws = generator.standard_normal((4000, SEEDS)) + effect
        mean = {}
        for scale in (1.0, 2.0, SCALE, 5.0, 10.0):
            found = p_process(draws, scale=scale) <= 0.05 / 56
            mean[scale] = np.where(found.any(axis=1), found.argmax(axis=1) + 1, SEEDS).mean()
        assert mean[SCALE] <= min(mean.values()) + 1


def test_error_rates_of_differences_that_are_not_normal() -> None:
    """The percentages of docs/racing.md at the 5 % level: what the assumption is worth."""
    generator, shape = np.random.default_rng(9), (RUNS, SEEDS)
    rates = {
        2.4: generator.standard_normal(shape),
        1.6: generator.standard_t(3, shape),
        4.1: generator.uniform(-1, 1, shape),
        16: 1 - generator.exponential(size=shape),
    }
    for percent, draws in rates.items():
        assert 100 * (p_process(draws)[:, -1] <= 0.05).mean() == pytest.approx(percent, abs=0.9)


def test_bets_on_bounded_differences_could_never_end_a_race() -> None:
    """Why no betting test: of capital that a bet on a difference in [-1, 1] at most multiplies by 1 + d, 15 differences of
    5 percentage points make 2.1, far from the 1,120 that a race of 8 arms asks for."""
    assert 1.05**SEEDS < 2.1 < 56 / 0.05


def test_earliest_is_the_first_seed_at_which_clear_data_suffice() -> None:
    for p in (0.05, 0.05 / 14, 0.05 / 56):
        n = earliest(p)
        clear = 1.0 + 1e-9 * np.arange(n)
        process = p_process(clear)
        assert process[n - 1] <= p < process[n - 2]
    assert [earliest(0.05 / family) for family in (2, 14, 56)] == [3, 4, 5]


def test_equal_differences_tell_nothing_of_their_variation_unless_the_grid_is_known() -> None:
    equal = np.full(6, 0.25)
    assert p_above(equal) is None and np.all(p_process(equal)[1:] == 1 / math.exp(max(0.0, log_e(equal)[0])))
    assert p_above(np.zeros(6)) is None and p_process(np.zeros(6), resolution=0.01)[-1] == 1.0
    known = p_above(equal, resolution=0.01)
    assert known is not None and known < 0.001
    assert p_above([0.3]) is None


def test_one_difference_tells_no_more_than_its_sign() -> None:
    """The mixture over means above 0 for n = 1: 2 F(scale), with Student's F of one degree of freedom."""
    for value in (0.3, 7.0):
        assert log_e([value])[0] == pytest.approx(math.log(2 * stats.t.cdf(SCALE, 1)))
        assert log_e([-value])[0] == pytest.approx(math.log(2 * stats.t.cdf(-SCALE, 1)))


def test_what_varies_by_rounding_alone_does_not_vary() -> None:
    """By a standard error below 1e-12 of the mean, whatever the unit."""
    for unit in (1e-6, 1.0, 1e6):
        assert log_e([unit, unit * (1 + 2.0**-46)])[1] == log_e([unit, unit])[1]
        assert log_e([unit, unit * (1 + 1e-9)])[1] > 1 + log_e([unit, unit])[1]


def test_the_interval_holds_the_means_that_the_test_does_not_reject() -> None:
    d = np.random.default_rng(5).normal(0.4, 1.0, 12)
    found = confidence_sequence(d, 0.95)
    assert found.low is not None and found.high is not None
    for mean, inside in (
        (found.low + 1e-6, True),
        (found.high - 1e-6, True),
        (found.low - 1e-6, False),
        (found.high + 1e-6, False),
    ):
        rejected = bool((log_e_two_sided(d - mean) >= math.log(20)).any())
        assert rejected != inside
    assert confidence_sequence(d[:1]).low is None and half_width(2, 0.95) == math.inf


def test_coverage_at_every_n_at_once() -> None:
    draws = np.random.default_rng(6).standard_normal((RUNS, 40))
    n = np.arange(1, 41)
    mean = np.cumsum(draws, axis=1) / n
    sd = np.sqrt(np.maximum(np.cumsum(draws**2, axis=1) - n * mean**2, 0) / np.maximum(n - 1, 1))
    half = np.array([half_width(int(k), 0.95) for k in n])
    with np.errstate(invalid="ignore"):
        missed = np.abs(mean) > np.where(np.isinf(half), np.inf, sd * half)
    rate = missed.any(axis=1).mean()
    assert 0.01 < rate <= 0.05 + tolerance(0.05)


def test_comparisons_have_the_form_of_those_of_a_fixed_number() -> None:
    generator = np.random.default_rng(7)
    base = generator.normal(0.95, 0.01, 10)
    arm = base - 0.002 + generator.normal(0, 0.002, 10)
    found = difference(arm, base, confidence=0.95)
    assert found.p_sign_flip is None and found.interval.n == 10
    assert (found.p is not None and found.p <= 0.05) == (not found.interval.low <= 0 <= found.interval.high)  # pyright: ignore
    margin = Margin(relative=0.03)
    inside = margin_test(arm - 0.97 * base, confidence=0.95)
    assert inside.p is not None and inside.p < 1e-4 and inside.p_opposite == 1.0
    equal = equivalence_p(arm, base, margin)
    assert equal is not None and equal >= inside.p


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("margin", [Margin(relative=0.1), Margin(absolute=0.08)], ids=["relative", "absolute"])
@pytest.mark.parametrize("ask", [equivalence_p, comparison.equivalence_p], ids=["at every look", "once"])
def test_only_within_both_ends_of_the_margin_are_arms_equivalent(ask, margin: Margin, higher: bool) -> None:
    generator = np.random.default_rng(11)
    base = generator.normal(0.8, 0.01, 12)
    for factor, inside in ((0.6, False), (0.85, False), (0.98, True), (1.0, True), (1.02, True), (1.15, False), (1.4, False)):
        p = ask(factor * base + generator.normal(0, 0.005, 12), base, margin, higher_is_better=higher)
        assert (p < 0.01) == inside and (inside or p > 0.5), factor


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_equivalence_error_rate_over_all_looks(side: float) -> None:
    """1,000 pairs of arms exactly at either margin, looked at after every seed: "equivalent" is wrong at any of the looks.

    The ordinary two one-sided tests, looked at as often, are wrong in far more.
    """
    generator, trials, margin = np.random.default_rng(10), 1000, Margin(absolute=3.0)
    d, zeros = generator.standard_normal((trials, SEEDS)) + side * 3.0, np.zeros(SEEDS)
    best = np.array([min(equivalence_p(row[:n], zeros[:n], margin) or 1.0 for n in range(2, SEEDS + 1)) for row in d[:150]])
    last = np.array([equivalence_p(row, zeros, margin) or 1.0 for row in d])
    assert best == pytest.approx(last[:150])  # nothing that an earlier look showed is taken back
    assert 0.005 < np.mean(last <= 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    towards = np.array([stats.ttest_1samp(d[:, :n], side * 3.0, axis=1).statistic for n in range(2, SEEDS + 1)]) * -side
    naive = (stats.t.sf(towards, np.arange(1, SEEDS)[:, None]) <= 0.05).any(axis=0)
    assert naive.mean() > 0.13
    equal = [equivalence_p(row - side * 3.0, zeros, margin) or 1.0 for row in d[:100]]
    assert np.mean(np.array(equal) <= 0.05) > 0.95
