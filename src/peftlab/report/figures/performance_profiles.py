"""How often an arm gets beyond each level, not only its mean."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from peftlab.analysis.words import is_share
from peftlab.report.figures._quality import axis_name, quality_limits
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, even_ticks, legend_below

MOST_BANDS = 6  #: arms; bands of more hide one another


@dataclasses.dataclass(frozen=True)
class PerformanceProfiles(Figure):
    """Share of an arm's runs beyond every level of the metric, with bootstrap bands."""

    name: ClassVar[str] = "performance_profiles"
    title: ClassVar[str] = "Performance profiles"
    asks: ClassVar[str] = "How often does an arm get beyond a level, not only on average?"
    place: ClassVar[int] = 19

    def needs(self) -> tuple[str, ...]:
        return ("compared.profiles",)

    def absent(self, bundle: Bundle) -> str:
        if missing := Figure.absent(self, bundle):
            return missing
        known = bundle.compared is not None and bundle.compared.profiles.profiles
        return "" if known else "there are no two to forty arms with three seeds that differ"

    def draw(self, bundle: Bundle) -> Canvas:
        assert bundle.compared is not None
        found, plan = bundle.compared.profiles, bundle.findings.plan
        canvas = Canvas(figsize=(COLUMN_WIDTH_IN, 4.2), layout="constrained")
        axes, levels = canvas.add_subplot(), np.array(found.levels)
        for profile in found.profiles:
            look = bundle.looks[profile.arm]
            axes.step(levels, profile.share, where="post", color=look.color, linestyle=look.dash, linewidth=1.8, zorder=3)
            if len(found.profiles) <= MOST_BANDS:
                axes.fill_between(
                    levels, profile.low, profile.high, step="post", color=look.color, alpha=0.12, linewidth=0, zorder=2
                )
        low, high = quality_limits(bundle)
        axes.set_xlim(max(low, levels[0]), min(high, levels[-1]))
        axes.set_ylim(-0.02, 1.04)
        axes.xaxis.set_major_locator(even_ticks(5))
        if is_share(plan.metric):
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        axes.set_xlabel(f"level τ: {axis_name(plan.metric, plan.split)}")
        axes.set_ylabel(f"runs {'above' if plan.higher_is_better else 'below'} τ (%)")
        legend_below(canvas, [bundle.looks[p.arm] for p in found.profiles], lines=True)
        return canvas

    def caption(self, bundle: Bundle) -> str:
        profiles = bundle.compared.profiles.profiles if bundle.compared else []
        runs = sorted({p.runs for p in profiles}) or [0]
        number = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
        plan = bundle.findings.plan
        better = "above" if plan.higher_is_better else "below"
        text = f"Share of an arm's seeds (n = {number}) with {plan.metric} {better} each level τ: the higher, the better."
        if len(profiles) <= MOST_BANDS:
            few = "; from so few seeds it is too narrow" if runs[0] < 10 else ""
            text += f" Bands: pointwise {bundle.percent} bootstrap over seeds{few}."
        else:
            text += f" Bands of more than {MOST_BANDS} arms are left out; they are in analysis/arms.json."
        return text + f" Diverged runs count at {plan.imputed_at}." * any(a.imputed for a in bundle.arms)
