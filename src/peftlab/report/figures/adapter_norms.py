"""How far the weights moved: the size of every module's update beside the weight that it changes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from peftlab.analysis.layers import ModuleMap
from peftlab.analysis.words import plural, significant
from peftlab.report.figures._modules import Grid, axes_of, cells, grid_of, ink, scale, ticks
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, WIDE_IN, short

MOST_ARMS = 6
MOST_BLOCKS = 8  #: more, and numbers no longer fit into the cells
SHORT = 14  #: letters of a name, at most, that fits over one of two panels in the width of a column
NARROW = 6  #: blocks, at most, of which two panels fit side by side
SPAN = 1e4  #: what lies further below the largest has the colour of the end


@dataclasses.dataclass(frozen=True)
class AdapterNorms(Figure):
    """A heat map per arm: ||dW|| / ||W0|| by block and role, mean over seeds, one logarithmic scale for all arms."""

    name: ClassVar[str] = "adapter_norms"
    title: ClassVar[str] = "How far the weights moved"
    asks: ClassVar[str] = "How far did training move which weights?"
    place: ClassVar[int] = 80
    section: ClassVar = "diagnostics"

    def needs(self) -> tuple[str, ...]:
        return ("diagnostics",)

    def absent(self, bundle: Bundle) -> str:
        return Figure.absent(self, bundle) or ("" if _maps(bundle) else "no run recorded norms of its modules")

    def draw(self, bundle: Bundle) -> Canvas:
        maps = _maps(bundle)[:MOST_ARMS]
        grids = [grid_of(m) for m in maps]
        blocks, _ = axes_of(grids)
        columns = 2 if len(blocks) <= NARROW and len(maps) > 2 else 1
        rows = [axes_of(grids[i : i + columns])[1] for i in range(0, len(grids), columns)]
        known = [module.mean for grid in grids for module in grid.values() if module.mean > 0]
        high = max(known)
        colors, norm = scale("cividis"), LogNorm(max(min(known), high / SPAN) * (1 - 1e-9), high * (1 + 1e-9), clip=True)
        heights = [len(roles) + 1.2 for roles in rows]
        wide = columns == 2 and max(len(found.arm) for found in maps) > SHORT
        figure = Canvas(figsize=(WIDE_IN if wide else COLUMN_WIDTH_IN, 0.3 * sum(heights) + 0.7), layout="constrained")
        panels = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey="row", height_ratios=list(map(len, rows)))
        for place, (found, grid) in enumerate(zip(maps, grids, strict=True)):
            panel = panels.flat[place]
            _panel(panel, grid, (blocks, rows[place // columns]), colors, norm)
            panel.set_title(f"{short(found.arm, 44 // columns)} (n = {found.n})", loc="left", fontsize=11)
        for panel in panels.flat[len(maps) :]:
            panel.set_visible(False)
        for panel in panels.flat[max(0, len(maps) - columns) : len(maps)]:
            panel.set_xlabel("block")
            panel.tick_params(labelbottom=True)
        bar = figure.colorbar(ScalarMappable(norm, colors), ax=panels, fraction=0.04, pad=0.02)
        bar.set_label("‖ΔW‖ / ‖W₀‖, mean over seeds")
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        bar.outline.set_visible(False)  # pyright: ignore
        return figure

    def caption(self, bundle: Bundle) -> str:
        text = (
            "Frobenius norm of the update of every module over that of the weight it changes, with the weights that were tested, "
            "by block and role, mean over seeds (n above each map). Of adapters without factors: the change of what a module "
            "trains; other: norms, or what was put in."
        )
        left = len(_maps(bundle)) - MOST_ARMS
        return text + (f" Not drawn, in analysis/adapter_norms.csv: {plural(left, 'arm')}." if left > 0 else "")


def _maps(bundle: Bundle) -> list[ModuleMap]:
    """Maps in which something moved."""
    said = bundle.diagnostics
    return [m for m in said.maps if any(module.mean > 0 for module in grid_of(m).values())] if said else []


def _panel(axes: Axes, grid: Grid, shape: tuple[list[int], list[str]], colors: Colormap, norm: Normalize) -> None:
    blocks, roles = shape
    cells(axes, np.array([[_value(grid, b, r) for b in blocks] for r in roles]), colors, norm)
    axes.set_yticks(np.arange(len(roles)) + 0.5, roles)
    shown = ticks(blocks)
    axes.set_xticks(np.array(shown) + 0.5, [str(blocks[i]) for i in shown])
    if len(blocks) > MOST_BLOCKS:
        return
    for (block, role), module in grid.items():
        if module.mean > 0:
            place = (blocks.index(block) + 0.5, roles.index(role) + 0.5)
            number, color = significant(module.mean, 2), ink(colors, norm, module.mean)
            axes.text(*place, number, ha="center", va="center", fontsize=8, color=color)


def _value(grid: Grid, block: int, role: str) -> float:
    module = grid.get((block, role))
    return module.mean if module is not None and module.mean > 0 else np.nan
