"""From a results folder to ``analysis/``: the tidy frame, the findings, and what is said about layers."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ValidationError

from peftlab.analysis.assess import assess
from peftlab.analysis.assess_diagnostics import DiagnosticTables, assess_diagnostics
from peftlab.analysis.assess_flow import FlowTables, assess_flow
from peftlab.analysis.assess_layers import LayerTables, assess_layers
from peftlab.analysis.assess_quantization import QuantizationTables, assess_quantization
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.heap import few_collections
from peftlab.analysis.summaries import write_summaries
from peftlab.errors import RecordError
from peftlab.records.commit import disk_errors, write_atomic
from peftlab.records.record import to_json
from peftlab.records.regular import refuse_links


def analyze(folder: str | Path, *, seed: int = 0) -> Findings:
    """Read the records, carry out the declared plan, write ``analysis/{results.parquet,results.csv,findings.json}``, and
    ``{importance.csv,ranks.csv,importance.json}``, ``gradient_flow.{csv,json}``, ``quantization.{csv,json}`` and
    ``{diagnostics.json,representation.csv,adapter_norms.csv}`` where runs recorded layers and gradients, were quantized, or
    recorded what training changed; for reading ``analysis_summary.md`` and, of the families that the study has,
    ``quantization_experiments_summary.json``, ``quantization_detailed_analysis.json`` and ``adaptive_summary.json``.

    Args:
        folder: ``results/<study>``.
        seed: of the bootstrap.

    Raises:
        RecordError: no results folder, no readable ``study.yaml``, or ``analysis/`` cannot be written.
    """
    with few_collections():
        return analyze_frame(load_frame(folder), seed=seed)


def analyze_frame(
    frame: Frame,
    *,
    seed: int = 0,
    layers: LayerTables | None = None,
    flow: FlowTables | None = None,
    quantized: QuantizationTables | None = None,
    diagnosed: DiagnosticTables | None = None,
) -> Findings:
    """:func:`analyze` for a frame that has been read already; what is given has been assessed and :func:`written` already."""
    layers = layers or written(assess_layers(frame, seed=seed), frame)
    flow = flow or written(assess_flow(frame), frame)
    quantized = quantized or written(assess_quantization(frame), frame)
    diagnosed = diagnosed or written(assess_diagnostics(frame), frame)
    findings = assess(frame, seed=seed)
    target = frame.folder / "analysis"
    refuse_links(target)
    with disk_errors(target):
        frame.write(target)
        write_atomic(target / "findings.json", to_json(findings))
        write_summaries(frame, findings, layers.layers, quantized.quantization)
    return findings


class Tables(Protocol):
    """What is said about one side of the records, and the tables beneath it."""

    def write(self, frame: Frame) -> None: ...


Some = TypeVar("Some", bound=Tables)


def written(tables: Some, frame: Frame) -> Some:
    """The same, written into ``analysis/``."""
    target = frame.folder / "analysis"
    refuse_links(target)
    with disk_errors(target):
        tables.write(frame)
    return tables


def read_findings(folder: str | Path) -> Findings:
    """``analysis/findings.json`` of a results folder.

    Raises:
        RecordError: absent or not of this form.
    """
    path = Path(folder) / "analysis" / "findings.json"
    try:
        return Findings.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RecordError("cannot be read as findings", where=str(path), remedy="`peftlab analyze DIR` makes it anew") from error
