"""Every arm against the baseline, seed by seed: whether pairing over seeds pays, and which seed a difference hangs on."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any, ClassVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from peftlab.analysis.findings import Finding
from peftlab.analysis.words import is_share, listed
from peftlab.report.figures._quality import axis_name, tick
from peftlab.report.figures._rows import left_out, rows_canvas
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import WIDE_IN, Look, even_ticks

INK = "#000000"  #: a page turns it into its own colour of text
MOST = 16  #: rows
ROW_IN, FRAME_IN = 0.66, 1.9  #: height of a row, and of what stands above and below them
RAIL = 0.27  #: of a row: how far the baseline lies above its middle, and the arm below
ABOVE, BELOW = 0.14, 0.22  #: of a row: where the differences of seeds lie, and their mean
STRETCH = 2.5  #: how far an interval may widen the axis beyond the seeds' own differences, as a share of what these span
WORSE = (0, (3, 1.6))


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """One seed, of one fold: what the baseline and the arm reached."""

    seed: str
    baseline: float
    arm: float
    diverged: bool  #: one of the two: it then stands where the analysis counts it

    @property
    def difference(self) -> float:
        return self.arm - self.baseline


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One arm beside the baseline, over the seeds that both have."""

    label: str
    pairs: list[Pair]
    finding: Finding

    @property
    def driver(self) -> Pair | None:
        """The seed whose leaving out moves the mean difference most; None below three, where none is unlike the others."""
        if len(self.pairs) < 3:
            return None
        mean = statistics.fmean(p.difference for p in self.pairs)
        return max(self.pairs, key=lambda p: abs(p.difference - mean))

    @property
    def gain(self) -> float | None:
        """How many times wider the standard error is without pairing, of runs that did not diverge:
        sqrt(s_arm^2 + s_baseline^2) / s_difference."""
        sound = [p for p in self.pairs if not p.diverged]
        if len(sound) < 2 or not (paired := statistics.stdev(p.difference for p in sound)):
            return None
        return math.hypot(statistics.stdev(p.arm for p in sound), statistics.stdev(p.baseline for p in sound)) / paired


class PairedSeeds(Figure):
    """Baseline and arm joined by a line per seed; beside, the paired differences and their mean with its interval."""

    name: ClassVar[str] = "paired_seeds"
    title: ClassVar[str] = "Seeds in pairs"
    asks: ClassVar[str] = "Does pairing over seeds pay, and which seed does a difference hang on?"
    place: ClassVar[int] = 16

    def needs(self) -> tuple[str, ...]:
        return ("mean", "baseline")

    def draw(self, bundle: Bundle) -> Canvas:
        rows, plan = rows_of(bundle)[:MOST], bundle.findings.plan
        canvas, (left, right) = rows_canvas([r.label for r in rows], 2, width=WIDE_IN)
        canvas.set_figheight(FRAME_IN + ROW_IN * len(rows))
        _limit(left, [v for r in rows for p in r.pairs if not p.diverged for v in (p.baseline, p.arm)])
        differences = [p.difference for r in rows for p in r.pairs if not p.diverged]
        sound = [r.finding.interval for r in rows if r.finding.interval and not any(p.diverged for p in r.pairs)]
        _limit(right, [0.0, *differences], [end for interval in sound for end in interval])
        for place, row in enumerate(rows):
            _slopes(left, place, row, bundle.looks[row.label], higher_is_better=plan.higher_is_better)
            _differences(right, place, row, bundle.looks[row.label])
        right.axvline(0, color=INK, linewidth=1, zorder=1)
        right.annotate("if not\npaired", (1.03, 1), xycoords="axes fraction", fontsize=9.5, va="bottom")
        if is_share(plan.metric):
            left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, plan.metric)))
        left.set_xlabel(axis_name(plan.metric, plan.split))
        right.set_xlabel(f"difference{' (points)' if is_share(plan.metric) else ''}")
        for axes in (left, right):
            axes.xaxis.set_major_locator(even_ticks(5))
            for edge in range(1, len(rows)):
                axes.axhline(edge - 0.5, color=INK, alpha=0.15, linewidth=0.7, zorder=0)
        canvas.legend(handles=_signs(bundle, rows), loc="outside lower center", ncols=3, handletextpad=0.5, columnspacing=1.3)
        return canvas

    def caption(self, bundle: Bundle) -> str:
        rows, plan = rows_of(bundle), bundle.findings.plan
        numbers = sorted({len(r.pairs) for r in rows})
        count = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        base = bundle.baseline.label if bundle.baseline else ""
        text = (
            f"A line per seed from {base}, the baseline, above, to the arm below (n = {count} pair{'' if count == '1' else 's'} "
            "an arm); dashed where the arm is worse. Lines that do not cross: a seed is good or bad for both, and pairing pays. "
            "How many times wider the standard error is without it stands on the right. Between: the difference of every seed "
            f"and their mean with its {bundle.percent} {plan.interval_word}, not adjusted. The seed that moves the mean most is "
            "drawn strong, and named."
        )
        if any(p.diverged for r in rows for p in r.pairs):
            text += f" Crosses at the edge: runs that diverged, counted at {plan.imputed_at}."
        alone = [a.label for a in bundle.arms if not a.baseline and a.label not in {r.label for r in rows}]
        text += f" No seed in common with the baseline: {listed(alone)}." if alone else ""
        return text + left_out([r.label for r in rows], "analysis/results.csv", MOST)


