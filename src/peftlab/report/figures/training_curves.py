"""How training went: the metric and the loss over steps."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from peftlab.report.figures._quality import axis_name, scale_quality
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import MOST_LABELS, WIDE_IN, Look, even_ticks, legend_below

MOST_POINTS = 200


@dataclasses.dataclass(frozen=True)
class TrainingCurves(Figure):
    """Validation metric and loss over optimizer steps: mean and range over seeds, diverged runs on their own.

    Beside the validation loss, dotted, the training loss between two evaluations: where they part, an arm over-fits.
    """

    name: ClassVar[str] = "training_curves"
    title: ClassVar[str] = "Training curves"
    asks: ClassVar[str] = "How did training go, and where does an arm over-fit or diverge?"
    place: ClassVar[int] = 30

    def needs(self) -> tuple[str, ...]:
        return ("curves",)

    def draw(self, bundle: Bundle) -> Canvas:
        metric = bundle.findings.plan.metric
        shown = [m for m in (metric, "loss") if m in bundle.curves.columns]
        figure = Canvas(figsize=(WIDE_IN, 3.9), layout="constrained")
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        curves = bundle.curves[bundle.curves["split"] == "validation"]
        if curves.empty:
            curves = bundle.curves
        for panel, name in zip(panels, shown, strict=True):
            several = len(bundle.arms) > MOST_LABELS  # bands and second lines of many arms hide one another
            for label, over in means(curves, name).items():
                _draw_arm(panel, over, bundle.looks[label], band=not several)
            for (label, *_), run in curves[curves["diverged"]].groupby(["label", "seed", "fold"], sort=False):
                panel.plot(run["step"], run[name], color=bundle.looks[str(label)].color, linewidth=1.0, linestyle=(0, (1, 1.5)))
            if name == "loss" and not several:
                for label, group in training_loss(bundle.curves).groupby("label", sort=False):
                    over = group.groupby("step")["loss"].mean()
                    panel.plot(over.index, over, color=bundle.looks[str(label)].color, linewidth=1.2, linestyle=":", zorder=2)
            _frame_sound_runs(panel, curves, name)
            panel.set_xlabel("optimizer step")
            panel.set_ylabel(_axis(name, bundle.curves, str(curves["split"].iloc[0])))
            panel.xaxis.set_major_locator(even_ticks(5, integer=True))
            scale_quality(panel, name)
        legend_below(figure, [bundle.looks[a.label] for a in bundle.arms], lines=True)
        return figure

    def caption(self, bundle: Bundle) -> str:
        text = (
            f"Mean over runs (line, {bundle.count}) and the range from the lowest to the highest run (band, no interval), on "
            "validation data."
        )
        if not training_loss(bundle.curves).empty:
            text += " Dotted beside it: the training loss between two evaluations, mean over runs."
        if bundle.curves["diverged"].any():
            text += " Runs that diverged are drawn one by one as thin dotted lines and are not in the mean of the curve."
        return text


def training_loss(curves: pd.DataFrame) -> pd.DataFrame:
    """``label``, ``seed``, ``fold``, ``step`` and ``loss`` of sound runs: the mean since the evaluation before that step.

    Empty where training or validation was not recorded.
    """
    unit = ["label", "seed", "fold"]
    sound = curves[~curves["diverged"]] if "loss" in curves.columns else curves.iloc[:0]
    sound = sound.assign(run=sound.groupby(unit, sort=False).ngroup())
    train, stops = (sound[sound["split"] == split].sort_values("step", kind="stable") for split in ("train", "validation"))
    until = stops[["run", "step"]].drop_duplicates().assign(until=lambda t: t["step"])
    both = pd.merge_asof(
        train.astype({"step": "int64"}), until.astype({"step": "int64"}), on="step", by="run", direction="forward"
    )
    means = both.dropna(subset=["until"]).groupby([*unit, "until"], sort=False)["loss"].mean().reset_index()
    return means.rename(columns={"until": "step"})


def _axis(name: str, curves: pd.DataFrame, split: str) -> str:
    both = name == "loss" and not training_loss(curves).empty
    return "loss (dotted: on training data)" if both else axis_name(name, split)


def _frame_sound_runs(axes: Axes, curves: pd.DataFrame, name: str) -> None:
    """A diverged run may leave the picture; the others must stay readable."""
    sound = curves.loc[~curves["diverged"], name].dropna()
    if sound.empty or not curves["diverged"].any():
        return
    room = 0.06 * (sound.max() - sound.min()) or 0.01
    axes.set_ylim(sound.min() - room, sound.max() + room)


def means(curves: pd.DataFrame, name: str) -> dict[str, pd.DataFrame]:
    """Label -> ``mean``, ``min`` and ``max`` over its sound runs by step, where at least half of them have a value.

    A step that only few seeds reached would make the line jump.
    """
    sound = curves[~curves["diverged"]].dropna(subset=[name])
    table = sound.groupby(["label", "step"], sort=False)[name].agg(["mean", "min", "max", "count"])
    found = {}
    for label, over in table.groupby(level="label", sort=False):
        over = over.droplevel("label").sort_index()
        over = over[over["count"] >= 0.5 * over["count"].max()]
        found[str(label)] = over.iloc[:: max(1, len(over) // MOST_POINTS)]
    return found


def _draw_arm(axes: Axes, over: pd.DataFrame, look: Look, *, band: bool) -> None:
    axes.plot(over.index, over["mean"], color=look.color, linestyle=look.dash, zorder=3)
    if band:
        axes.fill_between(over.index, over["min"], over["max"], color=look.color, alpha=0.13, linewidth=0, zorder=2)
