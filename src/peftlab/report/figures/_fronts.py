"""Quality against a cost, with the front of arms that no other arm beats in both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from peftlab.analysis.pareto import on_front
from peftlab.report.figures._quality import draw_baseline
from peftlab.report.figures.contract import Bundle

FRONT = "grey steps: the front of arms that no other arm beats in both"
SURE = "Filled: on the front in at least half of 2,000 resamples of the seeds; hollow: less often."


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """An arm's mean at its cost; ``front``: probability over seeds that it is on the front."""

    label: str
    cost: float
    mean: float
    front: float


def draw_front(axes: Axes, points: Sequence[Point], bundle: Bundle, limits: tuple[float, float]) -> None:
    """Points beyond the limits, which diverged runs make, become arrows at the edge."""
    higher = bundle.findings.plan.higher_is_better
    draw_baseline(axes, bundle, words=False)
    x, y = (np.array([getattr(p, name) for p in points], dtype=float) for name in ("cost", "mean"))
    front = np.flatnonzero(on_front(y if higher else -y, x))
    front = front[np.argsort(x[front], kind="stable")]
    axes.step(x[front], y[front], where="post", color="#7F7F7F", linewidth=2.2, alpha=0.5, zorder=1.5)
    low, high = limits
    for point in points:
        look = bundle.looks[point.label]
        if low <= point.mean <= high:
            axes.plot(
                point.cost, point.mean, look.marker, color=look.color, markersize=8.5, markeredgewidth=1.8,
                markerfacecolor=look.color if point.front >= 0.5 else "none", zorder=3,
            )  # fmt: skip
            continue
        down = point.mean < low
        axes.annotate(
            "", (point.cost, low if down else high), xytext=(0, 18 if down else -18), textcoords="offset points",
            arrowprops={"arrowstyle": "-|>", "color": look.color, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    axes.margins(x=0.1)
    axes.set_ylim(low, high)
