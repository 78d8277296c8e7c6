"""What a quantizer did over training: the schedule, and how large the updates grew beside the quantization error."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from peftlab.analysis.quantization import Course
from peftlab.analysis.words import plural
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import WIDE_IN, entries_below, looks, short

MOST = 8  #: arms


@dataclasses.dataclass(frozen=True)
class QuantizationHistory(Figure):
    """rho, and the balance ||dW|| / ||W - Q(W)||, over steps; a line per arm."""

    name: ClassVar[str] = "quantization_history"
    title: ClassVar[str] = "Schedule and balance"
    asks: ClassVar[str] = "How did the schedule run, and did updates outgrow the quantization error?"
    place: ClassVar[int] = 73
    section: ClassVar = "quantization"

    def needs(self) -> tuple[str, ...]:
        return ("quantization",)

    def absent(self, bundle: Bundle) -> str:
        return "" if _courses(bundle) else "no quantizer recorded what it did during training"

    def draw(self, bundle: Bundle) -> Canvas:
        figure = Canvas(figsize=(WIDE_IN, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        courses = _courses(bundle)[:MOST]
        names = [course.arm for course in courses]
        known = {**looks(names, names), **bundle.looks}
        for course in courses:
            look, steps = known[course.arm], np.array([p.step for p in course.points])
            style = {"color": look.color, "linestyle": look.dash, "linewidth": 1.6}
            left.plot(steps, [p.rho for p in course.points], label=short(course.arm, 28), **style)
            grown = [p for p in course.points if p.balance is not None and p.balance > 0]
            right.plot([p.step for p in grown], [p.balance for p in grown], **style)
            if band := [p for p in grown if p.low is not None and p.high is not None and p.low > 0]:
                low, high = np.array([p.low for p in band], float), np.array([p.high for p in band], float)
                right.fill_between([p.step for p in band], low, high, color=look.color, alpha=0.12, linewidth=0)
        left.set_ylim(-0.05, 1.05)
        left.set_ylabel("quantized share (rho)")
        right.set_yscale("log")
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        right.yaxis.set_minor_formatter(NullFormatter())
        right.axhline(1, color="#7F7F7F", linewidth=1.2, zorder=1)
        right.set_ylabel("update / error (balance)")
        for axes in (left, right):
            axes.set_xlabel("optimizer step")
        entries_below(figure, left.get_legend_handles_labels()[0], handle_length=2.6)
        return figure

    def caption(self, bundle: Bundle) -> str:
        text = (
            "Left: the share rho of the quantized weights in those that a step used; evaluation is always at 1. Right: the norm "
            "of each adapted layer's update over that of its quantization error, the median over layers (mean over seeds, "
            f"{bundle.count}) and, shaded, the middle eight tenths; above the line the update is the larger one."
        )
        left = len(_courses(bundle)) - MOST
        return text + (f" Not drawn, in analysis/quantization.json: {plural(left, 'arm')}." if left > 0 else "")


def _courses(bundle: Bundle) -> list[Course]:
    said = bundle.quantization
    return [] if said is None else said.courses
