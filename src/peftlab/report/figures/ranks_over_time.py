"""How ranks moved during training."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from peftlab.analysis.intervals import t_interval
from peftlab.report.figures._modules import ROLES
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import DASHES, PALETTE, WIDE_IN, entries_below, even_ticks, short

MOST_ARMS = 6


@dataclasses.dataclass(frozen=True)
class RanksOverTime(Figure):
    """A panel per arm with adaptive ranks: mean rank of each role over steps, with the interval over seeds."""

    name: ClassVar[str] = "ranks_over_time"
    title: ClassVar[str] = "Ranks over time"
    asks: ClassVar[str] = "When did the allocator decide, and when did ranks settle?"
    place: ClassVar[int] = 52
    section: ClassVar = "layers"

    def needs(self) -> tuple[str, ...]:
        return ("layers",)

    def absent(self, bundle: Bundle) -> str:
        return Figure.absent(self, bundle) or ("" if _arms(bundle) else "no arm has ranks that were decided during training")

    def draw(self, bundle: Bundle) -> Canvas:
        arms = _arms(bundle)
        columns = min(2, len(arms))
        rows = -(-len(arms) // columns)
        figure = Canvas(figsize=(WIDE_IN, 2.7 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        present = [role for role in ROLES if any((table["role"] == role).any() for table in arms.values())]
        looks = {role: (PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]) for i, role in enumerate(present)}
        for panel, (arm, table) in zip(panels, arms.items(), strict=False):
            for role in present:
                _line(panel, table[table["role"] == role], looks[role], bundle.findings.plan.confidence)
            panel.set_title(f"{short(arm)} (n = {table['seed'].nunique()})", loc="left", fontsize=11)
            panel.xaxis.set_major_locator(even_ticks(5, integer=True))
        panels[0].yaxis.set_major_locator(even_ticks(6, integer=True))
        panels[0].set_ylim(bottom=0)  # last: it ends the scaling that all panels share
        for panel in panels[len(arms) :]:
            panel.set_visible(False)
        for panel in panels[max(0, len(arms) - columns) : len(arms)]:
            panel.set_xlabel("optimizer step")
        for panel in panels[: len(arms) : columns]:
            panel.set_ylabel("mean rank")
        handles = [Line2D([], [], color=color, linestyle=dash, label=role) for role, (color, dash) in looks.items()]
        entries_below(figure, handles, handle_length=2.6)
        return figure

    def caption(self, bundle: Bundle) -> str:
        return (
            "Mean rank over the layers of each role, at the start, at every decision of the allocator and at the end: mean over "
            f"seeds (line, n above each panel) and its {bundle.percent} t interval (band). The single layers "
            "are in analysis/ranks.csv."
        )


def _arms(bundle: Bundle) -> dict[str, pd.DataFrame]:
    """Label -> its rows, where ranks were decided after the start."""
    if bundle.layers is None or bundle.ranks is None or bundle.ranks.empty:
        return {}
    tables = {label: table for label, table in bundle.ranks.groupby("arm", sort=False) if set(table["role"]) - {""}}
    moving = {str(label): table for label, table in tables.items() if len(set(table["step"])) > 2}
    return dict(list(moving.items())[:MOST_ARMS])


def _line(axes: Axes, table: pd.DataFrame, look: tuple[str, object], confidence: float) -> None:
    if table.empty:
        return
    means = table.groupby(["seed", "step"])["rank"].mean().unstack("seed").sort_index().ffill()  # a rank holds until it changes
    steps, values = means.index.to_numpy(), means.to_numpy()
    intervals = [t_interval(row, confidence) for row in values]
    centre = np.array([i.mean for i in intervals])
    axes.step(steps, centre, where="post", color=look[0], linestyle=look[1], zorder=3)
    axes.fill_between(steps, _bound(intervals, "low", centre), _bound(intervals, "high", centre), step="post",
                      color=look[0], alpha=0.15, linewidth=0, zorder=2)  # fmt: skip


def _bound(intervals: list, side: str, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """An end of each interval; the mean itself where there is none."""
    ends = [getattr(i, side) for i in intervals]
    return np.maximum(np.array([c if e is None else e for e, c in zip(ends, centre, strict=True)]), 0.0)
