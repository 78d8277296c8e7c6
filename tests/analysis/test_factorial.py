"""Factors and their interactions: by hand, against statsmodels, and by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
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
