"""Quality against each cost, with the front and how sure it is."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from peftlab.report.figures._fronts import FRONT, SURE, Point, draw_front
from peftlab.report.figures._quality import axis_name, quality_limits, scale_quality
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, WIDE_IN, even_ticks, legend_below, log_counts

COSTS = {"trainable": "trainable parameters", "measured_peak_mb": "peak memory (MB)", "train_s": "training time (s)"}


@dataclasses.dataclass(frozen=True)
class Pareto(Figure):
    """Quality against trainable parameters, measured peak memory and training time."""

    name: ClassVar[str] = "pareto"
    title: ClassVar[str] = "What quality costs"
    asks: ClassVar[str] = "Which arms does no other beat in both quality and a cost, and how sure is that?"
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
        costs = sum(any(getattr(a, c) is not None for a in bundle.arms) for c in COSTS)
        number = {1: "one cost", 2: "two costs", 3: "three costs"}[costs]
        text = f"Mean {bundle.findings.plan.metric} against {number} ({bundle.count}); {FRONT}. {SURE}"
        return f"{text} Memory and time were measured on the machine named below."


def _draw_panel(axes: Axes, cost: str, bundle: Bundle, limits: tuple[float, float]) -> None:
    points = [
        Point(a.label, float(value), a.mean, a.front.get(cost, 0.0))
        for a in bundle.arms
        if a.mean is not None and (value := getattr(a, cost)) is not None
    ]
    draw_front(axes, points, bundle, limits)
    if cost == "trainable":
        log_counts(axes, [p.cost for p in points])
    else:
        axes.xaxis.set_major_locator(even_ticks(4))
    axes.set_xlabel(COSTS[cost])
