"""Metrics of numbers that are predicted. N examples; everything in float64 on the CPU.

A prediction that is not finite counts as no prediction: correlations are then 0, errors NaN, so that a diverged model gets its
numbers, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from peftlab.tasks.contract import Meter

HIGHER_IS_BETTER = {"pearson": True, "spearman": True, "rmse": False, "loss": False}
BOUNDS = {"pearson": (-1.0, 1.0), "spearman": (-1.0, 1.0), "rmse": (0.0, math.inf)}


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """cov(a, b) / (sd(a) sd(b)); 0 where one of them is constant or not finite, because it then tells nothing."""
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    parts = []
    for values in (a, b):
        largest = np.abs(values).max()  # scaled first: squares of large numbers overflow
        centred = values / largest - (values / largest).mean() if largest else np.zeros_like(values)
        norm = np.linalg.norm(centred)
        if norm <= 1e-13 * np.sqrt(len(values)):  # constant but for rounding
            return 0.0
        parts.append(centred / norm)
    return float(np.clip(parts[0] @ parts[1], -1, 1))


def average_ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest to N, equal values sharing the mean of their places, float64 [N]."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of the ranks; 0 as of :func:`pearson`."""
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    return pearson(average_ranks(a), average_ranks(b))


def levels(train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """What always giving the mean of the training targets reaches on the test examples."""
    error = float(np.square(test.astype(np.float64) - train.astype(np.float64).mean()).mean())
    return {"pearson": 0.0, "spearman": 0.0, "rmse": float(np.sqrt(error)), "loss": error}


class CorrelationMeter(Meter):
    """Collects outputs [B, 1] and targets [B]; gives Pearson's and Spearman's correlation, root mean square error and loss."""

    def __init__(self) -> None:
        self._targets: list[np.ndarray] = []
        self._predictions: list[np.ndarray] = []

    def update(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> None:
        self._predictions.append(outputs.detach().float().cpu().numpy().astype(np.float64).reshape(-1))
        self._targets.append(batch["labels"].detach().cpu().numpy().astype(np.float64))

    def predictions(self) -> dict[str, np.ndarray]:
        """``target``, ``predicted`` float64 [N], in the order they were seen."""
        none = np.empty(0)
        return {"target": np.concatenate([none, *self._targets]), "predicted": np.concatenate([none, *self._predictions])}

    def compute(self) -> dict[str, float]:
        found = self.predictions()
        target, predicted = found["target"], found["predicted"]
        if not len(target):
            return dict.fromkeys(HIGHER_IS_BETTER, float("nan"))
        with np.errstate(invalid="ignore", over="ignore"):
            error = float(np.square(predicted - target).mean())
        return {
            "pearson": pearson(predicted, target),
            "spearman": spearman(predicted, target),
            "rmse": float(np.sqrt(error)),
            "loss": error,
        }

    def details(self) -> dict[str, Any]:
        """Range, mean and standard deviation of targets and of finite predictions; how many were not finite."""
        found = self.predictions()
        finite = np.isfinite(found["predicted"])
        shown = {"target": found["target"], "predicted": found["predicted"][finite]}
        return {**{name: _spread(values) for name, values in shown.items()}, "not_finite": int((~finite).sum())}


def _spread(values: np.ndarray) -> dict[str, float | None]:
    names = {"smallest": np.min, "largest": np.max, "mean": np.mean, "deviation": np.std}
    return {name: float(function(values)) if len(values) else None for name, function in names.items()}
