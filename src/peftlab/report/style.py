"""One look for every figure, and saving without anything that changes from call to call."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from peftlab.report.fonts import boxes_of_headers, without_layout_tables
from peftlab.report.opaque import opaque

#: Okabe and Ito (2008), told apart with every common colour blindness; yellow left out (too light on white), wine after Tol
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 2)))
COLUMN_WIDTH_IN = 5.5  #: text width of a single-column paper
WIDE_IN = 7.2
MOST_OVERHANG = 0.05  #: of a label, as a share of the figure, for which room is made
DARK_LINE = "#3A3A3A"  #: of intervals and zeros; in the page the colour of its text, which can be seen on a dark ground too
PNG_LEVEL = 3  #: of 9: two thirds of the time of the usual 6, for files a little larger
CHARACTER_IN, HANDLE_IN, ROW_IN = 0.088, 0.42, 0.215  #: of a legend: a letter, the sign before it with its gaps, a row
COUNT_PT = 36  #: of a count on an axis, with a gap to the next
MOST_LABELS = 12  #: beyond this, colours stand for arms of the study file, not for every value of their grids

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "axes.linewidth": 1.2,
    "figure.constrained_layout.w_pad": 0.07,  # else a panel's label touches the panel on its left
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#B0B0B0",
    "grid.alpha": 0.35,
    "grid.linewidth": 0.7,
    "xtick.major.width": 1.2,
    "ytick.major.width": 1.2,
    "xtick.minor.width": 0.8,
    "lines.linewidth": 1.8,
    "errorbar.capsize": 3,
    "text.hinting": "no_hinting",  # else letters are wider at one resolution than at another, and long names leave the picture
    "text.parse_math": False,  # a dollar sign in an arm's name is a dollar sign
    "svg.hashsalt": "peftlab",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "savefig.dpi": 300,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """How one arm is drawn, in every figure alike."""

    color: str
    marker: str
    dash: Any
    legend: str  #: entry that stands for it in the legend


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's defaults plus :data:`RC`, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        for key, value in RC.items():
            mpl.rcParams[key] = value  # pyright: ignore[reportArgumentType] (keys are a closed set of literals there)
        yield


def looks(labels: Sequence[str], arms: Sequence[str]) -> dict[str, Look]:
    """A look per label. ``arms[i]`` is the arm of the study file that ``labels[i]`` belongs to."""
    keys = list(labels) if len(labels) <= MOST_LABELS else list(arms)
    order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return {label: _look(order[key], key) for label, key in zip(labels, keys, strict=True)}


def _look(place: int, legend: str) -> Look:
    """Each time the colours begin anew the shapes shift by two: one colour then has shapes that are unlike each other."""
    color, marker = place % len(PALETTE), (place + 2 * (place // len(PALETTE))) % len(MARKERS)
    return Look(PALETTE[color], MARKERS[marker], DASHES[place % len(DASHES)], legend)


def short(text: str, most: int = 34) -> str:
    """Text cut in the middle, so that a long name does not break a figure."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


def legend_below(figure: Figure, looks_used: Sequence[Look], *, lines: bool = False, most: int = 21) -> None:
    """One legend for the whole figure, under it: an entry per look."""
    unique = list({look.legend: look for look in looks_used}.values())
    handles = [
        Line2D(
            [], [], color=k.color, marker="" if lines else k.marker, linestyle=k.dash if lines else "none", label=short(k.legend)
        )
        for k in unique[:most]
    ]
    if len(unique) > most:
        handles.append(Line2D([], [], linestyle="none", label=f"and {len(unique) - most} more"))
    entries_below(figure, handles)


