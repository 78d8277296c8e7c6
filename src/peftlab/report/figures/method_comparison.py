"""Which arm is better than the baseline, and by how much."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from peftlab.analysis.findings import ArmSummary, Finding
from peftlab.analysis.words import is_share, show
from peftlab.report.figures._quality import axis_name, difference_name, margin_limit, tick
from peftlab.report.figures._rows import MOST_ROWS, ends, left_out, rows_canvas
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import DARK_LINE, even_ticks


@dataclasses.dataclass(frozen=True)
class MethodComparison(Figure):
    """A bar per arm: its paired difference from the baseline, which is a bar's honest zero; without a baseline, means."""

    name: ClassVar[str] = "method_comparison"
    title: ClassVar[str] = "Arms compared"
    asks: ClassVar[str] = "Which arm is better or worse than the baseline, by how much, and is it shown?"
    place: ClassVar[int] = 15

    def needs(self) -> tuple[str, ...]:
        return ("mean",)

    def absent(self, bundle: Bundle) -> str:
        few = sum(a.mean is not None for a in bundle.arms) < 2
        return Figure.absent(self, bundle) or ("there are no two arms with a value" if few else "")

    def draw(self, bundle: Bundle) -> Canvas:
        arms = _arms(bundle)[:MOST_ROWS]
        canvas, (axes,) = rows_canvas([a.label for a in arms])
        differences = bundle.differences
        if differences:
            _compared(axes, arms, differences, bundle)
        else:
            _means(axes, arms, bundle)
        return canvas

    def caption(self, bundle: Bundle) -> str:
        arms, plan = _arms(bundle), bundle.findings.plan
        rest = left_out([a.label for a in arms], "tables/")
        if not bundle.differences:
            return f"Mean {plan.metric} of every arm ({bundle.count}); line: {bundle.interval}.{rest}"
        pairs = sorted({f.n for f in bundle.differences.values()})
        number = str(pairs[0]) if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
        text = (
            f"Mean difference from {bundle.baseline.label if bundle.baseline else ''} over the same seeds (n = {number} pairs), "
            f"sorted; line: {bundle.percent} {plan.interval_word} of the difference, not adjusted. Solid bars: a difference is "
            f"shown at adjusted p ≤ {plan.alpha:.2g}; light bars: it is not, which is no evidence of equality."
        )
        beyond = " Arrows: beyond the picture." if any(a.imputed for a in arms) else ""
        return f"{text} Dashed, where in sight: the margin. Right: the arm's mean.{beyond}{rest}"


def _arms(bundle: Bundle) -> list[ArmSummary]:
    """With a baseline the best first, else as in the study."""
    differences, sign = bundle.differences, -1 if bundle.findings.plan.higher_is_better else 1
    if not differences:
        return [a for a in bundle.arms if a.mean is not None]
    known = [a for a in bundle.arms if a.label in differences]
    return sorted(known, key=lambda a: sign * (differences[a.label].estimate or 0.0))


def _compared(axes: Axes, arms: list[ArmSummary], differences: dict[str, Finding], bundle: Bundle) -> None:
    metric, base, limit = bundle.findings.plan.metric, bundle.baseline, margin_limit(bundle)
    sound = [differences[a.label] for a in arms if not a.imputed] or [differences[a.label] for a in arms]
    values = [v for f in sound for v in (f.estimate, *(f.interval or ())) if v is not None] + [0.0]
    room = 0.04 * (max(values) - min(values)) or 0.01
    low, high = min(values) - room, max(values) + room
    axes.axvline(0, color=DARK_LINE, linewidth=1.2, zorder=4)
    for row, arm in enumerate(arms):
        found, look = differences[arm.label], bundle.looks[arm.label]
        estimate = found.estimate or 0.0
        shown = found.verdict in ("better", "worse")
        axes.barh(row, estimate, 0.62, color=look.color, alpha=1.0 if shown else 0.35, zorder=2)
        axes.errorbar(estimate, row, xerr=ends(estimate, found.interval), color=DARK_LINE, linewidth=1.6, capsize=3, zorder=3)
        axes.annotate(show(arm.mean, metric), (1, row), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=10.5)  # fmt: skip
        if not low <= estimate <= high:
            edge, turn = (low, 1) if estimate < low else (high, -1)
            axes.annotate("", (edge, row), xytext=(16 * turn, 0), textcoords="offset points", zorder=5,
                          arrowprops={"arrowstyle": "-|>", "color": DARK_LINE, "linewidth": 1.6})  # fmt: skip
    if base is not None and base.mean is not None and limit is not None and low <= limit - base.mean <= high:
        axes.axvline(limit - base.mean, color="#7F7F7F", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(even_ticks(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, metric)))
    axes.set_xlabel(difference_name(metric, base.label if base else None))
    axes.annotate("mean", (1, 1), xycoords="axes fraction", xytext=(6, 1), textcoords="offset points", va="bottom", fontsize=10.5)


def _means(axes: Axes, arms: list[ArmSummary], bundle: Bundle) -> None:
    """Bars of levels would have to start at zero and hide every difference: points instead."""
    plan = bundle.findings.plan
    for row, arm in enumerate(arms):
        look, mean = bundle.looks[arm.label], arm.mean or 0.0
        axes.errorbar(mean, row, xerr=ends(mean, arm.interval), color=look.color, marker=look.marker, markersize=7, capsize=3)
    axes.xaxis.set_major_locator(even_ticks(5))
    if is_share(plan.metric):
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.set_xlabel(axis_name(plan.metric, plan.split))
