"""What the figures about layers share: modules on a grid of blocks and roles, drawn as cells of a heat map."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from numpy.typing import NDArray

from peftlab.analysis.layers import Module, ModuleMap

ROLES = ("q", "k", "v", "o", "qkv", "up", "gate", "down", "other")
DARK, LIGHT, EMPTY = "#010101", "#FFFFFF", "#8C8C8C"  #: not pure black: the page recolours that
LEVELS = 47  #: odd: a diverging scale has its middle; below 49 matplotlib draws the colour bar in vectors, not as an image
Grid = dict[tuple[int, str], Module]


def scale(name: str) -> Colormap:
    """A colour scale for cells and their colour bar."""
    return mpl.colormaps[name].resampled(LEVELS)


def grid_of(found: ModuleMap) -> Grid:
    """(block, role) -> module; modules outside the blocks, and second ones of a role, are not drawn."""
    grid: Grid = {}
    for module in found.modules:
        if module.block is not None and module.role in ROLES:
            grid.setdefault((module.block, module.role), module)
    return grid


def axes_of(grids: Sequence[Grid]) -> tuple[list[int], list[str]]:
    """(blocks, roles) that any of the grids has."""
    blocks = sorted({block for grid in grids for block, _ in grid})
    present = {role for grid in grids for _, role in grid}
    return blocks, [role for role in ROLES if role in present]


def cells(axes: Axes, values: NDArray[np.float64], colors: Colormap, norm: Normalize) -> None:
    """Cells [rows, columns] as vector rectangles, the first row on top; missing ones stay empty."""
    mesh = np.ma.masked_invalid(values)
    axes.pcolormesh(mesh, cmap=colors, norm=norm, edgecolors="face", linewidth=0.2)
    axes.set_ylim(values.shape[0], 0)
    axes.grid(False)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def ink(colors: Colormap, norm: Normalize, value: float) -> str:
    """The text colour that can be read on a cell."""
    red, green, blue, _ = colors(float(norm(value)))
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else LIGHT


def ticks(blocks: Sequence[int], most: int = 13) -> list[int]:
    """Positions of the blocks that are named on an axis."""
    step = -(-len(blocks) // most)
    return list(range(0, len(blocks), step))
