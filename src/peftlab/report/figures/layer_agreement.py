"""Do the seeds agree on which layers matter?"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure as Canvas

from peftlab.analysis.layers import Agreement
from peftlab.analysis.words import plural
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, MOST_LABELS, legend_below


@dataclasses.dataclass(frozen=True)
class LayerAgreement(Figure):
    """Kendall's tau between the maps of two seeds, per metric and arm, with its interval."""

    name: ClassVar[str] = "layer_agreement"
    title: ClassVar[str] = "Agreement between seeds"
    asks: ClassVar[str] = "Do seeds agree on which layers matter?"
    place: ClassVar[int] = 53
    section: ClassVar = "layers"

    def needs(self) -> tuple[str, ...]:
        return ("layers",)

    def absent(self, bundle: Bundle) -> str:
        return Figure.absent(self, bundle) or ("" if _shown(bundle) else "there are no two seeds to compare")

    def draw(self, bundle: Bundle) -> Canvas:
        found = _drawn(bundle)
        metrics = list(dict.fromkeys(a.metric for a in found))
        arms = list(dict.fromkeys(a.arm for a in found))
        height = max(0.42, 0.13 * len(arms) + 0.2)
        figure = Canvas(figsize=(COLUMN_WIDTH_IN, height * len(metrics) + 1.5), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="#7F7F7F", linewidth=1.2, zorder=1)
        offsets = dict(zip(arms, np.linspace(-0.3, 0.3, len(arms)) if len(arms) > 1 else [0.0], strict=True))
        for a in found:
            look, y = bundle.looks[a.arm], metrics.index(a.metric) + offsets[a.arm]
            if a.interval is not None:
                axes.plot(a.interval, (y, y), color=look.color, linewidth=1.6, zorder=2)
            filled = look.color if a.interval is not None else "none"
            axes.plot(a.tau, y, marker=look.marker, color=look.color, markerfacecolor=filled, markersize=6, zorder=3)
        axes.set_yticks(range(len(metrics)), [_name(m) for m in metrics])
        axes.set_ylim(len(metrics) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(min(-0.1, min(min(a.interval or (a.tau,)) for a in found) - 0.05), 1.02)
        axes.set_xlabel("Kendall's τ between two seeds")
        legend_below(figure, [bundle.looks[arm] for arm in arms])
        return figure

    def caption(self, bundle: Bundle) -> str:
        found, left = _drawn(bundle), len({a.arm for a in _shown(bundle)}) - MOST_LABELS
        seeds = sorted({a.n for a in found})
        text = (
            "1: two seeds put the layers in the same order; 0: no more alike than chance. Mean over all pairs of "
            f"{_range(seeds)} seeds, {bundle.percent} interval by jackknife over seeds; hollow: too few seeds for one."
        )
        return text + (f" Not drawn, in analysis/importance.json: {plural(left, 'arm')}." if left > 0 else "")


def _shown(bundle: Bundle) -> list[Agreement]:
    if bundle.layers is None:
        return []
    return [a for a in bundle.layers.agreement if a.kind == "seeds" and a.arm in bundle.looks]


def _drawn(bundle: Bundle) -> list[Agreement]:
    """Of the first arms: rows of more would be taller than a page."""
    found = _shown(bundle)
    arms = set(list(dict.fromkeys(a.arm for a in found))[:MOST_LABELS])
    return [a for a in found if a.arm in arms]


def _name(metric: str) -> str:
    return "final rank" if metric == "rank" else metric.replace("_", " ")


def _range(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
