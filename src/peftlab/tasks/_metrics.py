"""Metrics of classification. N examples, K classes; everything in float64 on the CPU.

An output that is not finite is a wrong answer (prediction -1), and the loss is NaN: a diverged model gets its numbers, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from peftlab.tasks.contract import Meter

BINS = 15
TOP = 5

HIGHER_IS_BETTER = {
    "accuracy": True,
    "accuracy_top5": True,
    "macro_f1": True,
    "f1": True,
    "calibration_error": False,
    "loss": False,
}


def class_metrics(classes: int, *, positive: int | None = None) -> dict[str, bool]:
    """Metrics of a task with K classes -> whether higher is better.

    Top 5 says nothing for five classes or fewer; F1 by itself is that of the class ``positive``, where there is one.
    """
    absent = [name for name, there in (("accuracy_top5", classes > TOP), ("f1", positive is not None)) if not there]
    return {name: better for name, better in HIGHER_IS_BETTER.items() if name not in absent}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p, [N, K] from logits [N, K]; a row with NaN or +inf becomes NaN throughout."""
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
        result = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    result[np.isnan(result).any(axis=1)] = np.nan
    return result


def label_rank(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Place of the true class, 0 = first, int64 [N]. Ties go to the lower class number, as in argmax."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = np.arange(logits.shape[1])[None, :] < labels[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(axis=1)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> dict[str, np.ndarray]:
    """Counts, mean confidence and accuracy in bins ((m-1)/M, m/M] of confidence, each [M] (NaN in empty bins)."""
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(place, weights=confidence, minlength=bins) / count
        accuracy = np.bincount(place, weights=correct.astype(np.float64), minlength=bins) / count
    return {"count": count, "confidence": mean_confidence, "accuracy": accuracy}


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: sum over bins of n_m / N |accuracy_m - confidence_m| (Guo et al. 2017, eq. 3).

    Args:
        confidence: probability of the predicted class, [N]. NaN anywhere gives NaN.
        correct: whether the prediction was right, bool [N].
    """
    if not len(confidence) or np.isnan(confidence).any():
        return float("nan")
    table = reliability(confidence, correct, bins)
    filled = table["count"] > 0
    gap = np.abs(table["accuracy"] - table["confidence"])[filled]
    return float((table["count"][filled] * gap).sum() / len(confidence))


def macro_f1(labels: np.ndarray, predictions: np.ndarray, classes: int) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN), over the classes that occur as label or prediction (as scikit-learn).

    Args:
        labels: int64 [N], 0 .. K-1.
        predictions: int64 [N]; -1 (no valid answer) counts as a miss of the label and as no class of its own.
    """
    hit = np.bincount(labels[labels == predictions], minlength=classes)
    actual = np.bincount(labels, minlength=classes)
    given = np.bincount(predictions[predictions >= 0], minlength=classes)
    present = (actual + given) > 0
    return float((2 * hit[present] / (actual + given)[present]).mean()) if present.any() else float("nan")


def f1(labels: np.ndarray, predictions: np.ndarray, positive: int) -> float:
    """2 TP / (2 TP + FP + FN) of one class; 0 where it neither occurs nor is predicted (as scikit-learn)."""
    hit = int(((labels == positive) & (predictions == positive)).sum())
    either = int((labels == positive).sum() + (predictions == positive).sum())
    return 2 * hit / either if either else 0.0


def chance_levels(test_counts: np.ndarray, *, positive: int | None = None) -> dict[str, float]:
    """What uniform guessing reaches in expectation; macro F1 in the limit of many examples.

    accuracy 1/K, top 5 5/K, loss ln K, F1 of a class with share p: 2 p / (K p + 1). Calibration has no chance level.
    """
    classes = len(test_counts)
    share = test_counts / test_counts.sum()
    levels = {
        "accuracy": 1 / classes,
        "loss": float(np.log(classes)),
        "macro_f1": float((2 * share / (classes * share + 1)).mean()),
    }
    if positive is not None:
        levels["f1"] = float(2 * share[positive] / (classes * share[positive] + 1))
    return {**levels, "accuracy_top5": TOP / classes} if classes > TOP else levels


def majority_levels(train_counts: np.ndarray, test_counts: np.ndarray, *, positive: int | None = None) -> dict[str, float]:
    """What always naming the most frequent training class (top 5: the five most frequent) reaches on the test examples."""
    order = np.argsort(-train_counts, kind="stable")
    share = test_counts / test_counts.sum()
    labels = np.repeat(np.arange(len(test_counts)), test_counts)
    levels = {
        "accuracy": float(share[order[0]]),
        "macro_f1": macro_f1(labels, np.full_like(labels, order[0]), len(test_counts)),
    }
    if positive is not None:
        levels["f1"] = f1(labels, np.full_like(labels, order[0]), positive)
    return {**levels, "accuracy_top5": float(share[order[:TOP]].sum())} if len(test_counts) > TOP else levels


class ClassificationMeter(Meter):
    """Collects logits [B, K] and labels [B]; gives accuracy, top 5, macro F1, F1 of ``positive``, calibration error and loss."""

    def __init__(self, label_names: Sequence[str], *, positive: int | None = None) -> None:
        self._names = tuple(label_names)
        self._positive = positive
        self._metrics = class_metrics(len(self._names), positive=positive)
        self._columns: dict[str, list[np.ndarray]] = {"label": [], "prediction": [], "confidence": [], "loss": [], "rank": []}

    def update(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> None:
        logits = outputs.detach().float().cpu().numpy().astype(np.float64)
        labels = batch["labels"].detach().cpu().numpy().astype(np.int64)
        log_p = log_softmax(logits)
        valid = ~np.isnan(log_p).any(axis=1)
        prediction = np.where(valid, np.nan_to_num(logits, nan=-np.inf).argmax(axis=1), -1)
        columns = {
            "label": labels,
            "prediction": prediction.astype(np.int64),
            "confidence": np.where(valid, np.exp(log_p.max(axis=1)), np.nan),
            "loss": -np.take_along_axis(log_p, labels[:, None], axis=1)[:, 0],
            "rank": np.where(valid, label_rank(logits, labels), len(self._names)),
        }
        for name, values in columns.items():
            self._columns[name].append(values)

    def _column(self, name: str) -> np.ndarray:
        kind = np.float64 if name in ("confidence", "loss") else np.int64
        return np.concatenate([np.empty(0, dtype=kind), *self._columns[name]])

    def compute(self) -> dict[str, float]:
        labels, prediction, rank = self._column("label"), self._column("prediction"), self._column("rank")
        correct = labels == prediction
        if not len(labels):
            return dict.fromkeys(self._metrics, float("nan"))
        values = {
            "accuracy": float(correct.mean()),
            "accuracy_top5": float((rank < TOP).mean()),
            "macro_f1": macro_f1(labels, prediction, len(self._names)),
            "f1": f1(labels, prediction, self._positive) if self._positive is not None else float("nan"),
            "calibration_error": calibration_error(self._column("confidence"), correct),
            "loss": float(self._column("loss").mean()),
        }
        return {name: values[name] for name in self._metrics}

    def details(self) -> dict[str, Any]:
        """Per class: examples and accuracy (None without examples); calibration bins; how many answers were not finite."""
        labels, prediction, confidence = self._column("label"), self._column("prediction"), self._column("confidence")
        correct = labels == prediction
        support = np.bincount(labels, minlength=len(self._names))
        hits = np.bincount(labels[correct], minlength=len(self._names))
        finite = ~np.isnan(confidence)
        bins = reliability(confidence[finite], correct[finite])
        return {
            "per_class": [
                {"label": name, "examples": int(n), "accuracy": float(hit / n) if n else None}
                for name, n, hit in zip(self._names, support, hits, strict=True)
            ],
            "calibration": {key: [None if np.isnan(v) else v for v in column.tolist()] for key, column in bins.items()},
            "not_finite": int((~finite).sum()),
        }

    def predictions(self) -> dict[str, np.ndarray]:
        """``label``, ``prediction`` int64 [N] (-1: not finite), ``confidence`` float64 [N], in the order they were seen."""
        return {name: self._column(name) for name in ("label", "prediction", "confidence")}
