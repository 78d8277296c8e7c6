"""What the figures are drawn from, gathered once per setting."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from peftlab.analysis.arms import ArmFindings
from peftlab.analysis.assess_arms import METHOD, assess_arms
from peftlab.analysis.assess_diagnostics import DiagnosticTables, assess_diagnostics
from peftlab.analysis.assess_flow import FlowTables, assess_flow
from peftlab.analysis.assess_layers import LayerTables, assess_layers
from peftlab.analysis.assess_quantization import QuantizationTables, assess_quantization
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import Frame
from peftlab.analysis.layers import Layers
from peftlab.analysis.reading import metric_lines
from peftlab.report.figures.contract import Bundle

_KEPT = ("step", "epoch", "split", "loss", "time_s")


def bundles(
    frame: Frame,
    findings: Findings,
    tables: LayerTables | None = None,
    flow: FlowTables | None = None,
    quantized: QuantizationTables | None = None,
    diagnosed: DiagnosticTables | None = None,
) -> list[Bundle]:
    """One bundle per task and backbone that has arms.

    ``tables``, ``flow``, ``quantized`` and ``diagnosed``: of layers, gradients, quantized arms and what training changed; read
    anew if not given.
    """
    tables, flow, quantized = tables or assess_layers(frame), flow or assess_flow(frame), quantized or assess_quantization(frame)
    diagnostics = (diagnosed or assess_diagnostics(frame)).diagnostics
    settings = list(dict.fromkeys((a.task, a.backbone) for a in findings.arms))
    primary = frame.primary()
    rows = frame.rows
    curves = {
        (task, backbone): _curves(
            frame.folder, rows[(rows["task"] == task) & (rows["backbone"] == backbone)], findings.plan.metric
        )
        for task, backbone in settings
    }
    compared = ArmFindings(settings=assess_arms(frame, findings, curves), method=METHOD)
    found = []
    for task, backbone in settings:
        runs = primary[(primary["task"] == task) & (primary["backbone"] == backbone)]
        found.append(
            Bundle(
                task=task,
                backbone=backbone,
                findings=findings,
                arms=[a for a in findings.arms if (a.task, a.backbone) == (task, backbone)],
                runs=runs,
                curves=curves[task, backbone],
                compared=compared.of(task, backbone),
                layers=layers_of(tables.layers, task, backbone),
                ranks=tables.ranks[(tables.ranks["task"] == task) & (tables.ranks["backbone"] == backbone)],
                quantization=quantized.quantization.of(task, backbone),
                diagnostics=diagnostics.of(task, backbone),
                gradients=flow.table[(flow.table["task"] == task) & (flow.table["backbone"] == backbone)],
            )
        )
    return found


def layers_of(layers: Layers, task: str, backbone: str) -> Layers | None:
    """What is said about one setting; None where nothing is."""
    parts = {
        name: [entry for entry in getattr(layers, name) if (entry.task, entry.backbone) == (task, backbone)]
        for name in ("importance", "ranks", "contrasts", "agreement", "stability", "adaptive")
    }
    return layers.model_copy(update=parts) if any(parts.values()) else None


def _curves(folder: Path, rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    runs = rows.drop_duplicates("folder")
    lines: list[dict[str, Any]] = []
    for label, seed, fold, status, where in zip(
        runs["label"], runs["seed"], runs["fold"], runs["status"], runs["folder"], strict=True
    ):
        about = {"label": label, "seed": seed, "fold": fold, "diverged": status == "diverged"}
        for line in metric_lines(folder / where / "metrics.jsonl"):
            if isinstance(line.get("step"), int):
                lines.append(about | {key: line.get(key) for key in (*_KEPT, metric)})
    columns = ["label", "seed", "fold", "diverged", *_KEPT, *([metric] if metric not in _KEPT else [])]
    table = pd.DataFrame(lines, columns=pd.Index(columns))
    for name in {"loss", metric}:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    table = table.dropna(axis="columns", how="all") if len(table) else table
    return table.dropna(subset=["step"]) if len(table) else table
