"""Figures of a setting drawn and saved, by two processes where there are two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.collections import QuadMesh

from peftlab.registry import components
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, inline_svg, save, settle, style


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
        "heat": any(axes.images or any(isinstance(c, QuadMesh) for c in axes.collections) for axes in canvas.axes),
        "half": canvas.get_figwidth() <= COLUMN_WIDTH_IN,
        "wide": bool(canvas.get_figwidth() > COLUMN_WIDTH_IN),
    }


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
