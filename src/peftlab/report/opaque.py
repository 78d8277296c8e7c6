"""PostScript knows no transparency: colours are mixed with the white paper before a figure is written in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text


def opaque(figure: Figure) -> Figure:
    """Every artist in the colour that it has on white; what overlaps hides what is below it. Changes the figure."""
    for artist in figure.findobj():
        alpha = artist.get_alpha()
        if isinstance(artist, Line2D):
            _set(artist, alpha, "color", "markerfacecolor", "markeredgecolor")
        elif isinstance(artist, Patch | Collection):
            if isinstance(artist, Collection) and artist.get_array() is not None:
                continue  # a heat map has no transparency
            _set(artist, alpha, "facecolor", "edgecolor")
        elif isinstance(artist, Text):
            _set(artist, alpha, "color")
    return figure


def _set(artist: Artist, alpha: Any, *names: str) -> None:
    colors = {name: getattr(artist, f"get_{name}")() for name in names}
    artist.set_alpha(None)
    for name, color in colors.items():
        if isinstance(color, str) and color in ("none", "auto"):
            continue
        rgba = to_rgba_array(color)
        if alpha is not None:
            rgba[:, 3] = np.where(rgba[:, 3] > 0, alpha, 0)
        if len(rgba) == 0 or (rgba[:, 3] == 0).all():
            continue
        mixed = 1 - rgba[:, 3:] * (1 - rgba[:, :3])
        getattr(artist, f"set_{name}")(mixed if isinstance(artist, Collection) else tuple(mixed[0]))
