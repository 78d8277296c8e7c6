"""Which arms ranks tell apart: the diagram of Demšar (2006)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from peftlab.analysis.arms import Ranking
from peftlab.analysis.words import equation_p, listed
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import CHARACTER_IN, DARK_LINE, WIDE_IN, short

STEP = 0.25  #: inches between names
RANK_IN = 0.5  #: inches of a mean rank beside its name


@dataclasses.dataclass(frozen=True)
class CriticalDifference(Figure):
    """Mean ranks on a line, best on the left; bars join arms that are not told apart."""

    name: ClassVar[str] = "critical_difference"
    title: ClassVar[str] = "Mean ranks"
    asks: ClassVar[str] = "Which arms do ranks over seeds or tasks tell apart?"
    place: ClassVar[int] = 18

    def needs(self) -> tuple[str, ...]:
        return ("compared.ranking",)

    def absent(self, bundle: Bundle) -> str:
        missing = Figure.absent(self, bundle)
        return missing or (bundle.compared.ranking.refused if bundle.compared else "") or _empty(bundle)

    def draw(self, bundle: Bundle) -> Canvas:
        assert bundle.compared is not None
        ranking = bundle.compared.ranking
        order = sorted(range(len(ranking.arms)), key=lambda i: ranking.mean_ranks[i])
        half = -(-len(order) // 2)
        groups = _levels(ranking)
        top, bottom = 0.75, 0.25 + 0.14 * (max(groups.values(), default=-1) + 1)
        height = top + bottom + STEP * (half + 0.4)
        canvas = Canvas(figsize=(WIDE_IN, height))
        axes = canvas.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.set_xlim(0, WIDE_IN)
        axes.set_ylim(height, 0)  # inches from the top
        _draw(axes, bundle, ranking, order, groups, (top, bottom))
        return canvas

    def caption(self, bundle: Bundle) -> str:
        ranking = bundle.compared.ranking if bundle.compared else Ranking()
        percent = f"{100 * (1 - ranking.alpha):g} %"
        what = (
            f"the {ranking.blocks} seeds of this one task, so that nothing is said of other tasks"
            if ranking.over == "seeds"
            else f"the {ranking.blocks} tasks of the study, every arm by its mean over seeds and backbones"
        )
        text = (
            f"Mean rank of every arm over n = {ranking.blocks} blocks, 1 the best; the blocks are {what}. Friedman's test (Iman "
            f"and Davenport) that all arms rank alike: {equation_p(ranking.p)}. Bars join arms whose mean ranks lie closer than "
            f"Nemenyi's critical difference (CD = {ranking.critical_difference or 0:.2f}, {percent}) and are not told apart, "
            "which is no evidence of equality."
        )
        if ranking.p is not None and ranking.p > ranking.alpha:
            text += " As that test finds nothing, no pair counts as told apart."
        return text + (f" Left out for missing runs: {listed(ranking.left_out, 6)}." if ranking.left_out else "")


def _empty(bundle: Bundle) -> str:
    return "" if bundle.compared and bundle.compared.ranking.arms else "no arms were ranked"


def _levels(ranking: Ranking) -> dict[int, int]:
    """Group -> the height of its bar: bars that would overlap lie under one another."""
    rank = dict(zip(ranking.arms, ranking.mean_ranks, strict=True))
    ends: list[float] = []
    levels = {}
    for number, group in enumerate(ranking.groups):
        start, end = rank[group[0]], rank[group[-1]]
        level = next((i for i, taken in enumerate(ends) if start > taken + 0.08), len(ends))
        ends[level : level + 1] = [end]
        levels[number] = level
    return levels


def _side(ranking: Ranking, places: list[int]) -> float:
    """Inches beside the line that the longest name of one side takes, with its rank."""
    return 0.3 + CHARACTER_IN * max((len(short(ranking.arms[i], 20)) for i in places), default=0) + RANK_IN


def _draw(
    axes: Axes, bundle: Bundle, ranking: Ranking, order: list[int], groups: dict[int, int], room: tuple[float, float]
) -> None:
    arms, (top, bottom) = len(order), room
    left, right = (_side(ranking, these) for these in (order[: -(-arms // 2)], order[-(-arms // 2) :]))
    right = WIDE_IN - right

    def place(rank: float) -> float:
        return left + (rank - 1) / (arms - 1) * (right - left)

    axes.plot([left, right], [top, top], color=DARK_LINE, linewidth=1.2)
    step = next(s for s in (1, 2, 5, 10) if s * (right - left) / (arms - 1) >= 0.3)  # inches between numbers
    for rank in range(1, arms + 1):
        long = (rank - 1) % step == 0
        axes.plot([place(rank)] * 2, [top, top - (0.08 if long else 0.04)], color=DARK_LINE, linewidth=1.2)
        if long:
            axes.text(place(rank), top - 0.11, str(rank), ha="center", va="bottom", fontsize=11)
    width = (ranking.critical_difference or 0.0) / (arms - 1) * (right - left)
    axes.plot([left, left + width], [0.2, 0.2], color=DARK_LINE, linewidth=1.8)
    for end in (left, left + width):
        axes.plot([end, end], [0.15, 0.25], color=DARK_LINE, linewidth=1.8)
    axes.text(left + width + 0.08, 0.2, f"CD = {ranking.critical_difference or 0:.2f}", va="center", fontsize=11)
    rank = dict(zip(ranking.arms, ranking.mean_ranks, strict=True))
    for number, level in groups.items():
        first, last = rank[ranking.groups[number][0]], rank[ranking.groups[number][-1]]
        height = top + 0.14 + 0.14 * level
        axes.plot([place(first) - 0.03, place(last) + 0.03], [height] * 2, color=DARK_LINE, linewidth=4.5, solid_capstyle="round")
    half = -(-arms // 2)
    for position, index in enumerate(order):
        best = position < half
        depth = position if best else arms - 1 - position
        height = top + bottom + STEP * (depth + 0.4)
        label, value = ranking.arms[index], ranking.mean_ranks[index]
        edge, color = (left - 0.12 if best else right + 0.12), bundle.looks[label].color
        axes.plot([place(value), place(value), edge], [top, height, height], color=color, linewidth=1.4, solid_joinstyle="round")
        axes.plot(place(value), top, bundle.looks[label].marker, color=color, markersize=6, clip_on=False, zorder=4)
        words = (short(label, 20), f"{value:.2f}")
        axes.text(edge + (-0.06 if best else 0.06), height, "  ".join(words if best else words[::-1]),
                  ha="right" if best else "left", va="center", fontsize=10.5)  # fmt: skip
