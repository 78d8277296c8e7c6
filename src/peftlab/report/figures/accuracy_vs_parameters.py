"""The main figure: what every arm reaches, against how many parameters it trains."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.transforms import ScaledTranslation

from peftlab.analysis.findings import ArmSummary
from peftlab.report.figures._quality import axis_name, draw_baseline, quality_limits, scale_quality
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, MOST_LABELS, Look, legend_below, log_counts


@dataclasses.dataclass(frozen=True)
class AccuracyVsParameters(Figure):
    """Mean, interval and every seed against trainable parameters (logarithmic)."""

    name: ClassVar[str] = "accuracy_vs_parameters"
    title: ClassVar[str] = "Quality against trainable parameters"
    asks: ClassVar[str] = "How few trainable parameters reach which quality?"
    place: ClassVar[int] = 10
    panels: ClassVar[tuple[str, ...]] = ("main",)

    def needs(self) -> tuple[str, ...]:
        return ("trainable", "mean")

    def draw(self, bundle: Bundle) -> Canvas:
        figure = Canvas(figsize=(COLUMN_WIDTH_IN, 4.4), layout="constrained")
        axes = figure.add_subplot()
        plan = bundle.findings.plan
        low, high = quality_limits(bundle)
        draw_baseline(axes, bundle)
        arms = [a for a in bundle.arms if a.trainable is not None and a.mean is not None]
        for arm in arms:
            _draw_arm(axes, arm, bundle.looks[arm.label], bundle, low, high)
        log_counts(axes, [a.trainable for a in arms if a.trainable is not None])
        axes.margins(x=0.08)
        axes.set_ylim(low, high)
        scale_quality(axes, plan.metric)
        axes.set_xlabel("trainable parameters")
        axes.set_ylabel(axis_name(plan.metric, plan.split))
        legend_below(figure, [bundle.looks[a.label] for a in arms])
        return figure

    def caption(self, bundle: Bundle) -> str:
        plan = bundle.findings.plan
        text = f"Mean {plan.metric} of every arm ({bundle.count}); bars: {bundle.interval}"
        text += "; light points are single runs." if len(bundle.arms) <= MOST_LABELS else "."
        if bundle.baseline:
            text += f" Solid line: mean of {bundle.baseline.label}; dashed: the margin below which an arm is not acceptable."
        if any(a.imputed for a in bundle.arms):
            at = bundle.findings.plan.imputed_at
            text += f" Arrows at the edge: diverged runs, counted at {at}, and means that they pull out of the picture."
        return text if plan.higher_is_better else text.replace("below which", "above which")


def _draw_arm(axes: Axes, arm: ArmSummary, look: Look, bundle: Bundle, low: float, high: float) -> None:
    assert arm.trainable is not None and arm.mean is not None
    x, values = arm.trainable, np.array([v for v in arm.values if v is not None])
    inside = values[(values >= low) & (values <= high)] if len(bundle.arms) <= MOST_LABELS else []  # else a cloud hides the means
    beside = axes.transData + ScaledTranslation(-8 / 72, 0, axes.figure.dpi_scale_trans)  # 8 points left, or the mean hides them
    if len(inside):
        axes.plot(
        [x] * len(inside), inside, look.marker, color=look.color, alpha=0.35, markersize=4.5, markeredgewidth=0, zorder=2,
        transform=beside,
    )  # fmt: skip
    if low <= arm.mean <= high:
        ends = None if arm.interval is None else [[arm.mean - arm.interval[0]], [arm.interval[1] - arm.mean]]
        axes.errorbar(
            [x], [arm.mean], yerr=ends, color=look.color, marker=look.marker, markersize=8, markeredgecolor="white",
            markeredgewidth=0.8, elinewidth=1.8, zorder=3,
        )  # fmt: skip
        outside = values[(values < low) | (values > high)]
    else:
        outside = [arm.mean]
    for value in list(outside)[:1]:
        _arrow(axes, x, low if value < low else high, value < low, look.color)


def _arrow(axes: Axes, x: float, edge: float, down: bool, color: str) -> None:
    axes.annotate(
        "", (x, edge), xytext=(0, 18 if down else -18), textcoords="offset points",
        arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}, annotation_clip=False,
    )  # fmt: skip
