"""How steadily a run went: a score of its training loss, and when early stopping would have ended it. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_LINES = 5
LINES_PER_WINDOW = 10  #: the window of the moving average is a tenth of the lines


def smoothed(losses: ArrayLike) -> NDArray[np.float64]:
    """Moving average over w = max(1, n // 10) neighbouring lines [n - w + 1]."""
    values = np.asarray(losses, dtype=np.float64).ravel()
    width = max(1, values.size // LINES_PER_WINDOW)
    return np.convolve(values, np.full(width, 1 / width), mode="valid")


def stability(losses: ArrayLike) -> float | None:
    """Share of the loss's movement that went down: S = 1 - sum max(0, d_i) / sum |d_i|, in [0, 1].

    d_i are the differences of the smoothed training loss, one line per hundredth of the run. S = (1 + (l_1 - l_n) / V) / 2 with
    V the total variation. 1: it never rose; 0: it never fell; 1/2: it ends where it began, as noise on a plateau does. A
    loss that is not finite has S = 0. None below five lines, or where nothing moved. There is no standard definition (none was
    found); this one needs no threshold and does not change with the scale of the loss.
    """
    values = np.asarray(losses, dtype=np.float64).ravel()
    if not np.isfinite(values).all():
        return 0.0
    if values.size < LEAST_LINES:
        return None
    moves = np.diff(smoothed(values))
    variation = float(np.abs(moves).sum())
    return 1 - float(moves[moves > 0].sum()) / variation if variation > 0 else None


def stops_at(
    values: Sequence[float | None], patience: int, *, higher_is_better: bool = True, min_delta: float = 0.0
) -> int | None:
    """Which evaluation (from 0) would have been the last: the first to end ``patience`` in a row no better than the best.

    The rule of the training loop (``train.early_stopping``), and UP_s of Prechelt (1998, "Early stopping - but when?") but for
    counting from the best value instead of the last. None where it would never have fired.
    """
    best, since = -math.inf, 0
    for number, value in enumerate(values):
        score = -math.inf if value is None or not math.isfinite(value) else value if higher_is_better else -value
        if number == 0 or score > best + min_delta:
            best, since = score, 0
        else:
            since += 1
        if since >= patience:
            return number
    return None


def best_of(values: Sequence[float | None], *, higher_is_better: bool = True) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return (max(known) if higher_is_better else min(known)) if known else None
