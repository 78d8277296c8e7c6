"""The result table, once: its rows serve the report, the CSV and the LaTeX file (paper/tables.py)."""

from __future__ import annotations

import csv
import dataclasses
import io
from typing import Any

from peftlab.analysis.findings import ArmSummary, Finding, Findings
from peftlab.analysis.safe_csv import safe_cell
from peftlab.analysis.words import show_count


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm in one setting, its findings beside it."""

    arm: ArmSummary
    difference: Finding | None
    margin: Finding | None
    equivalence: Finding | None

    @property
    def at_end(self) -> str:
        """Trainable parameters at the end of training; empty where there are as many as before."""
        return show_count(self.arm.trainable_at_end, missing="")

    @property
    def flags(self) -> list[str]:
        """Everything a reader of the row must know."""
        arm, found = self.arm, list(self.arm.flags)
        if arm.imputed:
            found.insert(0, f"{arm.imputed} diverged")
        if arm.failed:
            found.insert(0, f"{arm.failed} failed")
        return found


def rows(findings: Findings, task: str, backbone: str) -> list[Row]:
    """Rows of one setting, in the order of the study file."""

    def one(kind: Any, arm: ArmSummary) -> Finding | None:
        return next(iter(findings.of(kind, arm.label, task, backbone)), None)

    arms = [a for a in findings.arms if (a.task, a.backbone) == (task, backbone)]
    return [
        Row(arm=a, difference=one("difference", a), margin=one("non_inferiority", a), equivalence=one("equivalence", a))
        for a in arms
    ]


def plain(row: Row, findings: Findings) -> dict[str, Any]:
    """A row as numbers, for CSV and JSON."""
    arm, d, m, same, e = row.arm, row.difference, row.margin, row.equivalence, row.arm.efficiency
    low, high = arm.interval or (None, None)
    d_low, d_high = (d.interval if d and d.interval else None) or (None, None)
    return {
        "task": arm.task, "backbone": arm.backbone, "arm": arm.label, "n": arm.n, "metric": findings.plan.metric,
        "mean": arm.mean, "low": low, "high": high, "sd": arm.sd, "difference": d.estimate if d else None,
        "difference_low": d_low, "difference_high": d_high, "p_adjusted": d.p_adjusted if d else None,
        "p_sign_flip": d.p_sign_flip if d else None, "margin_verdict": m.verdict if m else None,
        "margin_p_adjusted": m.p_adjusted if m else None, "equivalence_verdict": same.verdict if same else None,
        "trainable": arm.trainable, "trainable_at_end": arm.trainable if arm.trainable_at_end is None else arm.trainable_at_end,
        "percent_of_baseline": arm.percent_of_baseline, "trainable_percent": arm.trainable_percent,
        "gain_kept": e.kept if e else None, "efficiency_ratio": e.ratio if e else None,
        "measured_peak_mb": arm.measured_peak_mb, "predicted_peak_mb": arm.predicted_peak_mb, "train_s": arm.train_s,
        "diverged": arm.imputed, "failed": arm.failed, "flags": "; ".join(row.flags),
    }  # fmt: skip


def as_csv(table: list[Row], findings: Findings) -> str:
    """Comma-separated, with cells that would start a formula quoted."""
    lines = [plain(row, findings) for row in table]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(lines[0]) if lines else ["arm"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: safe_cell(value) for key, value in line.items()} for line in lines)
    return stream.getvalue()
