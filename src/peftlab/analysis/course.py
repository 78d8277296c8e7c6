"""How an arm's quantizer and its updates went through training, over layers and runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from peftlab.analysis.means import mean_of
from peftlab.analysis.quantization import Course, Point
from peftlab.analysis.quantized import QuantizedRun

_EDGES = (0.1, 0.9)  #: quantiles over layers


def course_of(arm: Sequence[QuantizedRun], confidence: float, folds: int) -> Course | None:
    """None where the quantizer recorded nothing."""
    runs = [run for run in arm if run.history.lines]
    if not runs:
        return None
    first, histories = runs[0], [run.history for run in runs]
    return Course(
        arm=first.arm, task=first.task, backbone=first.backbone, treatment=first.treatment, scheme=first.scheme,
        schedule=first.history.schedule,
        full_from_step=first.history.full_from_step or 0,
        float_weights_mb=first.history.float_weights_mb or 0.0,
        points=_points(runs),
        balance_start=mean_of([history.start for history in histories], confidence, folds),
        balance_end=mean_of([history.end for history in histories], confidence, folds),
        swamped=mean_of([history.swamped for history in histories], confidence, folds),
        runs=len(runs),
    )  # fmt: skip


def _points(runs: Sequence[QuantizedRun]) -> list[Point]:
    """At the steps that every run recorded (one that diverged stopped early), in order."""
    tables = [{line.step: line for line in run.history.lines} for run in runs]
    whole = [table for table in tables if max(table) == max(map(max, tables))]
    points = []
    for step in sorted(set.intersection(*(set(table) for table in whole))):
        lines = [table[step] for table in whole]
        medians = [median for line in lines if (median := line.median) is not None]
        layers = [value for line in lines for value in line.balance]
        low, high = np.quantile(layers, _EDGES) if layers else (None, None)
        points.append(
            Point(
                step=step,
                rho=lines[0].rho,
                balance=float(np.mean(medians)) if medians else None,
                low=None if low is None else float(low),
                high=None if high is None else float(high),
            )
        )
    return points
