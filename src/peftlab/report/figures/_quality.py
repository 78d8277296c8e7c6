"""The quality axis that several figures share: readable although a diverged run lies far below everything else."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from peftlab.analysis.words import is_share, show_difference, show_margin
from peftlab.report.figures.contract import Bundle
from peftlab.report.style import short


def axis_name(metric: str, split: str = "") -> str:
    """``accuracy on test (%)``."""
    words = metric.replace("_", " ") + (f" on {split}" if split else "")
    return f"{words} (%)" if is_share(metric) else words


def scale_quality(axes: Axes, metric: str) -> None:
    if is_share(metric):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def tick(value: float, metric: str) -> str:
    """A difference beside an axis."""
    return "0" if abs(value) < 1e-12 else show_difference(value, metric, 1)


def quality_limits(bundle: Bundle, *, seeds: bool = True) -> tuple[float, float]:
    """Limits that hold everything but the diverged runs and what they do to their arm's mean and interval."""
    runs = bundle.runs[~bundle.runs["imputed"]]
    values = [float(v) for v in runs["value"].dropna()] if seeds else []
    for arm in bundle.arms:
        if not arm.imputed:
            values += [v for v in (arm.mean, *(arm.interval or ())) if v is not None]
    if (limit := margin_limit(bundle)) is not None:
        values.append(limit)
    if not values:
        values = [float(v) for v in bundle.runs["value"].dropna()] or [0.0, 1.0]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.01 * max(abs(high), 1.0)
    return low - room, high + room


def margin_limit(bundle: Bundle) -> float | None:
    """Level of the metric at which an arm is exactly at the margin of the baseline's mean."""
    base, plan = bundle.baseline, bundle.findings.plan
    if base is None or base.mean is None:
        return None
    sign = -1 if plan.higher_is_better else 1
    if plan.margin_absolute is not None:
        return base.mean + sign * plan.margin_absolute
    return base.mean * (1 + sign * (plan.margin_relative or 0.0))


def draw_baseline(axes: Axes, bundle: Bundle, *, words: bool = True) -> None:
    """The baseline's mean and the limit of the margin as lines across."""
    base, limit = bundle.baseline, margin_limit(bundle)
    if base is None or base.mean is None or limit is None:
        return
    axes.axhline(base.mean, color="#7F7F7F", linewidth=1.2, zorder=1)
    axes.axhline(limit, color="#7F7F7F", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    if words:
        highest = max(limit, base.mean)  # each name on the side where the other line is not, however near they are
        name_line(axes, limit, f"{show_margin(bundle.margin, bundle.findings.plan.metric)} margin", above=limit == highest)
        name_line(axes, base.mean, short(base.label, 24), left=True, above=base.mean == highest)


def name_line(axes: Axes, height: float, text: str, *, left: bool = False, above: bool = True) -> None:
    """What a line across stands for, written at one of its ends, just above or below it."""
    axes.annotate(
        text, (0 if left else 1, height), xycoords=("axes fraction", "data"), xytext=(3 if left else -2, 3 if above else -3),
        textcoords="offset points", ha="left" if left else "right", va="bottom" if above else "top", fontsize=9.5,
        color="#000000", alpha=0.65,
    )  # fmt: skip


def difference_name(metric: str, baseline: str | None) -> str:
    """``accuracy: difference`` and, on a line of its own, ``from full (points)``."""
    against = f"\nfrom {short(baseline, 20)}" if baseline else ""
    return f"{metric.replace('_', ' ')}: difference{against}{' (points)' if is_share(metric) else ''}"
