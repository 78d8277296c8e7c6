"""Metrics against scikit-learn and PyTorch."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from sklearn.dummy import DummyClassifier

from peftlab.tasks._metrics import (
    ClassificationMeter,
    calibration_error,
    chance_levels,
    class_metrics,
    label_rank,
    log_softmax,
    macro_f1,
    majority_levels,
)

CASES = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 60))


def logits_and_labels(case) -> tuple[np.ndarray, np.ndarray]:
    seed, classes, count = case
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, classes)) * 3, generator.integers(0, classes, count)


def measured(logits: np.ndarray, labels: np.ndarray) -> ClassificationMeter:
    meter = ClassificationMeter([str(label) for label in range(logits.shape[1])])
    meter.update(torch.tensor(logits, dtype=torch.float32), {"labels": torch.tensor(labels)})
    return meter


@given(CASES)
def test_accuracy_f1_and_loss_equal_scikit_learns(case):
    logits, labels = logits_and_labels(case)
    logits = logits.astype(np.float32).astype(np.float64)
    classes, prediction = logits.shape[1], logits.argmax(1)
    values = measured(logits, labels).compute()
    probabilities = torch.softmax(torch.tensor(logits), 1).numpy()
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, prediction))
    assert values["macro_f1"] == pytest.approx(sk.f1_score(labels, prediction, average="macro", zero_division=0))
    assert values["loss"] == pytest.approx(sk.log_loss(labels, probabilities, labels=range(classes)), rel=1e-9)
    if classes > 5:
        expected = sk.top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
        assert values["accuracy_top5"] == pytest.approx(expected)
    assert ("accuracy_top5" in values) == (classes > 5)
    assert set(values) == set(class_metrics(classes))


@given(CASES)
def test_accuracy_per_class_is_scikit_learns_recall(case):
    logits, labels = logits_and_labels(case)
    classes = logits.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recall = sk.recall_score(labels, logits.argmax(1), average=None, labels=range(classes), zero_division=np.nan)
    rows = measured(logits, labels).details()["per_class"]
    assert [row["examples"] for row in rows] == np.bincount(labels, minlength=classes).tolist()
    for row, expected in zip(rows, recall, strict=True):
        assert row["accuracy"] is None if row["examples"] == 0 else row["accuracy"] == pytest.approx(expected)


@given(CASES)
def test_calibration_error_from_scikit_learns_curve(case):
    logits, labels = logits_and_labels(case)
    probabilities = torch.softmax(torch.tensor(logits), 1).numpy()
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15, strategy="uniform")
    counts = np.histogram(confidence, bins=np.linspace(0, 1, 16))[0]
    expected = (counts[counts > 0] * np.abs(accuracy - mean)).sum() / len(labels)
    assert calibration_error(confidence, correct) == pytest.approx(expected)


def test_calibration_error_by_hand():
    """Guo et al. 2017, eq. 3, with M = 2: bins (0, .5] and (.5, 1]: 2/4 |1/2 - 0.45| + 2/4 |1 - 0.8|."""
    confidence, correct = np.array([0.4, 0.5, 0.7, 0.9]), np.array([True, False, True, True])
    assert calibration_error(confidence, correct, bins=2) == pytest.approx(0.5 * 0.05 + 0.5 * 0.2)
    assert calibration_error(np.ones(3), np.array([True, True, True])) == 0
    assert math.isnan(calibration_error(np.array([0.5, math.nan]), np.array([True, False])))


@given(CASES)
def test_log_softmax_equals_pytorchs(case):
    logits, _ = logits_and_labels(case)
    np.testing.assert_allclose(log_softmax(logits), torch.log_softmax(torch.tensor(logits), 1).numpy(), atol=1e-12)


def test_log_softmax_of_extremes():
    rows = log_softmax(np.array([[1e308, 0.0], [0.0, -np.inf], [np.inf, 0.0], [np.nan, 0.0], [-np.inf, -np.inf]]))
    assert rows[0].tolist() == [0, -1e308]
    assert rows[1].tolist() == [0, -np.inf]
    assert np.isnan(rows[2:]).all()


def test_ties_go_to_the_lower_class_as_in_argmax():
    logits = np.zeros((7, 7))
    assert label_rank(logits, np.arange(7)).tolist() == list(range(7))
    values = measured(logits, np.arange(7)).compute()
    assert values["accuracy"] == pytest.approx(1 / 7) and values["accuracy_top5"] == pytest.approx(5 / 7)


def test_answers_that_are_not_finite_are_wrong_everywhere():
    logits = np.eye(6) * 4
    logits[2], logits[3, 0] = np.nan, np.inf
    meter = measured(logits, np.arange(6))
    values = meter.compute()
    assert values["accuracy"] == values["accuracy_top5"] == pytest.approx(4 / 6)
    assert values["macro_f1"] == pytest.approx(4 / 6)
    assert math.isnan(values["loss"]) and math.isnan(values["calibration_error"])
    items = meter.predictions()
    assert items["prediction"].tolist() == [0, 1, -1, -1, 4, 5]
    assert np.isnan(items["confidence"]).tolist() == [False, False, True, True, False, False]
    assert meter.details()["not_finite"] == 2


def test_a_certain_wrong_answer_has_infinite_loss_but_an_accuracy():
    values = measured(np.array([[0.0, -np.inf], [1.0, 0.0]]), np.array([1, 0])).compute()
    assert values["loss"] == math.inf and values["accuracy"] == 0.5


def test_nothing_seen():
    assert all(math.isnan(value) for value in ClassificationMeter(["a", "b"]).compute().values())


def test_half_precision_logits_are_measured_in_double():
    meter = ClassificationMeter(["a", "b", "c"])
    meter.update(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16), {"labels": torch.tensor([2])})
    assert meter.compute()["loss"] == pytest.approx(math.log(1 + math.exp(-1) + math.exp(-2)), rel=1e-12)


@pytest.mark.parametrize("counts", [[50, 50], [70, 20, 10], [5] * 8, [40, 1, 1, 1, 1, 1, 5]])
def test_majority_levels_are_those_of_scikit_learns_dummy(counts):
    train = np.array(counts)
    labels = np.repeat(np.arange(len(counts)), counts)
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(labels), 1)), labels)
    answers = dummy.predict(np.zeros((len(labels), 1)))
    levels = majority_levels(train, train)
    assert levels["accuracy"] == pytest.approx(sk.accuracy_score(labels, answers))
    assert levels["macro_f1"] == pytest.approx(sk.f1_score(labels, answers, average="macro", zero_division=0))


def test_majority_is_taken_from_training_data():
    assert majority_levels(np.array([9, 1]), np.array([1, 3]))["accuracy"] == 0.25
    assert majority_levels(np.array([1, 9, 8, 7, 6, 5]), np.array([5, 1, 1, 1, 1, 1]))["accuracy_top5"] == 0.5


def test_chance_levels_are_what_guessing_reaches():
    """200,000 uniform guesses: standard error of accuracy 0.0008 at K = 8."""
    counts = np.array([100_000, 40_000, 30_000, 10_000, 5_000, 5_000, 5_000, 5_000])
    labels = np.repeat(np.arange(8), counts)
    guesses = np.random.default_rng(0).integers(0, 8, len(labels))
    levels = chance_levels(counts)
    assert levels["accuracy"] == pytest.approx((guesses == labels).mean(), abs=0.004)
    assert levels["macro_f1"] == pytest.approx(macro_f1(labels, guesses, 8), abs=0.004)
    assert levels["accuracy_top5"] == 5 / 8
    assert levels["loss"] == pytest.approx(sk.log_loss(labels, np.full((len(labels), 8), 1 / 8), labels=range(8)))
