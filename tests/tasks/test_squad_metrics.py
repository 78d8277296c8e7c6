"""EM and F1 of answers against what others computed: the published examples, and figures of a known implementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.tasks._squad_metrics import best_threshold, by_kind, exact_match, f1, words

KNOWN = json.loads((Path(__file__).parent / "squad_scores.json").read_text(encoding="utf-8"))
QUESTIONS = KNOWN["questions"]
EXACT = np.array([exact_match(one["prediction"], one["golds"]) for one in QUESTIONS])
F1 = np.array([f1(one["prediction"], one["golds"]) for one in QUESTIONS])
DIFFERENCE = np.array([one["difference"] for one in QUESTIONS])
ANSWERABLE = np.array([bool(one["golds"]) for one in QUESTIONS])


def test_every_question_scores_as_in_transformers() -> None:
    assert EXACT.tolist() == [one["exact_match"] for one in QUESTIONS]
    assert F1.tolist() == pytest.approx([one["f1"] for one in QUESTIONS], abs=1e-12)
    assert 0 < EXACT.mean() < F1.mean() < 1


@pytest.mark.parametrize("threshold", map(float, KNOWN["evaluations"]))
def test_means_by_kind_are_those_of_squad_evaluate(threshold: float) -> None:
    theirs = KNOWN["evaluations"][str(threshold)]
    empty, right = threshold < DIFFERENCE, (~ANSWERABLE).astype(float)
    ours = by_kind(np.where(empty, right, F1), np.where(empty, right, EXACT), ANSWERABLE)
    names = {
        "f1": "f1",
        "exact_match": "exact",
        "has_answer_f1": "HasAns_f1",
        "has_answer_exact_match": "HasAns_exact",
        "no_answer_exact_match": "NoAns_exact",
    }
    wanted = {name: theirs[key] / 100 for name, key in names.items()}
    assert ours == pytest.approx(wanted)
    assert theirs["NoAns_f1"] == theirs["NoAns_exact"]


@pytest.mark.parametrize(("scores", "name"), [(F1, "f1"), (EXACT, "exact")])
def test_the_best_threshold_is_theirs(scores: np.ndarray, name: str) -> None:
    theirs = KNOWN["evaluations"]["0.0"]
    threshold, best = best_threshold(scores, DIFFERENCE, ANSWERABLE)
    assert 100 * best == pytest.approx(theirs[f"best_{name}"])
    assert threshold == pytest.approx(theirs[f"best_{name}_thresh"])


def test_by_hand() -> None:
    """Two of three words found, two of four right: F1 = 2 (2/3) (2/4) / (2/3 + 2/4) = 4/7."""
    assert f1("in northern France", ["northern part of France"]) == pytest.approx(4 / 7)
    assert f1("the cat sat", ["a cat"]) == pytest.approx(2 / 3)
    assert words("The  U.S.'s half-life, an Apple!") == ["uss", "halflife", "apple"]
    assert (exact_match("", []), f1("", []), f1("anything", []), exact_match("the", [])) == (1, 1, 0, 1)
    assert f1("x", ["a", "x"]) == 1  # a gold answer without words is left out
    assert exact_match("", ["the"]) == 1  # unless it is the only one


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(-3, 3), st.booleans()), min_size=1, max_size=12))
def test_no_other_threshold_is_better(rows: list[tuple[float, int, bool]]) -> None:
    scores = np.array([score if has else 0.0 for score, _, has in rows])
    differences, answerable = np.array([float(d) for _, d, _ in rows]), np.array([has for *_, has in rows])

    def reached(threshold: float) -> float:
        return float(np.where(differences > threshold, ~answerable, scores).mean())

    threshold, best = best_threshold(scores, differences, answerable)
    assert reached(threshold) == pytest.approx(best)
    assert best == pytest.approx(max(map(reached, np.arange(-4.5, 4))))


def test_what_is_not_finite_is_never_right_and_never_decides() -> None:
    scores, answerable = np.array([1.0, 0.0, 0.0]), np.array([True, False, False])
    threshold, best = best_threshold(scores, np.array([-2.0, np.nan, np.inf]), answerable)
    assert (threshold, best) == (-2.0, pytest.approx(2 / 3))
    assert best_threshold(scores, np.full(3, np.nan), answerable) == (0.0, 0.0)