def rows_of(bundle: Bundle) -> list[Row]:
    """A row per arm that shares a seed with the baseline, in the order of the study file."""
    assert bundle.baseline is not None
    found = bundle.differences
    base = _values(bundle, bundle.baseline.label)
    several = len({fold for _, fold in base}) > 1
    rows = []
    for arm in (a for a in bundle.arms if a.label in found):
        own = _values(bundle, arm.label)
        pairs = [
            Pair(f"{seed}, fold {fold}" if several else f"{seed}", value, own[seed, fold][0], lost or own[seed, fold][1])
            for (seed, fold), (value, lost) in base.items()
            if (seed, fold) in own
        ]
        rows.append(Row(arm.label, pairs, found[arm.label]))
    return rows


def _values(bundle: Bundle, label: str) -> dict[tuple[Any, Any], tuple[float, bool]]:
    """(seed, fold) -> value, and whether the run diverged."""
    runs = bundle.runs.sort_values(["seed", "fold"])
    columns = (runs[name].tolist() for name in ("label", "seed", "fold", "value", "imputed"))
    rows = zip(*columns, strict=True)
    return {(seed, fold): (value, bool(lost)) for of, seed, fold, value, lost in rows if of == label and not math.isnan(value)}


def _limit(axes: Axes, values: Sequence[float], interval_ends: Sequence[float] = ()) -> None:
    """Limits around the values, and around the ends of intervals as far as those leave the values readable."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = (high - low) or 0.1 * max(abs(high), 1e-6)
    far_low, far_high = min([low, *interval_ends]), max([high, *interval_ends])
    low, high = max(far_low, low - STRETCH * span), min(far_high, high + STRETCH * span)
    room = 0.07 * ((high - low) or span)
    axes.set_xlim(low - room, high + room)


def _held(axes: Axes, value: float) -> tuple[float, bool]:
    """Where a value is drawn, and whether it lies there: what is beyond the picture stands at its edge."""
    low, high = axes.get_xlim()
    return min(max(value, low), high), low <= value <= high


def _slopes(axes: Axes, place: int, row: Row, look: Look, *, higher_is_better: bool) -> None:
    for pair in row.pairs:
        strong = pair is row.driver
        points = [(*_held(axes, pair.baseline), place - RAIL, INK), (*_held(axes, pair.arm), place + RAIL, look.color)]
        worse = pair.difference < 0 if higher_is_better else pair.difference > 0
        axes.plot(
            [x for x, *_ in points], [y for _, _, y, _ in points], color=INK, linewidth=1.8 if strong else 0.9,
            alpha=1 if strong else 0.45, linestyle=WORSE if worse else "-", zorder=2.5 if strong else 2,
        )  # fmt: skip
        for (x, inside, y, color), marker, fill in zip(points, ("o", look.marker), ("none", look.color), strict=True):
            _point(axes, x, y, marker if inside else "x", color, fill)


def _point(axes: Axes, x: float, y: float, marker: str, color: str, fill: str) -> None:
    """One run; a cross is one beyond the picture."""
    cross = marker == "x"
    axes.plot(x, y, marker, color=color, markerfacecolor=fill, markersize=7.5 if cross else 5.5, clip_on=False, zorder=3,
              markeredgewidth=1.6 if cross else 0.9)  # fmt: skip


def _differences(axes: Axes, place: int, row: Row, look: Look) -> None:
    low, high = axes.get_xlim()
    for pair in row.pairs:
        x, inside = _held(axes, pair.difference)
        strong = pair is row.driver
        _point(axes, x, place - ABOVE, look.marker if inside else "x", INK if strong and inside else look.color, look.color)
        if strong:
            edge = 0.2 * (high - low)
            rightward = x < low + edge or 0 <= x <= high - edge  # away from the line at zero where there is room
            aside = (-2, 5) if rightward else (2, 5)
            side = "left" if rightward else "right"
            axes.annotate(f"seed {pair.seed}", (x, place - ABOVE), aside, textcoords="offset points", fontsize=9, ha=side)
    if row.finding.interval:
        ends = [_held(axes, end) for end in row.finding.interval]
        axes.plot([x for x, _ in ends], [place + BELOW] * 2, color=INK, linewidth=2, solid_capstyle="butt", zorder=3)
        for (x, inside), arrow in zip(ends, ("<", ">"), strict=True):
            axes.plot(x, place + BELOW, "|" if inside else arrow, color=INK, markersize=8, clip_on=False, zorder=3)
    mean, inside = _held(axes, row.finding.estimate or 0.0)
    if inside:
        axes.plot(mean, place + BELOW, "D", color=look.color, markeredgecolor=INK, markersize=6.5, zorder=4)
    gain = "–" if row.gain is None else f"×{row.gain:.2f}" if row.gain < 10 else f"×{row.gain:.0f}"
    axes.text(1.03, place, gain, transform=axes.get_yaxis_transform(), va="center", fontsize=10.5)


def _signs(bundle: Bundle, rows: list[Row]) -> list[Line2D]:
    """Entries of the legend."""
    interval = f"mean, {bundle.percent} {bundle.findings.plan.interval_word}"
    signs = [
        Line2D([], [], color=INK, marker="o", markerfacecolor="none", linestyle="none", label="baseline"),
        Line2D([], [], color=INK, marker="o", linestyle="none", label="arm (its own sign)"),
        Line2D([], [], color=INK, linewidth=1.2, label="arm better"),
        Line2D([], [], color=INK, linewidth=1.2, linestyle=WORSE, label="arm worse"),
        Line2D([], [], color=INK, marker="D", label=interval if any(r.finding.interval for r in rows) else "mean"),
    ]
    if any(p.diverged for r in rows for p in r.pairs):
        signs.append(Line2D([], [], color=INK, marker="x", linestyle="none", markeredgewidth=1.6, label="diverged"))
    return signs
