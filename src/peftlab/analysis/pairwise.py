"""Every two arms of a setting over the same seeds: what a reader may ask that the plan did not.

None of it was declared before the runs, so all of it is exploratory, and all pairs of the study are one family of Holm's
adjustment. Pairs with the baseline are left out: they were declared, and their findings stand beside (analysis/assess.py).
"""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from peftlab.analysis.anytime import difference
from peftlab.analysis.comparison import holm
from peftlab.analysis.findings import Pairs, Verdict, alpha_of
from peftlab.analysis.setting import Setting

MOST = 20_000  #: pairs of a study; beyond it nobody reads them and no adjustment leaves anything to find


def pairwise(settings: Sequence[Setting], baseline: str | None, confidence: float) -> list[Pairs]:
    """Paired differences of every two arms but the baseline, per setting; nothing where there are more than :data:`MOST`."""
    indices = [_indices(s, baseline) for s in settings]
    if sum(len(first) for first, _ in indices) > MOST:
        return []
    columns = [
        (_compare if s.sequence is None else _at_any_time)(s, first, second, confidence)
        for s, (first, second) in zip(settings, indices, strict=True)
    ]
    adjusted = holm([p for c in columns for p in c["p"]])
    found, start = [], 0
    for s, (first, second), c in zip(settings, indices, columns, strict=True):
        size = len(first)
        here, start = adjusted[start : start + size], start + size
        verdicts = [
            _verdict(estimate, p, alpha_of(confidence), s.higher_is_better)
            for estimate, p in zip(c["estimate"], here, strict=True)
        ]
        if size:
            found.append(
                Pairs(
                    task=s.task, backbone=s.backbone, arms=[str(a) for a in s.values.columns], first=first.tolist(),
                    second=second.tolist(), p_adjusted=here, verdict=verdicts, **c,
                )
            )  # fmt: skip
    return found


def pair_count(settings: Sequence[Setting], baseline: str | None) -> int:
    """Pairs that were not declared."""
    return sum(len(_indices(s, baseline)[0]) for s in settings)


def _indices(setting: Setting, baseline: str | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    labels = list(setting.values.columns)
    first, second = np.triu_indices(len(labels), 1)
    kept = np.array([baseline not in (labels[a], labels[b]) for a, b in zip(first, second, strict=True)], dtype=bool)
    return first[kept], second[kept]


def _compare(setting: Setting, first: NDArray[np.intp], second: NDArray[np.intp], confidence: float) -> dict[str, list[Any]]:
    """Columns of :class:`Pairs`, as :func:`peftlab.analysis.comparison.paired_difference` computes them one by one."""
    values = setting.values.to_numpy(dtype=np.float64)
    a, b = values[:, first], values[:, second]
    known = np.isfinite(a) & np.isfinite(b)
    n = known.sum(axis=0)
    shared = 1.0 / (setting.folds - 1) if setting.folds > 1 else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, variance = _moments(a - b, known, n)
        error = np.sqrt(variance * (1.0 / n + shared))
        half = stdtrit(n - 1.0, (1 + confidence) / 2) * error
        varies = (n > 1) & (error > 1e-12 * np.maximum(np.abs(mean), 1e-12))
        p = np.where(varies, 2 * stdtr(n - 1.0, -np.abs(mean) / error), np.nan)
        correlation = _correlation(a, b, known, n)
    return {
        "n": n.tolist(), "estimate": _plain(mean), "low": _plain(mean - half), "high": _plain(mean + half), "p": _plain(p),
        "correlation": _plain(correlation),
    }  # fmt: skip


def _at_any_time(setting: Setting, first: NDArray[np.intp], second: NDArray[np.intp], confidence: float) -> dict[str, list[Any]]:
    """Likewise of a race, by tests that hold at any number of seeds."""
    assert setting.sequence is not None
    values = setting.sequence.to_numpy(dtype=np.float64)
    found = [
        difference(values[:, a], values[:, b], confidence=confidence, resolution=setting.resolution)
        for a, b in zip(first, second, strict=True)
    ]
    return {
        "n": [d.interval.n for d in found],
        "estimate": [d.interval.mean if d.interval.n else None for d in found],
        "low": [d.interval.low for d in found],
        "high": [d.interval.high for d in found],
        "p": [d.p for d in found],
        "correlation": [d.correlation for d in found],
    }


def _moments(
    values: NDArray[np.float64], known: NDArray[np.bool_], n: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance (n - 1) of every column over its known values; NaN where there are too few."""
    mean = np.where(known, values, 0.0).sum(axis=0) / n
    squares = np.where(known, values - mean, 0.0) ** 2
    return mean, np.where(n > 1, squares.sum(axis=0) / (n - 1.0), np.nan)


def _correlation(
    a: NDArray[np.float64], b: NDArray[np.float64], known: NDArray[np.bool_], n: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Pearson's r per column; NaN with fewer than three pairs or where one side does not vary."""
    (mean_a, var_a), (mean_b, var_b) = _moments(a, known, n), _moments(b, known, n)
    product = np.where(known, (a - mean_a) * (b - mean_b), 0.0).sum(axis=0) / (n - 1.0)
    flat = (_range(a, known) == 0) | (_range(b, known) == 0)
    return np.where((n > 2) & ~flat, np.clip(product / np.sqrt(var_a * var_b), -1.0, 1.0), np.nan)


def _range(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not values.size:
        return np.zeros(values.shape[1])
    return np.where(known, values, -np.inf).max(axis=0) - np.where(known, values, np.inf).min(axis=0)


def _verdict(estimate: float | None, p_adjusted: float | None, alpha: float, higher_is_better: bool) -> Verdict:
    if estimate is None or p_adjusted is None:
        return "cannot be tested"
    if p_adjusted > alpha:
        return "no difference shown"
    return "better" if (estimate > 0) == higher_is_better else "worse"


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
