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
    p_two_sided,
)
from peftlab.analysis.intervals import Interval
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


@pytest.mark.parametrize("margin", [Margin(relative=0.1), Margin(absolute=0.08)], ids=["relative", "absolute"])
@pytest.mark.parametrize("ask", [equivalence_p, comparison.equivalence_p], ids=["at every look", "once"])
def test_only_within_both_ends_of_the_margin_are_arms_equivalent(ask, margin: Margin) -> None:
    generator = np.random.default_rng(11)
    base = generator.normal(0.8, 0.01, 12)
    for factor, inside in ((0.6, False), (0.85, False), (0.98, True), (1.0, True), (1.02, True), (1.15, False), (1.4, False)):
        p = ask(factor * base + generator.normal(0, 0.005, 12), base, margin)
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


def written_down(d: list[float], scale: float, resolution: float) -> tuple[float, float]:
    """log E_n and log M_n as the head of the module has them, of differences without a gap."""
    n, c = len(d), scale**-2
    k, total = n + c, sum(d)
    around = max(sum((x - total / n) ** 2 for x in d), (n - 1) * resolution**2)
    squares = around + total**2 / n
    rest = squares - total**2 / k
    log_m = math.log(math.sqrt(c / k)) + n / 2 * math.log(squares / rest)
    return log_m + math.log(2 * stats.t.cdf(total * math.sqrt(n / k) / math.sqrt(rest), n)), log_m


@pytest.mark.parametrize("resolution", [0.0, 0.05, 2.0])
@pytest.mark.parametrize("scale", [0.7, SCALE])
def test_every_look_has_the_evidence_of_the_closed_form(scale: float, resolution: float) -> None:
    d = np.random.default_rng(12).normal(0.3, 0.8, (3, 9))
    above, both = log_e(d, scale=scale, resolution=resolution), log_e_two_sided(d, scale=scale, resolution=resolution)
    for i in range(3):
        expected = np.array([written_down(d[i, :n].tolist(), scale, resolution) for n in range(1, 10)])
        assert above[i] == pytest.approx(expected[:, 0]) and both[i] == pytest.approx(expected[:, 1])
        p = [math.exp(-max(0.0, *expected[:n, 0], 0.0)) for n in range(1, 10)]
        assert p_process(d[i], scale=scale, resolution=resolution) == pytest.approx(p)
        if scale == SCALE:
            assert p_above(d[i], resolution=resolution) == pytest.approx(p[-1])
            assert p_two_sided(d[i], resolution=resolution) == pytest.approx(math.exp(-max(0.0, expected[:, 1].max())))


def test_before_the_first_pair_and_without_variation_there_is_no_evidence() -> None:
    gap = [math.nan, math.nan, 0.4, 0.5]
    for ask in (log_e, log_e_two_sided):
        assert list(ask(gap)[:2]) == [0.0, 0.0] and ask(gap)[2] == ask([0.4])[0]
        assert list(ask(np.full(6, 0.25))[1:]) == [0.0] * 5
        assert list(ask(np.zeros(4))) == [0.0] * 4
    assert p_two_sided([0.25] * 6) is None and p_two_sided([0.3]) is None and p_two_sided([]) is None
    assert p_two_sided([0.3, 0.5]) is not None and p_above([0.3, 0.5]) is not None
    assert p_above([math.nan, 0.3, math.nan]) is None


def test_evidence_against_is_finite_where_students_tail_underflows() -> None:
    d = np.random.default_rng(13).normal(-600, 1, 400)
    found = log_e(d)
    assert np.isfinite(found).all() and found[-1] < -1000 and p_process(d)[-1] == 1.0


@pytest.mark.parametrize("confidence", [0.6, 0.95])
@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_half_the_width_is_where_the_evidence_is_one_over_alpha(confidence: float, scale: float) -> None:
    d = np.random.default_rng(14).normal(0, 1, 9)
    for n in range(3, 10):
        here, half = d[:n], half_width(n, confidence, scale) * d[:n].std(ddof=1)
        if math.isfinite(half):
            for side in (-1, 1):
                evidence = log_e_two_sided(here - (here.mean() + side * half), scale=scale)[-1]
                assert evidence == pytest.approx(-math.log(1 - confidence))
    assert half_width(1, confidence, scale) == math.inf
    assert half_width(8, 0.95) == half_width(8, 0.95, SCALE) < math.inf


