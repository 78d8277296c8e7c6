"""Quality against the size of what is deployed."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from matplotlib.figure import Figure as Canvas

from peftlab.report.figures._fronts import FRONT, SURE, Point, draw_front
from peftlab.report.figures._quality import axis_name, quality_limits, scale_quality
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, even_ticks, legend_below

SAME = 0.05  #: sizes closer than this share tell nothing: a merged adapter adds no byte


@dataclasses.dataclass(frozen=True)
class ParetoDeployed(Figure):
    """Mean quality against the bytes of the whole model as stored, with the front."""

    name: ClassVar[str] = "pareto_deployed"
    title: ClassVar[str] = "What a byte deployed buys"
    asks: ClassVar[str] = "Which arm gives the most quality for the bytes that are deployed?"
    place: ClassVar[int] = 21

    def needs(self) -> tuple[str, ...]:
        return ("compared.resources",)

    def absent(self, bundle: Bundle) -> str:
        sizes = [p.cost for p in _points(bundle)]
        alike = not sizes or max(sizes) <= (1 + SAME) * min(sizes)
        return Figure.absent(self, bundle) or (
            "there are no two arms that differ in the size of the model stored" if alike else ""
        )

    def draw(self, bundle: Bundle) -> Canvas:
        canvas = Canvas(figsize=(COLUMN_WIDTH_IN, 4.2), layout="constrained")
        axes, plan = canvas.add_subplot(), bundle.findings.plan
        draw_front(axes, _points(bundle), bundle, quality_limits(bundle, seeds=False))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(even_ticks(5))
        axes.set_xlabel("model as stored (MB)")
        axes.set_ylabel(axis_name(plan.metric, plan.split))
        scale_quality(axes, plan.metric)
        legend_below(canvas, [bundle.looks[p.label] for p in _points(bundle)])
        return canvas

    def caption(self, bundle: Bundle) -> str:
        return (
            f"Mean {bundle.findings.plan.metric} ({bundle.count}) against the bytes of the whole model, exact: quantized arms as "
            f"stored, all others at four bytes a parameter; {FRONT}. {SURE}"
        )


def _points(bundle: Bundle) -> list[Point]:
    means = {a.label: a.mean for a in bundle.arms if a.mean is not None}
    taken = bundle.compared.resources if bundle.compared else []
    return [
        Point(r.arm, r.deployed_mb, mean, r.deployed_front or 0.0)
        for r in taken
        if r.deployed_mb is not None and (mean := means.get(r.arm)) is not None
    ]
