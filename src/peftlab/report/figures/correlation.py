"""What goes together: validation with test, and arms with the baseline over the seeds."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from peftlab.analysis.arms import Scatter
from peftlab.analysis.words import is_share
from peftlab.report.figures._quality import axis_name
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, WIDE_IN, even_ticks, legend_below


@dataclasses.dataclass(frozen=True)
class Correlation(Figure):
    """Scatters of single runs: the judged split against validation, and every arm against the baseline's same seed."""

    name: ClassVar[str] = "correlation"
    title: ClassVar[str] = "What goes together"
    asks: ClassVar[str] = "Does validation stand for test, and is pairing by seed worth it?"
    place: ClassVar[int] = 60

    def needs(self) -> tuple[str, ...]:
        return ("compared.scatters",)

    def draw(self, bundle: Bundle) -> Canvas:
        scatters = bundle.compared.scatters if bundle.compared else []
        width = WIDE_IN if len(scatters) > 1 else COLUMN_WIDTH_IN
        canvas = Canvas(figsize=(width, 4.1), layout="constrained")
        plan, panels = bundle.findings.plan, canvas.subplots(1, len(scatters), squeeze=False)[0]
        for panel, scatter in zip(panels, scatters, strict=True):
            _points(panel, scatter, bundle)
            base = plan.baseline or ""
            panel.set_xlabel(
                axis_name(plan.metric, "validation") if scatter.kind == "validation" else f"{base}, same seed{_unit(plan.metric)}"
            )
            panel.set_ylabel(
                axis_name(plan.metric, plan.split) if scatter.kind == "validation" else f"each arm, same seed{_unit(plan.metric)}"
            )
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_locator(even_ticks(4))
                if is_share(plan.metric):
                    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        drawn = dict.fromkeys(arm for scatter in scatters for arm in scatter.arm)
        legend_below(canvas, [bundle.looks[a.label] for a in bundle.arms if a.label in drawn])
        return canvas

    def caption(self, bundle: Bundle) -> str:
        texts = []
        for scatter in bundle.compared.scatters if bundle.compared else []:
            if scatter.kind == "validation":
                split = bundle.findings.plan.split
                texts.append(
                    f"Every finished run, {split} against validation (n = {len(scatter.x)}; diagonal: equal); between arms "
                    f"{_words(scatter.between, 'arms')}, within arms {_words(scatter.within, 'runs')}."
                )
            else:
                texts.append(
                    f"Every arm against {bundle.findings.plan.baseline} of the same seed (n = {len(scatter.x)} pairs; line: "
                    f"equal); within arms {_words(scatter.within, 'pairs')}: only what goes together makes pairing worth its "
                    "degree of freedom."
                )
        low = (
            f" Interval between arms: {bundle.percent}, Fisher's transformation; within arms there is none, as arms share seeds."
        )
        far = " Runs far from all others are cut off." if any(a.imputed for a in bundle.arms) else ""
        return " ".join(texts) + low + far


def _unit(metric: str) -> str:
    return " (%)" if is_share(metric) else ""


def _points(axes: Axes, scatter: Scatter, bundle: Bundle) -> None:
    """All points of a look at once; the frame holds all but the farthest out, which diverged runs are."""
    x, y, arms = np.array(scatter.x), np.array(scatter.y), np.array(scatter.arm)
    for arm in dict.fromkeys(scatter.arm):
        look, mine = bundle.looks[arm], arms == arm
        axes.plot(x[mine], y[mine], look.marker, color=look.color, markersize=5.5, alpha=0.8, markeredgecolor="white",
                  markeredgewidth=0.5, zorder=3, linestyle="none")  # fmt: skip
    imputed = {a.label for a in bundle.arms if a.imputed}
    sound = ~np.isin(arms, list(imputed)) if imputed and not imputed >= set(arms) else np.ones(x.size, dtype=bool)
    for values, limit in ((x[sound], axes.set_xlim), (y[sound], axes.set_ylim)):
        room = 0.06 * float(np.ptp(values)) or 0.01
        limit(values.min() - room, values.max() + room)
    middle = float(x[sound].mean())
    axes.axline((middle, middle), slope=1, color="#7F7F7F", linewidth=1.2, zorder=1)


def _words(found: tuple[float, tuple[float, float] | None, int] | None, unit: str) -> str:
    if found is None:
        return "r is not defined"
    r, interval, n = found
    ends = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    return f"r = {r:.2f}{ends} ({n} {unit})".replace("-", "−")
