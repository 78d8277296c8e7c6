"""What every arm takes: memory and time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from matplotlib.figure import Figure as Canvas

from peftlab.analysis.arms import Resources as Taken
from peftlab.analysis.means import Mean
from peftlab.report.figures._rows import MOST_ROWS, ends, left_out, rows_canvas
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, DARK_LINE, WIDE_IN, even_ticks

COSTS: tuple[tuple[str, Callable[[Taken], Mean | None]], ...] = (
    ("peak memory (MB)", lambda r: r.peak_mb),
    ("training time (s)", lambda r: r.train_s),
)


@dataclasses.dataclass(frozen=True)
class Resources(Figure):
    """Bars of measured peak memory and training time, mean over runs with its interval."""

    name: ClassVar[str] = "resources"
    title: ClassVar[str] = "What every arm takes"
    asks: ClassVar[str] = "What does every arm take in memory and time?"
    place: ClassVar[int] = 41

    def needs(self) -> tuple[str, ...]:
        return ("compared.resources",)

    def absent(self, bundle: Bundle) -> str:
        return Figure.absent(self, bundle) or ("" if _shown(bundle) else "no run recorded memory or time")

    def draw(self, bundle: Bundle) -> Canvas:
        rows, shown = _rows(bundle)[:MOST_ROWS], _shown(bundle)
        width = WIDE_IN if len(shown) > 1 else COLUMN_WIDTH_IN
        canvas, panels = rows_canvas([r.arm for r in rows], len(shown), width=width)
        for panel, (title, cost) in zip(panels, shown, strict=True):
            for row, taken in enumerate(rows):
                if (mean := cost(taken)) is not None:
                    panel.barh(row, mean.mean, 0.62, color=bundle.looks[taken.arm].color, zorder=2)
                    panel.errorbar(mean.mean, row, xerr=ends(mean.mean, mean.interval), color=DARK_LINE, linewidth=1.4, zorder=3)
            tops = [m.mean + (m.interval[1] - m.mean if m.interval else 0) for r in rows if (m := cost(r)) is not None]
            panel.set_xlim(0, 1.04 * max([*tops, 1e-9]))
            panel.set_xlabel(title)
            panel.xaxis.set_major_locator(even_ticks(4))
        return canvas

    def caption(self, bundle: Bundle) -> str:
        return (
            f"Measured peak memory and training time, mean over runs ({bundle.count}); line: {bundle.percent} t interval of the "
            f"mean. Both were measured on the machine named below.{left_out([r.arm for r in _rows(bundle)], 'tables/')}"
        )


def _rows(bundle: Bundle) -> list[Taken]:
    rows = bundle.compared.resources if bundle.compared else []
    return [r for r in rows if r.peak_mb is not None or r.train_s is not None]


def _shown(bundle: Bundle) -> list[tuple[str, Callable[[Taken], Mean | None]]]:
    return [(title, cost) for title, cost in COSTS if any(cost(r) is not None for r in _rows(bundle))]
