"""Quantities of runs that may go together: validation with test, arms with the baseline over the seeds."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from peftlab.analysis.arms import Scatter
from peftlab.analysis.correlations import Correlation, between, within
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import Frame


def scatters(frame: Frame, findings: Findings, setting: tuple[str, str], table: pd.DataFrame) -> list[Scatter]:
    """Validation against the judged split, and every arm against the baseline over the seeds."""
    found = []
    rows = frame.rows[(frame.rows["task"] == setting[0]) & (frame.rows["backbone"] == setting[1]) & ~frame.rows["imputed"]]
    rows = rows[rows["metric"] == findings.plan.metric]
    if frame.split != "validation":
        both = rows.pivot_table(index=["label", "run_id"], columns="split", values="value", aggfunc="first", sort=False)
        if {"validation", frame.split} <= set(both.columns):
            both = both.dropna(subset=["validation", frame.split])
            labels = [str(label) for label, _ in both.index]
            found.append(_scatter("validation", labels, both["validation"].to_numpy(), both[frame.split].to_numpy(), findings))
    base = findings.plan.baseline
    if base in table.columns and len(table.columns) > 1 and len(table) > 2:
        own = table[base].to_numpy()
        others = [str(label) for label in table.columns if label != base]
        labels = [label for label in others for _ in range(len(table))]
        x, y = np.tile(own, len(others)), np.concatenate([table[label].to_numpy() for label in others])
        found.append(_scatter("seeds", labels, x, y, findings))
    return [s for s in found if len(s.x) > 2]


def _scatter(kind: str, labels: Sequence[str], x: np.ndarray, y: np.ndarray, findings: Findings) -> Scatter:
    kept = np.isfinite(x) & np.isfinite(y)
    labels, x, y = [label for label, k in zip(labels, kept, strict=True) if k], x[kept], y[kept]
    confidence = findings.plan.confidence
    return Scatter(
        kind=kind, arm=labels, x=x.tolist(), y=y.tolist(),
        between=_told(between(x, y, labels, confidence)) if kind == "validation" else None,
        within=_told(within(x, y, labels)),
    )  # fmt: skip


def _told(found: Correlation | None) -> tuple[float, tuple[float, float] | None, int] | None:
    return None if found is None else (found.r, found.interval, found.n)
