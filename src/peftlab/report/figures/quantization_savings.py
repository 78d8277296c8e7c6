"""What quantizing saves, against what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from peftlab.analysis.quantization import Effect
from peftlab.analysis.words import is_share
from peftlab.report.figures._quality import tick
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import MARKERS, PALETTE, WIDE_IN, entries_below, short

Saving = Callable[[Effect], tuple[float, tuple[float, float] | None] | None]


@dataclasses.dataclass(frozen=True)
class QuantizationSavings(Figure):
    """Change of quality against memory saved: of the stored model, and of the measured training peak."""

    name: ClassVar[str] = "quantization_savings"
    title: ClassVar[str] = "Memory saved against quality"
    asks: ClassVar[str] = "What does the memory that quantizing saves cost in quality?"
    place: ClassVar[int] = 72
    section: ClassVar = "quantization"

    def needs(self) -> tuple[str, ...]:
        return ("quantization",)

    def draw(self, bundle: Bundle) -> Canvas:
        assert bundle.quantization is not None
        said = bundle.quantization
        schemes = list(dict.fromkeys(e.scheme for e in said.effects))
        treatments = list(dict.fromkeys(e.treatment for e in said.effects))
        colors = {scheme: PALETTE[i % len(PALETTE)] for i, scheme in enumerate(schemes)}
        markers = {treatment: MARKERS[i % len(MARKERS)] for i, treatment in enumerate(treatments)}
        figure = Canvas(figsize=(WIDE_IN, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _panel(left, said.effects, _stored, colors, markers)
        _panel(right, said.effects, _peak, colors, markers)
        left.set_xlabel("stored bytes saved (%)")
        right.set_xlabel("training peak saved (%)")
        left.set_ylabel(f"change of {said.metric.replace('_', ' ')}{' (points)' if is_share(said.metric) else ''}")
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, said.metric)))
        handles: list[Artist] = [Patch(color=color, label=short(scheme, 24)) for scheme, color in colors.items()]
        if 1 < len(treatments) <= len(MARKERS):
            handles += [
                Line2D([], [], color="#7F7F7F", marker=m, linestyle="none", label=short(t, 28)) for t, m in markers.items()
            ]
        entries_below(figure, handles, handle_length=1.0)
        return figure

    def caption(self, bundle: Bundle) -> str:
        percent = f"{100 * bundle.findings.plan.confidence:g} %"
        return (
            f"Quantized minus float of the same arm over the same seeds, with {percent} t intervals ({bundle.count}). Left: "
            "bytes of the whole model as stored, exact. Right: the measured peak of training, without the bare process."
        )


def _stored(effect: Effect) -> tuple[float, tuple[float, float] | None] | None:
    return None if effect.stored_saved is None else (effect.stored_saved, None)


def _peak(effect: Effect) -> tuple[float, tuple[float, float] | None] | None:
    return None if effect.peak_saved is None else (effect.peak_saved.mean, effect.peak_saved.interval)


def _panel(axes: Axes, effects: Sequence[Effect], saving: Saving, colors: dict[str, str], markers: dict[str, str]) -> None:
    axes.axhline(0, color="#7F7F7F", linewidth=1.2, zorder=1)
    for effect in effects:
        found = saving(effect)
        if found is None:
            continue
        x, across = found
        up = None if effect.interval is None else [[effect.change - effect.interval[0]], [effect.interval[1] - effect.change]]
        wide = None if across is None else [[100 * (x - across[0])], [100 * (across[1] - x)]]
        axes.errorbar(
            [100 * x], [effect.change], yerr=up, xerr=wide, color=colors[effect.scheme], marker=markers[effect.treatment],
            markersize=7.5, markeredgecolor="white", markeredgewidth=0.8, elinewidth=1.5, capsize=2, zorder=3,
        )  # fmt: skip
    axes.margins(x=0.12, y=0.08)
