from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.analysis.pareto import front_probability, on_front

points = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9)


@given(points)
def test_equals_the_definition(pairs: list[tuple[int, int]]) -> None:
    """No other point is at least as good in both and better in one."""
    naive = [not any((q2 >= q and c2 <= c) and (q2 > q or c2 < c) for q2, c2 in pairs) for q, c in pairs]
    quality, cost = zip(*pairs, strict=True)
    assert list(on_front(quality, cost)) == naive


@given(points, st.integers(0, 2**32 - 1))
def test_order_changes_nothing(pairs: list[tuple[int, int]], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(pairs))
    quality, cost = np.array(pairs, dtype=float).T
    assert (on_front(quality[order], cost[order]) == on_front(quality, cost)[order]).all()


def test_missing_values_are_off_the_front_and_dominate_nothing() -> None:
    assert list(on_front([0.9, np.nan, 0.8], [5.0, 1.0, np.nan])) == [True, False, False]


def test_probability_of_the_certain() -> None:
    quality = np.array([[0.9, 0.91, 0.92], [0.8, 0.81, 0.82], [0.7, 0.71, 0.72]])
    cost = np.array([[10.0] * 3, [5.0] * 3, [6.0] * 3])
    assert list(front_probability(quality, cost, np.random.default_rng(0))) == [1.0, 1.0, 0.0]


def test_probability_of_two_equal_arms_is_even() -> None:
    """Over many data sets, the dearer of two truly equal arms is on the front in half of the resamples."""
    generator = np.random.default_rng(1)
    found = [
        front_probability(generator.normal(size=(2, 8)), [[1.0] * 8, [2.0] * 8], generator, resamples=200)[1] for _ in range(400)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.07)  # standard error 0.017


def test_same_generator_same_answer() -> None:
    quality = np.random.default_rng(3).normal(size=(4, 5))
    answers = [front_probability(quality, np.ones((4, 5)), np.random.default_rng(7)) for _ in range(2)]
    assert (answers[0] == answers[1]).all()


def test_runs_that_are_missing() -> None:
    quality = np.array([[0.9, np.nan], [0.8, 0.8]])
    found = front_probability(quality, np.ones((2, 2)), np.random.default_rng(0), resamples=500)
    assert found[0] == pytest.approx(0.75, abs=0.08)  # in a quarter of the resamples only the missing run is drawn


def test_two_thousand_resamples_and_no_seed_to_draw() -> None:
    quality = np.random.default_rng(5).normal(size=(3, 6))
    found = front_probability(quality, [[1.0] * 6, [2.0] * 6, [3.0] * 6], np.random.default_rng(0))
    assert (2000 * found == np.round(2000 * found)).all() and (found == 1).sum() < 3
    rare = front_probability(quality, [[1.0] * 6, [2.0] * 6, [3.0] * 6], np.random.default_rng(0), resamples=7)
    assert (7 * rare == pytest.approx(np.round(7 * rare))) and not (rare == found).all()
    none = front_probability(np.zeros((3, 0)), np.zeros((3, 0)), np.random.default_rng(0))
    assert none.shape == (3,) and np.isnan(none).all()


def test_the_means_of_a_resample_are_those_of_the_runs_drawn() -> None:
    """By every one of the 27 ways to draw three seeds of three."""
    quality = np.array([[0.9, 0.2, 0.4], [0.51, 0.73, 0.3], [0.6, np.nan, 0.1]])
    cost = np.array([[3.0, 1.0, 2.0], [1.5, 2.5, 2.2], [1.0, 5.0, 0.5]])
    fronts = []
    for draw in itertools.product(range(3), repeat=3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            means = [np.nanmean(table[:, draw], axis=1) for table in (quality, cost)]
        fronts.append(on_front(*means))
    found = front_probability(quality, cost, np.random.default_rng(0), resamples=20_000)
    assert found == pytest.approx(np.mean(fronts, axis=0), abs=0.015)  # standard error 0.0035 at most


def test_equal_costs_are_equal_whatever_runs_are_missing() -> None:
    """0.1 drawn three times has a mean of 0.10000000000000002, and drawn once of 0.1."""
    quality = np.array([[0.9, 0.91, 0.92], [0.5, np.nan, 0.52]])
    cost = np.array([[0.1, 0.1, 0.1], [0.1, np.nan, 0.1]])
    assert list(front_probability(quality, cost, np.random.default_rng(0), resamples=500)) == [1.0, 0.0]
