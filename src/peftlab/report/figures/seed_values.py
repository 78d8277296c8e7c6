"""What every seed gave: a strip of single runs over a box."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from peftlab.analysis.findings import ArmSummary
from peftlab.analysis.words import is_share
from peftlab.report.figures._quality import axis_name, quality_limits
from peftlab.report.figures._rows import MOST_ROWS, left_out, rows_canvas
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import even_ticks

FEWEST = 5  #: runs below which quartiles say no more than the points


@dataclasses.dataclass(frozen=True)
class SeedValues(Figure):
    """Every run of every arm; with five or more, a box of their quartiles behind them."""

    name: ClassVar[str] = "seed_values"
    title: ClassVar[str] = "Every seed"
    asks: ClassVar[str] = "How far do seeds of one arm lie apart, and does one of them make the mean?"
    place: ClassVar[int] = 16

    def needs(self) -> tuple[str, ...]:
        return ("mean",)

    def draw(self, bundle: Bundle) -> Canvas:
        arms, plan = _arms(bundle)[:MOST_ROWS], bundle.findings.plan
        canvas, (axes,) = rows_canvas([a.label for a in arms])
        low, high = quality_limits(bundle)
        for row, arm in enumerate(arms):
            look, values = bundle.looks[arm.label], np.array([v for v in arm.values if v is not None])
            if values.size >= FEWEST:
                axes.boxplot(
                    values, orientation="horizontal", positions=[row], widths=0.62, showfliers=False, patch_artist=True,
                    whis=(0, 100), manage_ticks=False, zorder=1,
                    boxprops={"facecolor": look.color, "alpha": 0.22, "linewidth": 0}, medianprops={"color": look.color},
                    whiskerprops={"color": look.color, "linewidth": 1.2}, capprops={"linewidth": 0},
                )  # fmt: skip
            inside = values[(values >= low) & (values <= high)]
            axes.plot(inside, row + _spread(inside, high - low), look.marker, color=look.color, markersize=5.5, alpha=0.85,
                      markeredgecolor="white", markeredgewidth=0.6, zorder=3)  # fmt: skip
            if outside := values.size - inside.size:
                text = f"◂ {outside}" if (values < low).any() else f"{outside} ▸"
                place, side = (0.005, "left") if (values < low).any() else (0.995, "right")
                axes.annotate(text, (place, row), xycoords=("axes fraction", "data"), ha=side, va="center", fontsize=10,
                              color=look.color)  # fmt: skip
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(even_ticks(5))
        if is_share(plan.metric):
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        axes.set_xlabel(axis_name(plan.metric, plan.split))
        return canvas

    def caption(self, bundle: Bundle) -> str:
        arms = _arms(bundle)
        text = f"{bundle.findings.plan.metric.capitalize().replace('_', ' ')} of every run ({bundle.count})."
        if any(a.n >= FEWEST for a in arms):
            text += " Boxes: quartiles and median; lines: the smallest and the largest value. No interval is drawn."
        if any(a.imputed for a in arms):
            at = bundle.findings.plan.imputed_at
            text += f" Triangles at the edge: runs beyond the picture (diverged ones count at {at})."
        return text + left_out([a.label for a in arms], "analysis/results.csv")


def _arms(bundle: Bundle) -> list[ArmSummary]:
    return [a for a in bundle.arms if a.mean is not None]


def _spread(values: np.ndarray, width: float) -> np.ndarray:
    """Heights that keep points which nearly coincide apart, alternating about the row."""
    heights, order = np.zeros(values.size), np.argsort(values, kind="stable")
    taken = 0
    for before, now in itertools.pairwise(order):
        taken = taken + 1 if values[now] - values[before] < 0.012 * width else 0
        heights[now] = 0.11 * (-1) ** taken * ((taken + 1) // 2) if taken <= 4 else 0.0
    return heights
