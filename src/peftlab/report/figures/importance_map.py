"""Which layers matter: importance by block and role, for every metric."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from peftlab.analysis.layers import ModuleMap
from peftlab.analysis.words import plural
from peftlab.report.figures._modules import axes_of, cells, grid_of, ink, scale, ticks
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import CHARACTER_IN, WIDE_IN, short

MOST_ARMS = 4
LONGEST = 22  #: letters of an arm's name
LARGEST = 8.0  #: times the average module; what lies beyond has the colour of the end


@dataclasses.dataclass(frozen=True)
class ImportanceMap(Figure):
    """A heat map per arm and metric: importance relative to the average module, mean over seeds."""

    name: ClassVar[str] = "importance_map"
    title: ClassVar[str] = "Which layers matter"
    asks: ClassVar[str] = "Which layers matter, and do the seeds say so?"
    place: ClassVar[int] = 51
    section: ClassVar = "layers"

    def needs(self) -> tuple[str, ...]:
        return ("layers",)

    def absent(self, bundle: Bundle) -> str:
        return Figure.absent(self, bundle) or ("" if _arms(bundle) else "no arm recorded importance in two seeds or more")

    def draw(self, bundle: Bundle) -> Canvas:
        arms = _arms(bundle)
        metrics = list(dict.fromkeys(metric for maps in arms.values() for metric in maps))
        grids = {(arm, metric): grid_of(m) for arm, maps in arms.items() for metric, m in maps.items()}
        blocks, roles = axes_of(list(grids.values()))
        colors, norm = scale("PuOr_r"), LogNorm(1 / LARGEST, LARGEST, clip=True)
        height = max(min(2.6, 0.17 * len(blocks) + 0.55), CHARACTER_IN * max(len(short(arm, LONGEST)) for arm in arms) + 0.1)
        figure = Canvas(figsize=(WIDE_IN, height * len(arms) + 1.25), layout="constrained")
        panels = figure.subplots(len(arms), len(metrics), squeeze=False, sharex=True, sharey=True)
        shown = ticks(blocks, 7)
        for row, arm in zip(panels, arms, strict=True):
            for panel, metric in zip(row, metrics, strict=True):
                grid, size = grids.get((arm, metric), {}), len(arms[arm][metric].modules) if metric in arms[arm] else 0
                relative = [[size * grid[b, r].mean if (b, r) in grid else np.nan for r in roles] for b in blocks]
                cells(panel, np.array(relative), colors, norm)
                for (block, role), module in grid.items():
                    if module.above or module.below:
                        color = ink(colors, norm, size * module.mean)
                        panel.plot(roles.index(role) + 0.5, blocks.index(block) + 0.5, marker=".", markersize=2.6, color=color)
                panel.set_xticks(np.arange(len(roles)) + 0.5, roles, fontsize=10)
                for label in panel.get_xticklabels() if len(roles) > 4 else ():
                    label.set_rotation(90 if len(label.get_text()) > 1 else 0)  # a letter is as narrow either way
                panel.set_yticks(np.array(shown) + 0.5, [str(blocks[i]) for i in shown])
                if not grid:
                    panel.text(0.5, 0.5, "not\nrecorded", transform=panel.transAxes, ha="center", va="center", fontsize=9)
            row[0].set_ylabel(f"{short(arm, LONGEST)}\nblock", fontsize=10.5)
        for panel, metric in zip(panels[0], metrics, strict=True):
            panel.set_title(metric.replace("_", "\n"), fontsize=10.5)
        bar = figure.colorbar(
            ScalarMappable(norm, colors), ax=panels, location="bottom", shrink=0.6, aspect=38, pad=0.02, extend="both"
        )
        bar.set_label("times the average layer", fontsize=10.5)
        bar.ax.xaxis.set_major_locator(FixedLocator([0.125, 0.25, 0.5, 1, 2, 4, 8]))
        bar.ax.xaxis.set_minor_locator(NullLocator())
        bar.ax.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: {0.125: "⅛", 0.25: "¼", 0.5: "½"}.get(value, f"{value:g}"))
        )
        bar.outline.set_visible(False)  # pyright: ignore
        return figure

    def caption(self, bundle: Bundle) -> str:
        text = (
            "Importance of every layer by block and role, relative to the average layer of the run: mean over seeds "
            f"(n = {_n(bundle)}), second half of training. Dots: the {bundle.percent} t interval over seeds, not adjusted for "
            "the number of layers, lies wholly on one side of it."
        )
        left = len({m.arm for m in bundle.layers.importance}) - len(_arms(bundle)) if bundle.layers else 0
        return text + (f" Not drawn, in analysis/importance.csv: {plural(left, 'arm')}." if left else "")


def _arms(bundle: Bundle) -> dict[str, dict[str, ModuleMap]]:
    """Arm -> metric -> map; arms with adaptive ranks first."""
    found: dict[str, dict[str, ModuleMap]] = {}
    if bundle.layers is None:
        return found
    adaptive = {row.adaptive for row in bundle.layers.adaptive}
    for m in sorted(bundle.layers.importance, key=lambda m: m.arm not in adaptive):
        if grid_of(m):
            found.setdefault(m.arm, {})[m.metric] = m
    return dict(list(found.items())[:MOST_ARMS])


def _n(bundle: Bundle) -> str:
    """Seeds of a map: ``5``, ``3 to 5``."""
    numbers = sorted({m.n for maps in _arms(bundle).values() for m in maps.values()})
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
