"""What quantizing costs: the change of quality of every adapter under every scheme."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from peftlab.analysis.findings import alpha_of
from peftlab.analysis.quantization import Effect
from peftlab.analysis.words import is_share, plural, show_difference, show_interval
from peftlab.report.figures._modules import cells, ink, scale
from peftlab.report.figures._quality import tick
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import WIDE_IN, short

MOST_ROWS = 16


@dataclasses.dataclass(frozen=True)
class QuantizationMap(Figure):
    """A heat map, adapters by schemes: quantized minus float over the same seeds, with its interval."""

    name: ClassVar[str] = "quantization_map"
    title: ClassVar[str] = "What quantization changes"
    asks: ClassVar[str] = "What does quantizing cost which adapter?"
    place: ClassVar[int] = 71
    section: ClassVar = "quantization"

    def needs(self) -> tuple[str, ...]:
        return ("quantization",)

    def draw(self, bundle: Bundle) -> Canvas:
        assert bundle.quantization is not None
        said = bundle.quantization
        schemes, treatments, grid = _grid(said.effects)
        treatments = treatments[:MOST_ROWS]
        largest = max((abs(grid[t, s].change) for t in treatments for s in schemes if (t, s) in grid), default=0.0) or 1e-3
        colors, norm = scale("PuOr"), Normalize(-largest, largest)
        figure = Canvas(figsize=(WIDE_IN, 0.52 * len(treatments) + 1.5), layout="constrained")
        axes = figure.add_subplot()
        values = [[grid[t, s].change if (t, s) in grid else np.nan for s in schemes] for t in treatments]
        cells(axes, np.array(values), colors, norm)
        for (treatment, scheme), effect in grid.items():
            if treatment in treatments:
                place = schemes.index(scheme) + 0.5, treatments.index(treatment) + 0.5
                text = f"{show_difference(effect.change, said.metric)}{' *' if effect.shown else ''}"
                color = ink(colors, norm, effect.change)
                axes.text(place[0], place[1] - 0.14, text, ha="center", va="center", color=color, fontsize=11)
                interval = show_interval(effect.interval, said.metric, True)
                axes.text(place[0], place[1] + 0.22, interval, ha="center", va="center", color=color, fontsize=7.5)
        axes.set_xticks(np.arange(len(schemes)) + 0.5, [short(s, 22) for s in schemes])
        axes.set_yticks(np.arange(len(treatments)) + 0.5, [short(t, 30) for t in treatments])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, location="bottom", shrink=0.6, aspect=38, pad=0.03)
        bar.set_label(f"change of {said.metric.replace('_', ' ')}{' (percentage points)' if is_share(said.metric) else ''}")
        bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, said.metric)))
        bar.outline.set_visible(False)  # pyright: ignore
        return figure

    def caption(self, bundle: Bundle) -> str:
        assert bundle.quantization is not None
        percent, alpha = f"{100 * bundle.quantization.confidence:g} %", alpha_of(bundle.quantization.confidence)
        text = (
            f"Quantized minus float of the same arm over the same seeds, with its {percent} interval ({bundle.count}). "
            f"Stars: p at most {alpha:g} after Holm's adjustment over all cells."
        )
        left = len(_grid(bundle.quantization.effects)[1]) - MOST_ROWS
        return text + (f" Not drawn, in analysis/quantization.json: {plural(left, 'adapter')}." if left > 0 else "")


def _grid(effects: list[Effect]) -> tuple[list[str], list[str], dict[tuple[str, str], Effect]]:
    """Schemes, treatments, and the effect at each place."""
    schemes = list(dict.fromkeys(e.scheme for e in effects))
    treatments = list(dict.fromkeys(e.treatment for e in effects))
    return schemes, treatments, {(e.treatment, e.scheme): e for e in effects}
