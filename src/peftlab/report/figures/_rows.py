"""A row per arm, names on the left: the form of figures that stay readable with two arms and with forty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from peftlab.report.style import COLUMN_WIDTH_IN, short

MOST_ROWS = 40
LONGEST = 26  #: characters of a name


def rows_canvas(names: Sequence[str], columns: int = 1, *, width: float = COLUMN_WIDTH_IN) -> tuple[Canvas, list[Axes]]:
    """A canvas as tall as its rows need, the first name on top; all columns share the rows."""
    height = 0.95 + (0.34 if len(names) <= 20 else 0.27) * max(2, len(names))
    canvas = Canvas(figsize=(width, height), layout="constrained")
    panels = list(canvas.subplots(1, columns, squeeze=False, sharey=True)[0])
    panels[0].set_yticks(np.arange(len(names)), [short(name, LONGEST) for name in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    for panel in panels:
        panel.grid(axis="y", visible=False)
        panel.tick_params(axis="y", length=0)
    return canvas, panels


def left_out(names: Sequence[str], where: str, most: int = MOST_ROWS) -> str:
    """The end of a caption where rows are missing."""
    return f" The first {most} of {len(names)}; all are in {where}." if len(names) > most else ""


def ends(middle: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    """Of an interval, as matplotlib wants them."""
    return None if interval is None else [[middle - interval[0]], [interval[1] - middle]]