def test_the_sequence_is_what_the_intervals_of_all_looks_share() -> None:
    d = np.random.default_rng(15).normal(0.4, 1.0, 12)
    for options, confidence in (({}, 0.95), ({"confidence": 0.7}, 0.7), ({"resolution": 3.0}, 0.95), ({"scale": 1.0}, 0.95)):
        found = confidence_sequence([*d[:5], math.nan, *d[5:]], **options)
        low, high = -math.inf, math.inf
        for n in range(2, 13):
            spread = max(d[:n].std(ddof=1), options.get("resolution", 0.0))
            half = spread * half_width(n, confidence, options.get("scale", SCALE))
            low, high = max(low, d[:n].mean() - half), min(high, d[:n].mean() + half)
        sd = float(d.std(ddof=1))
        assert found.mean == pytest.approx(d.mean()) and found.n == 12 and found.confidence == confidence
        assert (found.low, found.high) == pytest.approx((low, high))
        assert (found.sd, found.standard_error) == pytest.approx((sd, sd / math.sqrt(12)))


def test_values_that_change_on_the_way_have_the_interval_of_the_last_look() -> None:
    random = np.random.default_rng(16)
    for end in (100.0, -100.0):
        d = np.concatenate([random.normal(0, 1, 10), random.normal(end, 1, 10)])
        found, half = confidence_sequence(d), d.std(ddof=1) * half_width(20, 0.95)
        assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half))


def test_few_values_have_no_interval() -> None:
    assert confidence_sequence([0.3]) == Interval(0.3, None, None, None, None, 1, 0.95)
    none = confidence_sequence([math.nan], 0.9)
    assert math.isnan(none.mean) and (none.n, none.sd, none.low, none.high, none.confidence) == (0, None, None, None, 0.9)
    two = confidence_sequence([0.3, 0.5])
    assert (two.n, two.low, two.high) == (2, None, None) and two.sd == pytest.approx(math.sqrt(0.02))


def test_the_earliest_look_is_one_of_two_to_a_thousand() -> None:
    assert earliest(0.9) == 2
    assert earliest(1e-300, most=5) == 5
    assert earliest(1e-300, scale=0.01) == 1000


def test_half_a_step_of_the_metric_reaches_every_comparison() -> None:
    """Equal differences say nothing unless the step is known."""
    base = np.full(6, 0.5)
    arm, margin = base + 0.25, Margin(absolute=0.5)
    without, known = difference(arm, base, confidence=0.95), difference(arm, base, confidence=0.95, resolution=0.01)
    assert without.p is None and known.p == pytest.approx(p_two_sided(arm - base, resolution=0.01))
    assert (without.interval.low, without.interval.high) == (0.25, 0.25)
    assert known.interval.low == pytest.approx(0.25 - 0.01 * half_width(6, 0.95))
    assert margin_test(arm - base, confidence=0.95).p is None
    test = margin_test(arm - base, confidence=0.8, resolution=0.01)
    assert test.p == p_above(arm - base, resolution=0.01) and test.p_opposite == p_above(base - arm, resolution=0.01)
    assert test.bound == test.interval.low == pytest.approx(0.25 - 0.01 * half_width(6, 0.8))
    assert equivalence_p(arm, base, margin) is None
    assert equivalence_p(arm, base, margin, resolution=0.01) == p_above(np.full(6, 0.25), resolution=0.01)


def test_equivalence_needs_two_pairs() -> None:
    arm, base = np.random.default_rng(17).normal(0.8, 0.01, (2, 5))
    margin = Margin(relative=0.05)
    assert equivalence_p(arm[:1], base[:1], margin) is None and equivalence_p(arm[:2], base[:2], margin) is not None
