"""When during training is it clear which layers matter?"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure as Canvas

from peftlab.analysis.agreement import FEWEST_SEEDS
from peftlab.analysis.layers import Agreement
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import MOST_LABELS, WIDE_IN, even_ticks, legend_below

COLUMNS = 3


@dataclasses.dataclass(frozen=True)
class LayerStability(Figure):
    """Kendall's tau of each snapshot with the last one of its run: a panel per metric, a line per arm."""

    name: ClassVar[str] = "layer_stability"
    title: ClassVar[str] = "Stability over training"
    asks: ClassVar[str] = "From which step on is it clear which layers matter?"
    place: ClassVar[int] = 54
    section: ClassVar = "layers"

    def needs(self) -> tuple[str, ...]:
        return ("layers",)

    def absent(self, bundle: Bundle) -> str:
        return Figure.absent(self, bundle) or ("" if _lines(bundle) else "there are no two snapshots to compare")

    def draw(self, bundle: Bundle) -> Canvas:
        lines = _lines(bundle)
        metrics = list(dict.fromkeys(metric for metric, _ in lines))
        columns = min(COLUMNS, len(metrics))
        rows = -(-len(metrics) // columns)
        figure = Canvas(figsize=(WIDE_IN, 2.3 * rows + 0.7), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for panel, metric in zip(panels, metrics, strict=False):
            for (name, arm), points in lines.items():
                if name == metric:
                    look, steps = bundle.looks[arm], [a.step for a in points]
                    panel.plot(steps, [a.tau for a in points], color=look.color, linestyle=look.dash, zorder=3)
                    if len(bundle.arms) > MOST_LABELS:
                        continue  # bands of many arms hide one another
                    ends = np.array([a.interval or (np.nan, np.nan) for a in points])
                    panel.fill_between(steps, ends[:, 0], ends[:, 1], color=look.color, alpha=0.13, linewidth=0, zorder=2)
            panel.axhline(0, color="#7F7F7F", linewidth=1.0, zorder=1)
            panel.set_title(metric.replace("_", " "), loc="left", fontsize=11)
            panel.xaxis.set_major_locator(even_ticks(4, integer=True))
            panel.tick_params(labelbottom=True)
        for panel in panels[len(metrics) :]:
            panel.set_visible(False)
        lowest = min(a.tau for points in lines.values() for a in points)
        panels[0].set_ylim(min(-0.03, lowest - 0.1), 1.03)  # bands of few seeds may reach below
        for panel in panels[max(0, len(metrics) - columns) : len(metrics)]:
            panel.set_xlabel("optimizer step")
        for panel in panels[: len(metrics) : columns]:
            panel.set_ylabel("τ with the last")
        legend_below(figure, [bundle.looks[arm] for arm in dict.fromkeys(arm for _, arm in lines)], lines=True)
        return figure

    def caption(self, bundle: Bundle) -> str:
        bare = any(a.interval is None for points in _lines(bundle).values() for a in points)
        few = f"; none with fewer than {FEWEST_SEEDS} seeds" if bare else ""
        band = f" (line) and its {bundle.percent} t interval (band{few})." if len(bundle.arms) <= MOST_LABELS else "."
        return (
            "How far the order of the layers at each snapshot is already that of the last snapshot of the same run: mean over "
            f"seeds ({bundle.count}){band}"
        )


def _lines(bundle: Bundle) -> dict[tuple[str, str], list[Agreement]]:
    """(metric, arm) -> its points in the order of steps."""
    found: dict[tuple[str, str], list[Agreement]] = {}
    for a in bundle.layers.stability if bundle.layers else ():
        if a.arm in bundle.looks:
            found.setdefault((a.metric, a.arm), []).append(a)
    return found