def entries_below(figure: Figure, handles: Sequence[Artist], *, handle_length: float = 2.0) -> None:
    """The legend of a whole figure, under it, in as few rows as its width allows, and those as equal as they can be."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    fit = max(1, int(figure.get_figwidth() / (CHARACTER_IN * longest + HANDLE_IN)))
    rows = -(-len(handles) // fit)
    figure.set_figheight(figure.get_figheight() + ROW_IN * max(0, rows - 1))  # at no cost to what is drawn
    figure.legend(
        handles=handles, loc="outside lower center", ncols=max(1, -(-len(handles) // max(1, rows))), handletextpad=0.4,
        handlelength=handle_length, columnspacing=1.2,
    )  # fmt: skip


def even_ticks(most: int, *, integer: bool = False) -> MaxNLocator:
    """At most so many intervals between ticks, at steps that a person counts in: 1, 2, 5, 10, and not 1.5 or 8."""
    return MaxNLocator(most, steps=[1, 2, 5, 10], integer=integer, min_n_ticks=2 if not integer else 1)


def thousands(value: float, _: Any = None) -> str:
    """``970``, ``12k``, ``1.5M`` for axes of counts."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def log_counts(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic x axis with few, readable ticks; symmetric-log where a count is zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if min(values, default=1) <= 0:
        axes.set_xscale("symlog", linthresh=1)
    else:
        axes.set_xscale("log")
        low, high = min(values), max(values)
        if high / low < 4:  # a logarithmic locator would name every even step
            axes.xaxis.set_major_locator(even_ticks(3))
        elif high / low < 30:
            width_pt = axes.get_position().width * axes.get_figure(root=True).get_figwidth() * 72  # pyright: ignore[reportOptionalMemberAccess]
            apart_pt = math.log10(2) / math.log10(high / low) * width_pt  # of 1 and 2, and of 5 and 10
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if apart_pt >= COUNT_PT else (1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    axes.xaxis.set_minor_formatter(NullFormatter())


def settle(figure: Figure) -> Figure:
    """Lay the figure out once, so that saving it in several forms need not; to be called under :func:`style`.

    What its axes clip cannot reach beyond them: it is not asked for its extent, which takes most of the time.
    """
    for axes in figure.axes:
        for artist in (*axes.lines, *axes.collections, *axes.patches):
            if artist.get_clip_on():
                artist.set_in_layout(False)
    if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
        engine.execute(figure)
        margins = np.zeros(4)
        for _ in range(3):
            if not 0 < (over := _overhang(figure)).max() <= MOST_OVERHANG:  # beyond that it has no room for its parts at all
                break
            left, low, right, high = margins = margins + over
            engine.set(rect=(left, low, 1 - left - right, 1 - low - high))
            engine.execute(figure)
    figure.set_layout_engine(None)  # "none" would leave a place holder, for which matplotlib draws all twice at each saving
    return figure


def _overhang(figure: Figure) -> np.ndarray:
    """By what share of the figure labels of its axes pass it, float64 [4]: on the left, below, on the right, above. The layout
    takes those of colour bars for smaller than they become."""
    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis) if axis.label.get_text()]
    boxes = [axis.label.get_window_extent().transformed(figure.transFigure.inverted()).extents for axis in axes]
    if not boxes:
        return np.zeros(4)
    edges = np.array(boxes)  # x0, y0, x1, y1
    return np.concatenate([-edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0) - 1]).clip(min=0)


def save(figure: Figure, stem: Path, *, eps: bool = False) -> list[Path]:
    """``stem.pdf`` and ``stem.png`` (300 dpi), and ``stem.eps`` if asked for, without dates and program names: the same figure
    gives the same bytes. For EPS transparent colours are made opaque, in the figure itself: it is the last thing to be done."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = stem.with_suffix(".pdf"), stem.with_suffix(".png")
    with style(), without_layout_tables():
        figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(png, dpi=300, metadata={"Software": None}, pil_kwargs={"compress_level": PNG_LEVEL})
        return [pdf, png, _save_eps(figure, stem.with_suffix(".eps"))] if eps else [pdf, png]


def _save_eps(figure: Figure, path: Path) -> Path:
    stream = StringIO()
    with boxes_of_headers():
        opaque(figure).savefig(stream, format="eps", metadata={"Creator": "peftlab"})
    path.write_text(re.sub(r"%%CreationDate:.*\n", "", stream.getvalue()), encoding="latin-1")
    return path
