"""From a results folder to ``analysis/``: the tidy frame, the findings, and what is said about layers."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from peftlab.analysis.assess import assess
from peftlab.analysis.assess_diagnostics import DiagnosticTables, assess_diagnostics
from peftlab.analysis.assess_flow import FlowTables, assess_flow
from peftlab.analysis.assess_layers import LayerTables, assess_layers
from peftlab.analysis.assess_quantization import QuantizationTables, assess_quantization
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import Frame, load_frame
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
    """:func:`analyze` for a frame that has been read already; layers, gradients and the like may be assessed already."""
    findings = assess(frame, seed=seed)
    layers, flow = layers or assess_layers(frame, seed=seed), flow or assess_flow(frame)
    quantized, diagnosed = quantized or assess_quantization(frame), diagnosed or assess_diagnostics(frame)
    target = frame.folder / "analysis"
    refuse_links(target)
    with disk_errors(target):
        frame.write(target)
        write_atomic(target / "findings.json", to_json(findings))
        layers.write(frame)
        flow.write(frame)
        quantized.write(frame)
        diagnosed.write(frame)
        write_summaries(frame, findings, layers.layers, quantized.quantization)
    return findings


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
