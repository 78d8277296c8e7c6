"""Do higher ranks learn faster?"""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from peftlab.analysis.arms import Convergence
from peftlab.analysis.words import show
from peftlab.report.figures._quality import axis_name, name_line, scale_quality
from peftlab.report.figures._rows import ends
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import DASHES, MARKERS, WIDE_IN, entries_below, even_ticks, short

MOST = 4  #: families


@dataclasses.dataclass(frozen=True)
class RankConvergence(Figure):
    """Left: validation curves by rank, of one family; right: steps to the goal against rank, a line per family."""

    name: ClassVar[str] = "rank_convergence"
    title: ClassVar[str] = "Convergence by rank"
    asks: ClassVar[str] = "Do higher ranks learn faster?"
    place: ClassVar[int] = 32

    def needs(self) -> tuple[str, ...]:
        return ("compared.convergence",)

    def draw(self, bundle: Bundle) -> Canvas:
        families = _families(bundle)
        canvas = Canvas(figsize=(WIDE_IN, 3.9), layout="constrained")
        left, right = canvas.subplots(1, 2)
        first = next(iter(families.values()))
        handles = _curves(left, first, bundle)
        _arrivals(right, dict(list(families.items())[:MOST]))
        entries_below(canvas, handles, handle_length=2.6)
        return canvas

    def caption(self, bundle: Bundle) -> str:
        families = _families(bundle)
        name, members = next(iter(families.items()))
        metric = bundle.findings.plan.metric
        runs = sorted({m.runs for m in members})
        number = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
        goals = ", ".join(f"{show(m[0].goal, metric)} ({family})" for family, m in list(families.items())[:MOST])
        text = (
            f"Left: validation {metric} of {name} by rank, mean over the runs that did not diverge (n = {number} a rank). Right: "
            f"steps to the goal, 95 % of the way from chance to the best of all ranks: {goals}; mean and {bundle.percent} t "
            "interval over the runs that reached it; hollow: some did not, so that the mean is too low."
        )
        left = len(families) - MOST
        return text + (f" Not drawn, in analysis/arms.json: {left} more." if left > 0 else "")


def _families(bundle: Bundle) -> dict[str, list[Convergence]]:
    """Family -> its ranks, those with the most first; two of one name are told apart by their first arm."""
    found: dict[tuple[str, float], list[Convergence]] = {}
    for entry in bundle.compared.convergence if bundle.compared else []:
        found.setdefault((entry.family, entry.goal), []).append(entry)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    names = [family for (family, _), _ in ordered]
    return {(family if names.count(family) == 1 else short(members[0].arm, 30)): members for (family, _), members in ordered}


def _curves(axes: Axes, members: list[Convergence], bundle: Bundle) -> list[Line2D]:
    metric = bundle.findings.plan.metric
    sound = bundle.curves[(bundle.curves["split"] == "validation") & ~bundle.curves["diverged"]]
    colors, handles = colormaps["viridis"](np.linspace(0.0, 0.85, len(members))), []
    for place, member in enumerate(members):
        over = sound[sound["label"] == member.arm].groupby("step")[metric].agg(["mean", "count"])
        over = over[over["count"] >= 0.5 * over["count"].max()]
        look = {"color": tuple(colors[place]), "linestyle": DASHES[place % len(DASHES)]}
        axes.plot(over.index, over["mean"], **look)
        handles.append(Line2D([], [], label=f"rank {member.rank}", **look))
    axes.axhline(members[0].goal, color="#7F7F7F", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    name_line(axes, members[0].goal, "goal")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(axis_name(metric, "validation"))
    axes.xaxis.set_major_locator(even_ticks(4, integer=True))
    scale_quality(axes, metric)
    return handles


def _arrivals(axes: Axes, families: dict[str, list[Convergence]]) -> None:
    ranks = sorted({m.rank for members in families.values() for m in members})
    greys = colormaps["viridis"](np.linspace(0.1, 0.7, len(families)))
    for place, (family, members) in enumerate(families.items()):
        color, marker = tuple(greys[place]), MARKERS[place % len(MARKERS)]
        known = [(m, m.steps) for m in members if m.steps is not None]
        axes.plot([m.rank for m, _ in known], [s.mean for _, s in known], color=color, linewidth=1.2, label=short(family, 20))
        for member, steps in known:
            axes.errorbar(
                member.rank, steps.mean, yerr=ends(steps.mean, steps.interval), color=color, marker=marker, markersize=7,
                markerfacecolor=color if member.reached == member.runs else "white", markeredgewidth=1.5, zorder=3,
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ranks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rank")
    axes.set_ylabel("steps to the goal")
    if len(families) > 1:
        axes.legend(fontsize=9.5)
