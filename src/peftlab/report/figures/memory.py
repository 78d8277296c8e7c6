"""Peak memory: what was predicted before the run and what was measured in it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure as Canvas

from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, PALETTE, short

MOST_ARMS = 40


@dataclasses.dataclass(frozen=True)
class Memory(Figure):
    """Predicted against measured peak memory per arm."""

    name: ClassVar[str] = "memory"
    title: ClassVar[str] = "Peak memory, predicted and measured"
    asks: ClassVar[str] = "Does the memory predicted before a run hold?"
    place: ClassVar[int] = 40

    def needs(self) -> tuple[str, ...]:
        return ("measured_peak_mb",)

    def draw(self, bundle: Bundle) -> Canvas:
        arms = [a for a in bundle.arms if a.measured_peak_mb is not None or a.predicted_peak_mb is not None][:MOST_ARMS]
        figure = Canvas(figsize=(COLUMN_WIDTH_IN, 1.4 + 0.46 * len(arms)), layout="constrained")
        axes = figure.add_subplot()
        rows = np.arange(len(arms))
        measured = np.array([a.measured_peak_mb or 0.0 for a in arms])
        predicted = np.array([a.predicted_peak_mb or 0.0 for a in arms])
        axes.barh(rows - 0.19, measured, 0.36, color=PALETTE[0], label="measured")
        axes.barh(rows + 0.19, predicted, 0.36, color=PALETTE[5], label="predicted", hatch="///", edgecolor="white", linewidth=0)
        for row, arm in zip(rows, arms, strict=True):
            end = max(measured[row], predicted[row])
            axes.annotate(_words(arm.measured_peak_mb, arm.predicted_peak_mb), (end, float(row)), xytext=(5, 0),
                          textcoords="offset points", va="center", fontsize=10)  # fmt: skip
        axes.set_yticks(rows, [short(a.label, 26) for a in arms])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1.28 * max(measured.max(), predicted.max(), 1e-9))
        axes.set_xlabel("peak memory (MB)")
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    def caption(self, bundle: Bundle) -> str:
        text = (
            f"Largest peak over the runs of an arm ({bundle.count}), and what was predicted before the run; beside the bars, how "
            "far it was off."
        )
        return text + (f" The first {MOST_ARMS} arms." if len(bundle.arms) > MOST_ARMS else "")


def _words(measured: float | None, predicted: float | None) -> str:
    if measured is None:
        return "not measured"
    if predicted is None:
        return f"{measured:,.0f}, no prediction"
    return f"{measured:,.0f} ({100 * (predicted / measured - 1):+.0f} %)".replace("-", "−")
