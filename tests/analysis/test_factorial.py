"""Factors and their interactions: by hand, against statsmodels, and by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from peftlab.analysis.factorial import contrasts_of, effects

RANKS, SCHEMES = ("2", "4", "8"), ("none", "int4")
ARMS = {(r, q): {"rank": r, "quantizer": q} for r, q in itertools.product(RANKS, SCHEMES)}


def values(
    generator: np.random.Generator, n: int = 5, per_doubling: float = 0.0, cost: float = 0.0, both: float = 0.0
) -> pd.DataFrame:
    shared = generator.normal(0, 1, n)
    columns = {}
    for r, q in ARMS:
        level, coarse = np.log2(float(r)), float(q == "int4")
        columns[r, q] = shared + per_doubling * level - cost * coarse + both * level * coarse + generator.normal(0, 0.3, n)
    found = pd.DataFrame(columns)
    found.columns = pd.Index(list(ARMS), tupleize_cols=False)
    return found


def test_effects_without_noise_are_exact() -> None:
    table = values(np.random.default_rng(0), per_doubling=0.5, cost=2.0, both=0.25)
    levels = {arm: np.log2(float(arm[0])) for arm in ARMS}
    truth = {arm: 0.5 * x - (arm[1] == "int4") * (2.0 - 0.25 * x) for arm, x in levels.items()}
    exact = pd.DataFrame(truth, index=table.index)
    exact.columns = table.columns
    rank, scheme, interaction = effects(ARMS, exact)
    assert rank.contrasts[0].words == "per doubling" and rank.interval.mean == pytest.approx(0.5 + 0.25 / 2)
    assert scheme.contrasts[0].words == "int4 against none" and scheme.interval.mean == pytest.approx(-2.0 + 0.25 * 2)
    assert interaction.interval.mean == pytest.approx(0.25)
    assert (rank.contexts, scheme.contexts, interaction.contexts) == (2, 3, 1)


def test_what_is_asked_for_is_what_is_told() -> None:
    table = values(np.random.default_rng(6))

    def asked(**options) -> list[tuple[str, ...]]:
        return [tuple(c.factor for c in effect.contrasts) for effect in effects(ARMS, table, **options)]

    assert asked() == [("rank",), ("quantizer",), ("rank", "quantizer")]
    assert asked(alone=["quantizer"]) == [("quantizer",), ("rank", "quantizer")]
    assert asked(factors=["quantizer"]) == [("quantizer",)]


def test_the_levels_of_the_reference_are_what_others_are_held_against() -> None:
    table = values(np.random.default_rng(7), cost=1.0)
    words = {arm: effects(ARMS, table, reference=arm)[1].contrasts[0].words for arm in ARMS}
    assert words == {(r, q): f"{'int4' if q == 'none' else 'none'} against {q}" for r, q in ARMS}


def test_two_by_two_is_the_analysis_of_variance() -> None:
    """With two levels each, the paired contrast is the repeated-measures analysis of variance: F = t^2."""
    arms = {key: own for key, own in ARMS.items() if key[0] in ("2", "8")}
    table = values(np.random.default_rng(1), n=6, per_doubling=0.2, cost=0.5, both=0.1).loc[:, list(arms)]
    long = pd.DataFrame(
        [(i, *arm, table[arm].iloc[i]) for arm in arms for i in range(6)], columns=pd.Index(["seed", "rank", "q", "y"])
    )
    expected = AnovaRM(long, "y", "seed", within=["rank", "q"]).fit().anova_table["Pr > F"]
    found = effects(arms, table)
    assert [e.p for e in found] == pytest.approx([expected["rank"], expected["q"], expected["rank:q"]])


def test_levels_and_interactions_keep_their_error_rates() -> None:
    generator, trials = np.random.default_rng(2), 700
    p = np.array([[e.p for e in effects(ARMS, values(generator))] for _ in range(trials)])
    assert p.shape[1] == 3
    assert (np.mean(p <= 0.05, axis=0) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)).all()


def test_intervals_cover_what_is_true() -> None:
    generator, trials = np.random.default_rng(3), 700
    truth, hits = np.array([0.2 + 0.05, -1.0 + 0.1 * 2, 0.1]), np.zeros(3)
    for _ in range(trials):
        found = effects(ARMS, values(generator, per_doubling=0.2, cost=1.0, both=0.1))
        hits += [e.interval.low <= t <= e.interval.high for e, t in zip(found, truth, strict=True)]  # pyright: ignore
    assert (hits / trials > 0.95 - 3 * np.sqrt(0.05 * 0.95 / trials)).all()


def test_half_a_design_has_effects_where_it_is_whole() -> None:
    """Without one cell nothing is said of the interaction, and effects come from the contexts that have all levels."""
    arms = {key: own for key, own in ARMS.items() if key != ("8", "int4")}
    found = effects(arms, values(np.random.default_rng(4)))
    assert [(len(e.contrasts), e.contexts) for e in found] == [(1, 1), (1, 2)]


def test_a_missing_run_costs_its_seed_only() -> None:
    table = values(np.random.default_rng(5))
    table.iloc[0, 0] = np.nan
    assert {e.interval.n for e in effects(ARMS, table)} == {4}


def test_contrasts() -> None:
    (trend,) = contrasts_of("alpha", ["8", "16", "32"])
    assert trend.weights @ np.array([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert [c.words for c in contrasts_of("targets", ["q", "q, v", "all"])] == ["q, v against q", "all against q"]
    assert [c.words for c in contrasts_of("dropout", ["0", "0.1", "0.2"])] == [
        "0.1 against 0",
        "0.2 against 0",
    ]  # 0 has no logarithm


@pytest.mark.parametrize("levels", [["-1", "2", "4"], ["-4", "-2", "-1"], ["0", "1", "2"], ["nan", "1", "2"], ["1", "2", "inf"]])
def test_only_positive_levels_have_a_trend(levels: list[str]) -> None:
    assert [c.words for c in contrasts_of("x", levels)] == [f"{level} against {levels[0]}" for level in levels[1:]]


def test_twelve_levels_are_a_factor_and_thirteen_are_none() -> None:
    def words(levels: int) -> int:
        arms = {i: {"targets": f"layers {i}"} for i in range(levels)}
        return len(effects(arms, pd.DataFrame(np.random.default_rng(8).normal(size=(4, levels)))))

    assert (words(12), words(13), words(2), words(1)) == (11, 0, 1, 0)


def test_an_effect_is_students_t_over_seeds() -> None:
    table = values(np.random.default_rng(9), n=6, cost=1.0)
    for options, confidence in (({}, 0.95), ({"confidence": 0.7}, 0.7)):
        rank, scheme, both = effects(ARMS, table, **options)
        x = np.array([-1.0, 0.0, 1.0]) / 2
        slopes = [sum(w * table[r, q] for w, r in zip(x, RANKS, strict=True)) for q in SCHEMES]
        for effect, by_seed in (
            (rank, (slopes[0] + slopes[1]) / 2),
            (scheme, sum(table[r, "int4"] - table[r, "none"] for r in RANKS) / 3),
            (both, slopes[1] - slopes[0]),
        ):
            assert effect.by_unit.to_numpy() == pytest.approx(by_seed.to_numpy())
            assert effect.p == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
            bounds = stats.t.interval(confidence, 5, by_seed.mean(), stats.sem(by_seed))
            assert (effect.interval.low, effect.interval.high) == pytest.approx(bounds)


def test_without_a_seed_that_has_all_runs_there_is_no_effect() -> None:
    table = values(np.random.default_rng(10), n=2)
    table.iloc[0, 0], table.iloc[1, 1] = np.nan, np.nan
    assert effects(ARMS, table) == []
    one = effects(ARMS, values(np.random.default_rng(11), n=1))
    assert [(e.interval.n, e.p) for e in one] == [(1, None)] * 3


def test_levels_are_in_the_order_of_their_numbers_and_else_as_the_study_has_them() -> None:
    def told(levels: list[str], reference: int | None = None) -> list[str]:
        arms = {i: {"x": level} for i, level in enumerate(levels)}
        table = pd.DataFrame(np.random.default_rng(12).normal(size=(3, len(levels))))
        found = effects(arms, table, reference=reference)
        return [" ".join(found[0].contrasts[0].levels)] if len(found) == 1 else [e.contrasts[0].words for e in found]

    assert told(["16", "8", "128"]) == ["8 16 128"]
    assert told(["16", "8"]) == ["16 8"], "of two, the first is what the other is held against"
    assert told(["q", "all", "v"]) == ["all against q", "v against q"]
    assert told(["q", "all", "v"], reference=1) == ["q against all", "v against all"]


def test_an_option_that_an_arm_lacks_is_no_factor() -> None:
    arms = {"a": {"rank": "2", "x": "1"}, "b": {"rank": "4", "x": "1"}, "c": {"x": "2"}}
    table = pd.DataFrame(np.random.default_rng(13).normal(size=(3, 3)), columns=pd.Index(list("abc")))
    assert {c.factor for effect in effects(arms, table) for c in effect.contrasts} <= {"x"}
    assert effects(ARMS, values(np.random.default_rng(14)), factors=["speed"]) == []


def test_of_two_arms_of_the_same_options_the_first_counts() -> None:
    arms = {"a": {"x": "p"}, "again": {"x": "p"}, "b": {"x": "q"}}
    table = pd.DataFrame({"a": [1.0, 2.0], "again": [5.0, 5.0], "b": [2.0, 4.0]})
    (effect,) = effects(arms, table)
    assert effect.by_unit.tolist() == [1.0, 2.0]


def test_three_numbers_have_a_trend_and_two_a_difference() -> None:
    (two,) = contrasts_of("rank", ["4", "8"])
    assert (two.words, two.levels, two.weights.tolist()) == ("8 against 4", ("4", "8"), [-1.0, 1.0])
    (three,) = contrasts_of("rank", ["4", "8", "64"])
    y = np.array([0.3, 0.1, 0.7])
    assert three.words == "per doubling" and three.weights @ y == pytest.approx(np.polyfit([2, 3, 6], y, 1)[0])
