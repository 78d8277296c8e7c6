"""What saving memory costs: quality lost against the share of the baseline's memory saved."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from peftlab.analysis.arms import Resources
from peftlab.report.figures._quality import difference_name, margin_limit, tick
from peftlab.report.figures._rows import ends
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import COLUMN_WIDTH_IN, even_ticks, legend_below


@dataclasses.dataclass(frozen=True)
class MemoryReduction(Figure):
    """Paired difference of quality from the baseline against the share of its peak memory that an arm saves."""

    name: ClassVar[str] = "memory_reduction"
    title: ClassVar[str] = "Memory saved against quality lost"
    asks: ClassVar[str] = "How much quality does saved training memory cost?"
    place: ClassVar[int] = 25

    def needs(self) -> tuple[str, ...]:
        return ("compared.resources", "baseline")

    def absent(self, bundle: Bundle) -> str:
        return Figure.absent(self, bundle) or ("" if _rows(bundle) else "there are no arms to set beside a baseline's memory")

    def draw(self, bundle: Bundle) -> Canvas:
        rows, metric = _rows(bundle), bundle.findings.plan.metric
        canvas = Canvas(figsize=(COLUMN_WIDTH_IN, 4.2), layout="constrained")
        axes = canvas.add_subplot()
        axes.axhline(0, color="#7F7F7F", linewidth=1.2, zorder=1)
        base, limit = bundle.baseline, margin_limit(bundle)
        if base is not None and base.mean is not None and limit is not None:
            axes.axhline(limit - base.mean, color="#7F7F7F", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        for row in rows:
            look = bundle.looks[row.arm]
            assert row.saved is not None and row.change is not None
            x, across = 100 * row.saved.mean, row.saved.interval
            wide = ends(x, (100 * across[0], 100 * across[1])) if across else None
            axes.errorbar(
                [x], [row.change], yerr=ends(row.change, row.interval), xerr=wide, color=look.color, marker=look.marker,
                markersize=8, markeredgecolor="white", markeredgewidth=0.8, elinewidth=1.5, capsize=2, zorder=3,
            )  # fmt: skip
        sound = [r for r in rows if r.arm not in {a.label for a in bundle.arms if a.imputed}] or rows
        values = [v for r in sound for v in (r.change, *(r.interval or ())) if v is not None] + [0.0]
        room = 0.06 * (max(values) - min(values)) or 0.01
        axes.set_ylim(min(values) - room, max(values) + room)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(even_ticks(6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, metric)))
        axes.set_xlabel("training peak saved (%)")
        axes.set_ylabel(difference_name(metric, base.label if base else None))
        legend_below(canvas, [bundle.looks[r.arm] for r in rows])
        return canvas

    def caption(self, bundle: Bundle) -> str:
        plan, base = bundle.findings.plan, bundle.baseline
        text = (
            f"Every arm against {base.label if base else ''} (the point 0, 0) over the same seeds ({bundle.count}): difference "
            f"of {plan.metric} with its {bundle.percent} {plan.interval_word}, and share of the measured training peak saved "
            f"(without what the bare process takes), with its {bundle.percent} t interval. Dashed, where in sight: the margin."
        )
        return text + (" Arms with diverged runs may lie below the picture." if any(a.imputed for a in bundle.arms) else "")


def _rows(bundle: Bundle) -> list[Resources]:
    rows = bundle.compared.resources if bundle.compared else []
    return [r for r in rows if r.saved is not None and r.change is not None]
