"""A score for each test example whose mean is the metric, from the single predictions that a run keeps.

Accuracy, exact match and the F1 of answers are means over examples: the scores are what they are means of. A metric that is a
ratio of means, R = mean(a) / mean(b), or a function g of such ratios is linear in the examples up to terms that vanish with their
number (the delta method): the scores are

    s_i = R + (a_i - R b_i) / mean(b),    or    s_i = g(R) + g'(R) (s_i^R - R),

with the metric itself as their mean and its sampling variance as theirs. Token accuracy and loss count tokens, perplexity is exp
of the loss, macro F1 the mean over classes of 2 TP / (2 TP + FP + FN).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]
Scores = NDArray[np.float64]
#: of answers: those of one kind only -> (array, label of the questions that count)
_OF_A_KIND = {
    "has_answer_f1": ("f1", 1),
    "has_answer_exact_match": ("exact_match", 1),
    "no_answer_exact_match": ("exact_match", 0),
}


def item_scores(metric: str, arrays: Arrays) -> Scores | None:
    """[items], float64; None for a metric of which the arrays do not hold enough.

    Args:
        metric: of the study.
        arrays: of ``predictions.npz`` (peftlab/tasks/contract.py: ``Meter.predictions``), each [items].
    """
    if metric in ("f1", "exact_match") and metric in arrays:
        return _real(arrays[metric])
    if metric in _OF_A_KIND and "label" in arrays:
        name, kind = _OF_A_KIND[metric]
        counted = _real(arrays["label"] == kind)
        return _ratio(_real(arrays[name]) * counted, counted) if name in arrays else None
    if "tokens" in arrays:
        return _of_tokens(metric, arrays)
    if "label" not in arrays or "prediction" not in arrays or "f1" in arrays:  # of answers these are no classes
        return None
    label, prediction = np.asarray(arrays["label"]), np.asarray(arrays["prediction"])
    if metric == "accuracy":
        return _real(label == prediction)
    return _macro_f1(label, prediction) if metric == "macro_f1" else None


def examples_of(arrays: Arrays) -> bytes:
    """What tells that two runs were tested on the same examples in the same order."""
    return b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in ("label", "tokens") if name in arrays)


def _of_tokens(metric: str, arrays: Arrays) -> Scores | None:
    """Of documents, each with its number of predicted tokens."""
    tokens = _real(arrays["tokens"])
    if metric == "token_accuracy" and "correct" in arrays:
        return _ratio(_real(arrays["correct"]), tokens)
    if metric not in ("loss", "perplexity") or "loss" not in arrays:
        return None
    loss = _ratio(_real(arrays["loss"]), tokens)
    if loss is None or metric == "loss":
        return loss
    mean = float(loss.mean())
    return np.exp(mean) * (1 + loss - mean) if math.isfinite(mean) and mean < 700 else None


def _macro_f1(label: NDArray[np.generic], prediction: NDArray[np.generic]) -> Scores | None:
    """Over the classes that occur as label or prediction; -1 is none."""
    classes = [k for k in np.union1d(label, prediction).tolist() if k >= 0]
    parts = [_ratio(2 * _real((label == k) & (prediction == k)), _real(label == k) + _real(prediction == k)) for k in classes]
    return np.mean([part for part in parts if part is not None], axis=0) if parts else None


def _ratio(numerator: Scores, denominator: Scores) -> Scores | None:
    middle = float(denominator.mean()) if denominator.size else 0.0
    if not middle:
        return None
    ratio = float(numerator.mean()) / middle
    return ratio + (numerator - ratio * denominator) / middle


def _real(values: NDArray[np.generic]) -> Scores:
    return np.asarray(values, dtype=np.float64)
