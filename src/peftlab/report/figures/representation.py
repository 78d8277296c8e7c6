"""How far training moved what every block puts out."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from peftlab.analysis.diagnostics import Blocks
from peftlab.analysis.words import plural
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import WIDE_IN, Look, entries_below, even_ticks, looks, short

MOST = 8  #: arms
MEASURES = (("cka", "CKA, before and after"), ("drift", "drift ‖Y − X‖ / ‖X‖"))


@dataclasses.dataclass(frozen=True)
class Representation(Figure):
    """CKA and drift by block, a line per arm: mean over seeds and its interval."""

    name: ClassVar[str] = "representation"
    title: ClassVar[str] = "How far the blocks' outputs moved"
    asks: ClassVar[str] = "From which block on does training change what the model computes?"
    place: ClassVar[int] = 81
    section: ClassVar = "diagnostics"

    def needs(self) -> tuple[str, ...]:
        return ("diagnostics",)

    def absent(self, bundle: Bundle) -> str:
        return Figure.absent(self, bundle) or ("" if _arms(bundle) else "no run recorded representations")

    def draw(self, bundle: Bundle) -> Canvas:
        arms = _arms(bundle)[:MOST]
        names = [arm.arm for arm in arms]
        known = {**looks(names, names), **bundle.looks}
        figure = Canvas(figsize=(WIDE_IN, 3.6), layout="constrained")
        panels = figure.subplots(1, 2)
        for panel, (measure, label) in zip(panels, MEASURES, strict=True):
            for arm in arms:
                _line(panel, arm, measure, known[arm.arm])
            panel.set_xlabel("block")
            panel.set_ylabel(label)
            panel.xaxis.set_major_locator(even_ticks(8, integer=True))
        _limit(panels[0], [p.cka.mean for arm in arms for p in arm.points if p.cka], top=1.0)
        _limit(panels[1], [p.drift.mean for arm in arms for p in arm.points if p.drift], bottom=0.0)
        entries_below(figure, panels[0].get_legend_handles_labels()[0], handle_length=2.6)
        return figure

    def caption(self, bundle: Bundle) -> str:
        arms = _arms(bundle)
        tokens = ", ".join(dict.fromkeys(arm.token for arm in arms))
        text = (
            f"One token ({tokens}) of up to 64 validation examples behind every block, before training and as tested. Left: "
            "linear CKA, 1 where both are the same up to rotation, scale and shift; right: relative distance. Mean over seeds "
            f"(line, {bundle.count}) and its {bundle.percent} t interval (band)."
        )
        if started := [arm.arm for arm in arms if arm.reference == "start"]:
            text += f" Before is the adapted model at its start for {', '.join(started)}, whose adapter acts from there."
        left = len(arms) - MOST
        return text + (f" Not drawn, in analysis/representation.csv: {plural(left, 'arm')}." if left > 0 else "")


def _arms(bundle: Bundle) -> list[Blocks]:
    return bundle.diagnostics.blocks if bundle.diagnostics else []


def _line(axes: Axes, arm: Blocks, measure: str, look: Look) -> None:
    points = [(p.block, mean) for p in arm.points if (mean := getattr(p, measure)) is not None]
    if not points:
        return
    blocks, centre = np.array([b for b, _ in points]), np.array([m.mean for _, m in points])
    axes.plot(blocks, centre, color=look.color, linestyle=look.dash, marker=look.marker, markersize=4, label=short(arm.arm, 28))
    ends = [m.interval or (m.mean, m.mean) for _, m in points]
    low, high = np.array([e[0] for e in ends]), np.array([e[1] for e in ends])
    axes.fill_between(blocks, low, high, color=look.color, alpha=0.13, linewidth=0)


def _limit(axes: Axes, means: list[float], *, bottom: float | None = None, top: float | None = None) -> None:
    """An axis that holds the means, with room for their intervals: those of two seeds may leave it."""
    ends = [*means, *(end for end in (bottom, top) if end is not None)]
    room = max(max(ends) - min(ends), 0.01)
    axes.set_ylim(min(ends) - (0.02 if bottom is not None else 0.6) * room, max(ends) + (0.02 if top is not None else 0.6) * room)
