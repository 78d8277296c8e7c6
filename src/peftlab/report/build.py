"""From a results folder to ``report/``: figures, tables and the page. Only the records are read; it can be redone at any time."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftlab.analysis.analyze import conclude
from peftlab.analysis.arms import ArmFindings
from peftlab.analysis.assess_arms import METHOD
from peftlab.analysis.assess_diagnostics import assess_diagnostics
from peftlab.analysis.assess_flow import assess_flow
from peftlab.analysis.assess_layers import LayerTables, assess_layers
from peftlab.analysis.assess_quantization import assess_quantization
from peftlab.analysis.best import best_arms
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.garbage_collection import few_collections
from peftlab.analysis.literature import beside_literature
from peftlab.analysis.raced import race_table
from peftlab.records.commit import disk_errors, write_atomic
from peftlab.records.record import to_json
from peftlab.records.regular import refuse_links
from peftlab.report import facts
from peftlab.report.bundle import bundles
from peftlab.report.drawing import draw, draw_unclaimed, figures
from peftlab.report.figures._quality import margin_limit, quality_limits
from peftlab.report.figures.contract import Bundle
from peftlab.report.helper import MANY, Helper, helping
from peftlab.report.html.data import page_data
from peftlab.report.html.render import mini, render
from peftlab.report.html.runs import run_details
from peftlab.report.paper.tables import write_tables
from peftlab.report.tables import Row, as_csv, rows
from peftlab.report.tuning import tuning

FIGURES = "figures.json"  #: what lies in report/figures, with its captions


def build_report(folder: str | Path, *, seed: int = 0, eps: bool = False) -> Path:
    """Analyse the records anew and write ``report/{index.html,figures/,tables/}``.

    Args:
        folder: ``results/<study>``.
        seed: of the bootstrap.
        eps: figures as EPS as well.

    Returns:
        ``report/index.html``.

    Raises:
        RecordError: no results folder, or it cannot be written.
    """
    with few_collections():
        many = len(list(itertools.islice(Path(folder).glob("runs/*/*"), MANY))) == MANY
        with helping(many, preload=__name__) as helper:
            return _build(load_frame(folder), helper, seed, eps)


def _build(frame: Frame, helper: Helper, seed: int, eps: bool) -> Path:
    slim = frame if frame.study.search else dataclasses.replace(frame, records=())  # only races look at them again
    helper.start(_layers, slim, seed)
    flow, quantized, diagnosed = assess_flow(frame), assess_quantization(frame), assess_diagnostics(frame)
    for assessed in (flow, quantized, diagnosed):
        assessed.write(frame)
    layers = helper.result()
    helper.start(run_details, frame.records)
    findings = conclude(frame, layers, quantized, seed=seed)
    target = frame.folder / "report"
    refuse_links(target, target / "figures", target / "tables")
    settings, gathered = [], bundles(frame, findings, layers, flow, quantized, diagnosed)
    compared = ArmFindings(settings=[b.compared for b in gathered if b.compared], method=METHOD)
    several = len(frame.settings) > 1
    suffixes = [f"-{_slug(f'{b.task}-{b.backbone}')}-{i}" if several else "" for i, b in enumerate(gathered)]
    with disk_errors(target):
        write_atomic(frame.folder / "analysis" / "arms.json", to_json(compared))
        named = list(zip(gathered, suffixes, strict=True))
        drawing = named, target / "figures", eps, helper.folder
        details = helper.result()
        helper.start(draw_unclaimed, *drawing, True)
        tables = [rows(findings, b.task, b.backbone) for b in gathered]
        data = page_data(frame, findings, gathered, [as_csv(table, findings) for table in tables], details)
        yaml, sha = facts.study_text(frame)
        about = {
            "environment": facts.environment(frame),
            "tuning": tuning(frame),
            "race": race_table(frame.race),
            "fingerprints": facts.fingerprints(frame),
            "study_yaml": yaml,
            "study_sha": sha,
            "sentences": layers.layers.sentences,
            "method": layers.layers.method,
            "layer_notes": layers.layers.notes,
            "flow": None if flow.empty else flow.flow,
            "quantized": None if quantized.empty else quantized.quantization,
            "diagnosed": None if diagnosed.empty else diagnosed.diagnostics,
            "beside": beside_literature(frame, findings),
        }
        drawn = draw_unclaimed(*drawing)
        drawn |= helper.result()
        for (bundle, suffix), table in zip(named, tables, strict=True):
            settings.append(_setting(bundle, table, findings, target, suffix, drawn, eps))
        page = render(findings, settings, about, data)
        (target / "figures").mkdir(parents=True, exist_ok=True)
        write_atomic(target / "figures" / FIGURES, json.dumps([entry for s in settings for entry in s["drawn"]], indent=1) + "\n")
        write_atomic(target / "index.html", page)
    return target / "index.html"


def _layers(frame: Frame, seed: int) -> LayerTables:
    found = assess_layers(frame, seed=seed)
    found.write(frame)
    return found


def _setting(
    bundle: Bundle,
    table: list[Row],
    findings: Findings,
    target: Path,
    suffix: str,
    made: Mapping[str, dict[str, Any]],
    eps: bool,
) -> dict[str, Any]:
    """Figures and tables of one task and backbone, written and ready for the page."""
    write_tables(table, findings, target / "tables" / f"results{suffix}")
    drawn: dict[str, list[dict[str, Any]]] = defaultdict(list)
    absent: dict[str, list[str]] = defaultdict(list)
    for figure in figures():
        entry = made.get(f"{figure.name}{suffix}")
        if entry is None:  # claimed by a process that died
            entry = draw(figure, bundle, target / "figures", suffix, eps)
        if "absent" in entry:
            absent[figure.section].append(entry["absent"])
        else:
            drawn[figure.section].append(entry)
    told = ("stem", "section", "title", "caption", "wide")
    limits, base = quality_limits(bundle, seeds=False), bundle.baseline
    return {
        "bundle": bundle,
        "looks": bundle.looks,
        "marks": best_arms(findings, bundle.task, bundle.backbone),
        "rows": [
            {
                "arm": row.arm,
                "difference": row.difference,
                "margin": row.margin,
                "flags": row.flags,
                "at_end": row.at_end,
                "mini": mini(row.arm, limits, base.mean if base else None, margin_limit(bundle)),
            }
            for row in table
        ],
        "drawn": [
            {"task": bundle.task, "backbone": bundle.backbone} | {key: entry[key] for key in told}
            for entries in drawn.values()
            for entry in entries
        ],
        "explored": [entry for entry in drawn["figures"] if entry["panels"]],
        "figures": _arranged([entry for entry in drawn["figures"] if not entry["panels"]]),
        "layers": bundle.layers,
        "layer_figures": _arranged(drawn["layers"]),
        "gradient_figures": _arranged(drawn["gradients"]),
        "quantization_figures": _arranged(drawn["quantization"]),
        "diagnostic_figures": _arranged(drawn["diagnostics"]),
        "diagnostics_absent": absent["diagnostics"],
        "absent": absent["figures"],
    }


def _arranged(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The main figure first and narrow ones side by side; one that would stand alone gets the whole width."""
    narrow, wide = [d for d in drawn if d["half"]], [d for d in drawn if not d["half"]]
    if len(narrow) % 2:
        narrow[-1]["half"] = False
    return narrow + wide


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]
