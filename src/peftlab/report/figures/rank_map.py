"""Who got the rank: final ranks by block and role."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure as Canvas

from peftlab.analysis.layers import ModuleMap
from peftlab.analysis.words import plural
from peftlab.report.figures._modules import Grid, axes_of, cells, grid_of, ink, scale, ticks
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, WIDE_IN, short

MOST_ARMS = 6
MOST_BLOCKS = 13  #: more, and numbers no longer fit into the cells
SHORT = 14  #: letters of a name, at most, that fits over one of two panels in the width of a column
NARROW = 6  #: blocks, at most, of which two panels fit side by side


@dataclasses.dataclass(frozen=True)
class RankMap(Figure):
    """A heat map per arm with an allocator: mean final rank over seeds, and half the width of its interval."""

    name: ClassVar[str] = "rank_map"
    title: ClassVar[str] = "Who got the rank"
    asks: ClassVar[str] = "Which layers did the allocator give the rank to?"
    place: ClassVar[int] = 50
    section: ClassVar = "layers"

    def needs(self) -> tuple[str, ...]:
        return ("layers",)

    def absent(self, bundle: Bundle) -> str:
        return Figure.absent(self, bundle) or ("" if _maps(bundle) else "no allocator decided ranks")

    def draw(self, bundle: Bundle) -> Canvas:
        maps = _maps(bundle)
        grids = [grid_of(m) for m in maps]
        blocks, roles = axes_of(grids)
        high = max(module.mean for grid in grids for module in grid.values())
        colors, norm = scale("cividis"), Normalize(0, max(high, 1.0))
        height = 0.36 * len(roles) + 0.42
        columns = 2 if len(blocks) <= NARROW and len(maps) > 2 else 1
        rows = -(-len(maps) // columns)
        wide = columns == 2 and max(len(found.arm) for found in maps) > SHORT
        figure = Canvas(figsize=(WIDE_IN if wide else COLUMN_WIDTH_IN, height * rows + 0.75), layout="constrained")
        table = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for panel, found, grid in zip(table.flat, maps, grids, strict=False):
            _panel(panel, grid, (blocks, roles), colors, norm)
            panel.set_title(f"{short(found.arm, 44 // columns)} (n = {found.n})", loc="left", fontsize=11)
        for panel in table.flat[len(maps) :]:
            panel.set_visible(False)
        for panel in table.flat[max(0, len(maps) - columns) : len(maps)]:
            panel.set_xlabel("block")
            panel.tick_params(labelbottom=True)
        bar = figure.colorbar(ScalarMappable(norm, colors), ax=table, fraction=0.04, pad=0.02)
        bar.set_label("final rank, mean over seeds")
        bar.outline.set_visible(False)  # pyright: ignore
        return figure

    def caption(self, bundle: Bundle) -> str:
        maps = _maps(bundle)
        text = "Rank of every adapted layer at the end of training, by block and role, mean over seeds"
        if any(m.interval for found in maps for m in found.modules):
            text += f"; ± is half the width of its {bundle.percent} t interval over seeds (n above each map)"
        left = len(_all(bundle)) - len(maps)
        return text + "." + (f" Not drawn, in analysis/ranks.csv: {plural(left, 'arm')}." if left else "")


def _all(bundle: Bundle) -> list[ModuleMap]:
    return [m for m in bundle.layers.ranks if grid_of(m)] if bundle.layers else []


def _maps(bundle: Bundle) -> list[ModuleMap]:
    return _all(bundle)[:MOST_ARMS]


def _panel(axes: Axes, grid: Grid, shape: tuple[list[int], list[str]], colors: Colormap, norm: Normalize) -> None:
    blocks, roles = shape
    values = np.array([[grid[b, r].mean if (b, r) in grid else np.nan for b in blocks] for r in roles])
    cells(axes, values, colors, norm)
    axes.set_yticks(np.arange(len(roles)) + 0.5, roles)
    shown = ticks(blocks)
    axes.set_xticks(np.array(shown) + 0.5, [str(blocks[i]) for i in shown])
    if len(blocks) > MOST_BLOCKS:
        return
    for (block, role), module in grid.items():
        x, y, color = blocks.index(block) + 0.5, roles.index(role) + 0.5, ink(colors, norm, module.mean)
        half = (module.interval[1] - module.interval[0]) / 2 if module.interval else 0.0
        number = f"{module.mean:.1f}" if half else f"{module.mean:.1f}".removesuffix(".0")
        axes.text(x, y - (0.16 if half else 0), number, ha="center", va="center", fontsize=9, color=color)
        if half:
            axes.text(x, y + 0.26, f"±{half:.1f}", ha="center", va="center", fontsize=6.5, color=color)
