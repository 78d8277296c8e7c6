"""Figures of a setting drawn and saved, by two processes where there are two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure as Canvas

from peftlab.registry import components
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, DARK_LINE, PALETTE, save, settle, style
from peftlab.report.svg import inline_svg

DARKEST = 0.14  #: luminance that has a contrast of 3 to the page's dark cards (#1b1f25)


def figures() -> list[Figure]:
    """All, in the order of the report."""
    found = [cls() for cls in components("figure").values() if issubclass(cls, Figure)]
    return sorted(found, key=lambda f: (f.place, f.name))


def draw(figure: Figure, bundle: Bundle, target: Path, suffix: str, eps: bool) -> dict[str, Any]:
    """What the page is told of a figure: ``absent`` why it is not there, or ``stem``, ``title``, ``caption``, ``svg`` and its
    form."""
    if reason := figure.absent(bundle):
        return {"section": figure.section, "absent": f"{figure.title}: not drawn, because {reason}."}
    with style():
        canvas = settle(figure.draw(bundle))
    caption, stem = figure.caption(bundle), f"{figure.name}{suffix}"
    svg = "" if figure.panels else inline_svg(canvas, stem, f"{figure.title}. {caption}")
    save(canvas, target / stem, eps=eps)
    return {
        "stem": stem,
        "section": figure.section,
        "title": figure.title,
        "caption": caption,
        "panels": figure.panels,
        "svg": svg,
        "heat": wants_light(canvas),
        "half": canvas.get_figwidth() <= COLUMN_WIDTH_IN,
        "wide": bool(canvas.get_figwidth() > COLUMN_WIDTH_IN),
    }


def wants_light(canvas: Canvas) -> bool:
    """Whether a figure needs a light ground on a dark page too: it has cells, or lines in dark colours that stand for a quantity.

    Other dark colours are the page's own there (:func:`peftlab.report.svg.inline_svg`).
    """
    own = {color.lower() for color in (*PALETTE, DARK_LINE, "#000000")}
    cells = any(axes.images or any(isinstance(c, QuadMesh) for c in axes.collections) for axes in canvas.axes)
    colors = {to_hex(line.get_color()) for axes in canvas.axes for line in axes.lines}
    return cells or any(luminance(color) < DARKEST for color in colors - own)


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2 of a colour ``#rrggbb``."""
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def draw_unclaimed(
    bundles: Sequence[tuple[Bundle, str]], target: Path, eps: bool, claims: Path, backwards: bool = False
) -> dict[str, dict[str, Any]]:
    """Stem -> what :func:`draw` says, of the figures that the other process has not begun: each is claimed by a file.

    Args:
        bundles: with the suffix of their files.
        claims: folder of the claims.
        backwards: from the last figure on, so that two processes meet.
    """
    work = [(figure, bundle, suffix) for bundle, suffix in bundles for figure in figures()]
    found = {}
    for figure, bundle, suffix in reversed(work) if backwards else work:
        stem = f"{figure.name}{suffix}"
        try:
            (claims / f"{stem}.claim").touch(exist_ok=False)
        except FileExistsError:
            continue
        found[stem] = draw(figure, bundle, target, suffix, eps)
    return found
