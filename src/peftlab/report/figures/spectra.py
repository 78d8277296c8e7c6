"""How much of its rank an update uses: singular values, the largest first."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from peftlab.analysis.diagnostics import Spectrum
from peftlab.analysis.words import plural
from peftlab.report.figures._modules import ROLES
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import DASHES, PALETTE, WIDE_IN, entries_below, even_ticks, short

MOST_ARMS = 6
COLUMNS = 3
LOWEST = 1e-4  #: of the first; below it lies rounding


@dataclasses.dataclass(frozen=True)
class Spectra(Figure):
    """A panel per arm: singular values of the updates over the first of each, by role; median and middle eight tenths."""

    name: ClassVar[str] = "spectra"
    title: ClassVar[str] = "Singular values of the updates"
    asks: ClassVar[str] = "How much of its rank does an update use?"
    place: ClassVar[int] = 82
    section: ClassVar = "diagnostics"

    def needs(self) -> tuple[str, ...]:
        return ("diagnostics",)

    def absent(self, bundle: Bundle) -> str:
        return Figure.absent(self, bundle) or ("" if _arms(bundle) else "no arm has an update of low rank")

    def draw(self, bundle: Bundle) -> Canvas:
        arms = dict(list(_arms(bundle).items())[:MOST_ARMS])
        columns = min(COLUMNS, len(arms))
        rows = -(-len(arms) // columns)
        figure = Canvas(figsize=(WIDE_IN, 2.5 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        present = [role for role in (*ROLES, "outside") if any(s.role == role for spectra in arms.values() for s in spectra)]
        looks: dict[str, tuple[str, Any]] = {
            role: (PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]) for i, role in enumerate(present)
        }
        for panel, (arm, spectra) in zip(panels, arms.items(), strict=False):
            for spectrum in spectra:
                color, dash = looks[spectrum.role]
                index = np.arange(1, len(spectrum.values) + 1)
                panel.plot(index, _shown(spectrum.values), color=color, linestyle=dash, marker=".", zorder=3)
                panel.fill_between(index, _shown(spectrum.low), _shown(spectrum.high), color=color, alpha=0.12, linewidth=0)
            panel.set_title(short(arm, 24), loc="left", fontsize=11)
            panel.xaxis.set_major_locator(even_ticks(5, integer=True))
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panels[0].yaxis.set_minor_formatter(NullFormatter())
        for panel in panels[len(arms) :]:
            panel.set_visible(False)
        for panel in panels[max(0, len(arms) - columns) : len(arms)]:
            panel.set_xlabel("singular value")
        for panel in panels[: len(arms) : columns]:
            panel.set_ylabel("relative to the first")
        handles = [Line2D([], [], color=color, linestyle=dash, label=role) for role, (color, dash) in looks.items()]
        entries_below(figure, handles, handle_length=2.6)
        return figure

    def caption(self, bundle: Bundle) -> str:
        text = (
            "Singular values of every module's update, divided by its first: median over modules of a role and seeds (line, "
            f"{bundle.count}), middle eight tenths (band). A line that falls steeply leaves most of its rank unused."
        )
        left = len(_arms(bundle)) - MOST_ARMS
        return text + (f" Not drawn, in analysis/diagnostics.json: {plural(left, 'arm')}." if left > 0 else "")


def _arms(bundle: Bundle) -> dict[str, list[Spectrum]]:
    """Arm -> its spectra of more than one singular value, by role."""
    found: dict[str, list[Spectrum]] = {}
    for spectrum in bundle.diagnostics.spectra if bundle.diagnostics else []:
        if len(spectrum.values) > 1:
            found.setdefault(spectrum.arm, []).append(spectrum)
    return found


def _shown(values: list[float]) -> np.ndarray:
    return np.maximum(np.array(values), LOWEST)
