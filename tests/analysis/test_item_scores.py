"""Scores of single examples: their mean is the metric of scikit-learn, and their variance that of the metric."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from peftlab.analysis.item_scores import examples_of, item_scores


def classes(generator: np.random.Generator, items: int) -> dict[str, np.ndarray]:
    label = generator.choice(4, size=items, p=[0.5, 0.3, 0.15, 0.05])
    wrong = generator.random(items) < 0.3
    return {"label": label, "prediction": np.where(wrong, generator.integers(0, 4, items), label)}


def documents(generator: np.random.Generator, items: int) -> dict[str, np.ndarray]:
    tokens = generator.integers(1, 60, items)
    correct = generator.binomial(tokens, 0.4)
    return {
        "loss": tokens * generator.gamma(4, 0.5, items),
        "tokens": tokens,
        "correct": correct,
        "exact_match": correct == tokens,
    }


def answers(generator: np.random.Generator, items: int) -> dict[str, np.ndarray]:
    f1, label = generator.random(items), generator.integers(0, 2, items)
    return {"label": label, "prediction": label, "f1": f1, "exact_match": (f1 > 0.8).astype(float), "score_difference": f1}


def metric(name: str, arrays: dict[str, np.ndarray]) -> float:
    if name == "accuracy":
        return float(np.mean(arrays["label"] == arrays["prediction"]))
    if name == "macro_f1":
        return float(f1_score(arrays["label"], arrays["prediction"], average="macro"))
    if name in ("f1", "exact_match"):
        return float(arrays[name].mean())
    if name == "has_answer_f1":
        return float(arrays["f1"][arrays["label"] == 1].mean())
    if name == "no_answer_exact_match":
        return float(arrays["exact_match"][arrays["label"] == 0].mean())
    if name == "token_accuracy":
        return float(arrays["correct"].sum() / arrays["tokens"].sum())
    loss = float(arrays["loss"].sum() / arrays["tokens"].sum())
    return float(np.exp(loss)) if name == "perplexity" else loss


CASES = [
    ("accuracy", classes), ("macro_f1", classes), ("loss", documents), ("perplexity", documents), ("token_accuracy", documents),
    ("exact_match", documents), ("f1", answers), ("exact_match", answers), ("has_answer_f1", answers),
    ("no_answer_exact_match", answers),
]  # fmt: skip


@pytest.mark.parametrize(("name", "draw"), CASES)
def test_their_mean_is_the_metric(name: str, draw) -> None:
    arrays = draw(np.random.default_rng(0), 500)
    scores = item_scores(name, arrays)
    assert scores is not None and scores.shape == (500,)
    assert scores.mean() == pytest.approx(metric(name, arrays), rel=1e-9)


@pytest.mark.parametrize(("name", "draw"), [case for case in CASES if case[0] in ("macro_f1", "perplexity", "has_answer_f1")])
def test_their_spread_is_that_of_the_metric_over_test_sets(name: str, draw) -> None:
    """1,500 test sets of 400 examples: the standard error that one set's scores give, against the metric's own spread."""
    generator = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(1500):
        arrays = draw(generator, 400)
        scores = item_scores(name, arrays)
        assert scores is not None
        values.append(scores.mean())
        errors.append(scores.std(ddof=1) / np.sqrt(scores.size))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.08)


def test_what_is_not_kept_has_no_scores() -> None:
    generator = np.random.default_rng(2)
    assert item_scores("calibration_error", classes(generator, 9)) is None
    assert item_scores("f1", classes(generator, 9)) is None  # of a positive class that the arrays do not name
    assert item_scores("bits_per_byte", documents(generator, 9)) is None
    assert item_scores("accuracy", answers(generator, 9)) is None  # whether an answer was given is no class
    assert item_scores("has_answer_f1", {**answers(generator, 9), "label": np.zeros(9, dtype=int)}) is None


def test_other_examples_are_told_apart() -> None:
    generator = np.random.default_rng(3)
    first = classes(generator, 50)
    assert examples_of(first) == examples_of({**first, "prediction": first["label"]}) != examples_of(classes(generator, 50))
    texts = documents(generator, 50)
    assert examples_of(texts) == examples_of({**texts, "loss": texts["loss"] * 2}) != examples_of(documents(generator, 50))
