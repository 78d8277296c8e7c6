"""What matplotlib does with a font in a PDF or EPS takes most of the time of saving: less of it, the same figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LAYOUT_TABLES = ("GSUB", "GPOS", "GDEF", "kern")


@contextmanager
def without_layout_tables() -> Iterator[None]:
    """Fonts are embedded without OpenType's layout tables, which no viewer of a PDF reads and which take most of the time.

    fontTools has a list of tables to drop, but reads those on it first, and matplotlib has no way to add to it. They are taken
    out as a font is loaded; where it is loaded in another way, it only takes longer.
    """
    from fontTools import subset

    before = subset.load_font

    def load(*args: Any, **options: Any) -> Any:
        font = before(*args, **options)
        for table in LAYOUT_TABLES:
            if table in font:
                del font[table]
        return font

    subset.load_font = load
    try:
        yield
    finally:
        subset.load_font = before


@contextmanager
def boxes_of_headers() -> Iterator[None]:
    """The box that holds every letter of a font, which EPS states of each font in it, is read from the font's header, where it
    stands in whole units. matplotlib outlines all six thousand letters for it, in each file anew: most of the time of an EPS."""
    from matplotlib.backends import backend_ps

    before = getattr(backend_ps, "_bounds", None)
    if before is not None:
        backend_ps._bounds = _box_of_header
    try:
        yield
    finally:
        if before is not None:
            backend_ps._bounds = before


def _box_of_header(font: Any) -> tuple[int, int, int, int]:
    head = font["head"]
    return head.xMin, head.yMin, head.xMax, head.yMax
