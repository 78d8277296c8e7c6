"""What one change does, all else equal: a row per level of every factor."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from peftlab.analysis.arms import Effect
from peftlab.analysis.words import is_share
from peftlab.report.figures._quality import tick
from peftlab.report.figures._rows import MOST_ROWS, ends, rows_canvas
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import DARK_LINE, MARKERS, PALETTE, WIDE_IN, even_ticks, short


@dataclasses.dataclass(frozen=True)
class AblationForest(Figure):
    """Effect of each level of a factor against its reference, paired by seed, with its interval."""

    name: ClassVar[str] = "ablation_forest"
    title: ClassVar[str] = "One change at a time"
    asks: ClassVar[str] = "What does one change do, all else equal?"
    place: ClassVar[int] = 17

    def needs(self) -> tuple[str, ...]:
        return ("compared.effects",)

    def draw(self, bundle: Bundle) -> Canvas:
        effects, metric = _effects(bundle)[:MOST_ROWS], bundle.findings.plan.metric
        canvas, (axes,) = rows_canvas([e.arm for e in effects], width=WIDE_IN)
        axes.set_yticks(range(len(effects)), [short(name, 46) for name in _names(effects)])
        factors = list(dict.fromkeys(e.factor for e in effects))
        axes.axvline(0, color=DARK_LINE, linewidth=1.2, zorder=1)
        for row, effect in enumerate(effects):
            place = factors.index(effect.factor)
            color, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
            axes.errorbar(
                effect.difference, row, xerr=ends(effect.difference, effect.interval), color=color, marker=marker, markersize=7.5,
                markerfacecolor=color if effect.shown else "white", markeredgewidth=1.6, elinewidth=1.8, zorder=3,
            )  # fmt: skip
            if row and effects[row - 1].factor != effect.factor:
                axes.axhline(row - 0.5, color="#B0B0B0", linewidth=0.8, zorder=0)
        inside = [e for e in effects if not _diverged(e, bundle)] or effects
        values = [v for e in inside for v in (e.difference, *(e.interval or ()))] + [0.0]
        room = 0.05 * (max(values) - min(values)) or 0.01
        axes.set_xlim(min(values) - room, max(values) + room)
        axes.xaxis.set_major_locator(even_ticks(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, metric)))
        axes.set_xlabel(f"{metric.replace('_', ' ')}: difference{' (points)' if is_share(metric) else ''}")
        return canvas

    def caption(self, bundle: Bundle) -> str:
        effects, plan = _effects(bundle), bundle.findings.plan
        pairs = sorted({e.n for e in effects})
        number = str(pairs[0]) if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
        text = (
            "Arms that differ in one option and in nothing else but tuned values: the first level minus the second, over the "
            f"same seeds (n = {number} pairs); line: {bundle.percent} {plan.interval_word}, not adjusted. Filled: adjusted "
            f"p ≤ {plan.alpha:g} (Holm over all {len(effects)} effects)."
        )
        if any(_diverged(e, bundle) for e in effects[:MOST_ROWS]):
            text += " Effects of arms with diverged runs may lie beyond the picture."
        return text + (f" The first {MOST_ROWS}; all are in analysis/arms.json." if len(effects) > MOST_ROWS else "")


def _effects(bundle: Bundle) -> list[Effect]:
    return bundle.compared.effects if bundle.compared else []


def _diverged(effect: Effect, bundle: Bundle) -> bool:
    return any(a.imputed for a in bundle.arms if a.label in (effect.arm, effect.against))


def _names(effects: list[Effect]) -> list[str]:
    """``rank: 2 − 8``, with the arm where its name says something else, and with all of it where two rows would be alike."""
    texts = [f"{e.factor}: {e.level} − {e.reference}" for e in effects]
    arms = [e.arm.split("[")[0] for e in effects]
    told = [
        text if arm in (e.level, e.factor) and texts.count(text) == 1 else f"{text} ({arm})"
        for e, arm, text in zip(effects, arms, texts, strict=True)
    ]
    whole = [f"{text} ({e.arm})" for e, text in zip(effects, texts, strict=True)]
    return [text if told.count(text) == 1 else longer for text, longer in zip(told, whole, strict=True)]
