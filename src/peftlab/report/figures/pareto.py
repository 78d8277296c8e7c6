"""Quality against each cost, with the front and how sure it is."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from peftlab.analysis.pareto import on_front
from peftlab.report.figures._quality import axis_name, draw_baseline, quality_limits, scale_quality
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, WIDE_IN, legend_below, log_counts

COSTS = {"trainable": "trainable parameters", "measured_peak_mb": "peak memory (MB)", "train_s": "training time (s)"}


@dataclasses.dataclass(frozen=True)
class Pareto(Figure):
    """Quality against trainable parameters, measured peak memory and training time."""

    name: ClassVar[str] = "pareto"
    title: ClassVar[str] = "What quality costs"
    place: ClassVar[int] = 20
    panels: ClassVar[tuple[str, ...]] = tuple(COSTS)

    def needs(self) -> tuple[str, ...]:
        return ("mean", "trainable")

    def draw(self, bundle: Bundle) -> Canvas:
        costs = [c for c in COSTS if any(getattr(a, c) is not None for a in bundle.arms)]
        width = WIDE_IN if len(costs) > 1 else COLUMN_WIDTH_IN
        figure = Canvas(figsize=(width, 3.7), layout="constrained")
        panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        limits = quality_limits(bundle, seeds=False)
        for panel, cost in zip(panels, costs, strict=True):
            _draw_panel(panel, cost, bundle, limits)
        panels[0].set_ylabel(axis_name(bundle.findings.plan.metric, bundle.findings.plan.split))
        scale_quality(panels[0], bundle.findings.plan.metric)
        legend_below(figure, [bundle.looks[a.label] for a in bundle.arms if a.mean is not None])
        return figure

    def caption(self, bundle: Bundle) -> str:
        return (
            "Mean quality against three costs. Grey steps: the front of arms that no other arm beats in both. Filled: on the "
            "front in at least half of the resamples of the seeds; hollow: less often. Memory and time were measured on the "
            "machine named below."
        )


def _draw_panel(axes: Axes, cost: str, bundle: Bundle, limits: tuple[float, float]) -> None:
    arms = [a for a in bundle.arms if a.mean is not None and getattr(a, cost) is not None]
    higher = bundle.findings.plan.higher_is_better
    draw_baseline(axes, bundle, words=False)
    x = np.array([getattr(a, cost) for a in arms], dtype=float)
    y = np.array([a.mean for a in arms], dtype=float)
    front = np.flatnonzero(on_front(y if higher else -y, x))
    front = front[np.argsort(x[front], kind="stable")]
    axes.step(x[front], y[front], where="post", color="#7F7F7F", linewidth=2.2, alpha=0.5, zorder=1.5)
    low, high = limits
    for arm, cost_value, value in zip(arms, x, y, strict=True):
        look, sure = bundle.looks[arm.label], arm.front.get(cost, 0.0) >= 0.5
        if low <= value <= high:
            axes.plot(
                cost_value, value, look.marker, color=look.color, markersize=8.5, markeredgewidth=1.8,
                markerfacecolor=look.color if sure else "none", zorder=3,
            )  # fmt: skip
            continue
        down = value < low
        axes.annotate(
            "", (cost_value, low if down else high), xytext=(0, 18 if down else -18), textcoords="offset points",
            arrowprops={"arrowstyle": "-|>", "color": look.color, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    if cost == "trainable":
        log_counts(axes, list(x))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.1)
    axes.set_ylim(low, high)
    axes.set_xlabel(COSTS[cost])
