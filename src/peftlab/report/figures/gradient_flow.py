"""How large gradients are in the depth of the model, over training."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from peftlab.analysis.words import plural
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import DASHES, WIDE_IN, entries_below, even_ticks, short

COLUMNS = 3
MOST_ARMS, MOST_BLOCKS = 6, 4
HEAD = "head"


@dataclasses.dataclass(frozen=True)
class GradientFlow(Figure):
    """Gradient norm per block and of the head over optimizer steps: a panel per arm, mean and range over seeds."""

    name: ClassVar[str] = "gradient_flow"
    title: ClassVar[str] = "Gradient flow"
    asks: ClassVar[str] = "Do gradients reach all depths, and do they explode or vanish?"
    place: ClassVar[int] = 60
    section: ClassVar = "gradients"

    def needs(self) -> tuple[str, ...]:
        return ("gradients",)

    def draw(self, bundle: Bundle) -> Canvas:
        arms = _arms(bundle)[:MOST_ARMS]
        norms = block_norms(bundle, arms)
        columns = min(COLUMNS, len(arms))
        rows = -(-len(arms) // columns)
        figure = Canvas(figsize=(WIDE_IN, 2.4 * rows + 0.7), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        shown = _shown(norms)
        looks = _looks(shown)
        for panel, arm in zip(panels, arms, strict=False):
            for place in shown:
                here = (
                    norms[(norms["arm"] == arm) & (norms["place"] == place)].groupby("step")["norm"].agg(["mean", "min", "max"])
                )
                color, dash = looks[place]
                panel.plot(here.index, here["mean"], color=color, linestyle=dash, zorder=3)
                panel.fill_between(here.index, here["min"], here["max"], color=color, alpha=0.1, linewidth=0, zorder=2)
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.set_title(short(arm, 24), loc="left", fontsize=11)
            panel.xaxis.set_major_locator(even_ticks(4, integer=True))
            panel.tick_params(labelbottom=True)
        for panel in panels[len(arms) :]:
            panel.set_visible(False)
        for panel in panels[max(0, len(arms) - columns) : len(arms)]:
            panel.set_xlabel("optimizer step")
        for panel in panels[: len(arms) : columns]:
            panel.set_ylabel("gradient norm")
        handles = [Line2D([], [], color=c, linestyle=d, label=_word(place)) for place, (c, d) in looks.items()]
        entries_below(figure, handles, handle_length=2.6)
        return figure

    def caption(self, bundle: Bundle) -> str:
        text = (
            "Norm of the gradient of all that is trained in a block, before clipping: mean over runs (line) and the range from "
            f"the lowest to the highest run (band, no interval); {bundle.count}."
        )
        drawn, left = _arms(bundle)[:MOST_ARMS], _arms(bundle)[MOST_ARMS:]
        table = recorded(bundle, drawn)
        if table.loc[(table["role"] != HEAD) & (table["norm"] > 0), "block"].nunique() > MOST_BLOCKS:
            text += f" {MOST_BLOCKS} blocks, evenly spread in depth, stand for all."
        return text + (f" Not drawn, in analysis/gradient_flow.csv: {plural(len(left), 'arm')}." if left else "")


def recorded(bundle: Bundle, arms: Collection[str]) -> pd.DataFrame:
    """Rows of these arms, one a module and step (analysis/gradient_flow.py)."""
    assert bundle.gradients is not None, "the figure is absent where there are none"
    return bundle.gradients.loc[bundle.gradients["arm"].isin(arms)]


def block_norms(bundle: Bundle, arms: Collection[str]) -> pd.DataFrame:
    """arm, seed, fold, step, place (block number, or the head), norm: modules of a block taken together; zeros left out."""
    table = recorded(bundle, arms)
    place = table["block"].astype(object).where(table["role"] != HEAD, HEAD)
    kept = table.assign(place=place, square=table["norm"] ** 2)[place.notna() & table["norm"].notna()]
    sums = kept.groupby(["arm", "seed", "fold", "step", "place"], sort=False)["square"].sum().reset_index()
    sums["norm"] = np.sqrt(sums["square"])
    return sums.loc[sums["norm"] > 0]


def _arms(bundle: Bundle) -> list[str]:
    recorded = set(bundle.gradients["arm"]) if bundle.gradients is not None else set()
    return [a.label for a in bundle.arms if a.label in recorded]


def _shown(norms: pd.DataFrame) -> list[object]:
    """Blocks evenly spread from the first to the last, then the head."""
    places = set(norms["place"])
    blocks = sorted(p for p in places if p != HEAD)
    number = min(MOST_BLOCKS, len(blocks))
    chosen = [blocks[round(i * (len(blocks) - 1) / max(1, number - 1))] for i in range(number)]
    return [*chosen, *([HEAD] if HEAD in places else [])]


def _looks(shown: list[object]) -> dict[object, tuple[object, object]]:
    """Depth as a scale that is told apart with every colour blindness, and by its dashes; the head black."""
    blocks = [place for place in shown if place != HEAD]
    colors = colormaps["viridis"](np.linspace(0.0, 0.82, max(1, len(blocks))))
    looks: dict[object, tuple[object, object]] = {
        place: (tuple(colors[i]), DASHES[i % len(DASHES)]) for i, place in enumerate(blocks)
    }
    return looks | ({HEAD: ("#000000", DASHES[-1])} if HEAD in shown else {})


def _word(place: object) -> str:
    return HEAD if place == HEAD else f"block {place}"
