"""Stability against naive sums, and early stopping against the training loop's own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from peftlab.analysis.stability import best_of, smoothed, stability, stops_at

curves = arrays(np.float64, st.integers(5, 60), elements=st.floats(0, 10, width=32))


@given(losses=curves)
def test_stability_is_the_naive_share(losses: np.ndarray) -> None:
    width = max(1, len(losses) // 10)
    means = [np.mean(losses[i : i + width]) for i in range(len(losses) - width + 1)]
    assert smoothed(losses) == pytest.approx(means)
    up = sum(max(0, b - a) for a, b in itertools.pairwise(means))
    moved = sum(abs(b - a) for a, b in itertools.pairwise(means))
    score = stability(losses)
    if moved > 1e-9:
        assert score == pytest.approx(1 - up / moved, abs=1e-6)
        assert score == pytest.approx((1 + (means[0] - means[-1]) / moved) / 2, abs=1e-6)
        assert 0 <= score <= 1 and stability(3 * losses) == pytest.approx(score, abs=1e-6)


def test_stability_of_known_curves() -> None:
    assert stability(np.linspace(2, 0.1, 100)) == 1
    assert stability(np.linspace(0.1, 2, 100)) == 0
    assert stability([1.0, 0.5, float("nan"), 0.4, 0.3]) == 0
    assert stability([1.0, 0.9, 0.8, 0.7]) is None and stability([1.0] * 20) is None
    noise = np.random.default_rng(0).normal(size=(200, 100))
    assert np.mean([stability(row) for row in noise]) == pytest.approx(0.5, abs=0.02)


@given(values=st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12), patience=st.integers(1, 4), higher=st.booleans())
def test_early_stopping_is_that_of_a_naive_search(values: list[float | None], patience: int, higher: bool) -> None:
    scores = [-np.inf if v is None else v if higher else -v for v in values]
    expected = None
    for end in range(len(scores)):
        best = int(np.argmax(scores[: end + 1]))  # the first of equals, as a tie is no improvement
        if end - best >= patience:
            expected = end
            break
    assert stops_at(values, patience, higher_is_better=higher) == expected


def test_higher_is_better_unless_it_is_said() -> None:
    assert stops_at([0.1, 0.2, 0.3], 1) is None and stops_at([0.3, 0.2], 1) == 1
    assert stops_at([0.3, 0.2, 0.1], 1, higher_is_better=False) is None


def test_best_of_leaves_out_what_is_no_number() -> None:
    assert best_of([None, 0.2, float("nan"), 0.1]) == 0.2
    assert best_of([None, 0.2, 0.1], higher_is_better=False) == 0.1
    assert best_of([None]) is None


def test_an_improvement_counts_when_it_is_larger_than_the_smallest_that_counts() -> None:
    values = [0.10, 0.15, 0.20, 0.25, 0.30]
    assert stops_at(values, 2) is None and stops_at(values, 2, min_delta=0.0) is None
    assert stops_at(values, 2, min_delta=0.5) == 2
    assert stops_at(values, 3, min_delta=0.12) is None, "0.25 and 0.10 are further apart"
    assert stops_at([0.5, 0.75, 1.0], 1, min_delta=0.25) == 1, "no larger than it"
    assert stops_at([0.5, 0.25, 0.125], 1, higher_is_better=False, min_delta=0.2) == 2
    assert stops_at([0.2, 0.2], 1) == 1 and stops_at([float("nan"), None, 0.1], 2) is None
    assert stops_at([None, float("inf"), 0.1], 2) is None and stops_at([], 1) is None


def test_five_lines_have_a_score_and_four_have_none() -> None:
    assert stability([1.0, 0.9, 0.8, 0.7, 0.6]) == 1 and stability([1.0, 0.9, 0.8, 0.7]) is None
    assert stability([1.0, float("inf")]) == 0.0 and stability([]) is None
    assert stability([1.0, 2.0, 1.0, 2.0, 1.0]) == 0.5


@pytest.mark.parametrize(("lines", "width"), [(5, 1), (19, 1), (20, 2), (29, 2), (30, 3), (100, 10)])
def test_the_window_is_a_tenth_of_the_lines(lines: int, width: int) -> None:
    losses = np.random.default_rng(lines).random(lines)
    assert smoothed(losses) == pytest.approx([losses[i : i + width].mean() for i in range(lines - width + 1)])
