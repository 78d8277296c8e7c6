"""From a results folder to ``analysis/``: the tidy frame, the findings, and what is said about layers."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from peftlab.analysis.assess import assess
from peftlab.analysis.assess_diagnostics import assess_diagnostics
from peftlab.analysis.assess_flow import assess_flow
from peftlab.analysis.assess_layers import LayerTables, assess_layers
from peftlab.analysis.assess_quantization import QuantizationTables, assess_quantization
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.garbage_collection import few_collections
from peftlab.analysis.output import analysis_folder
from peftlab.analysis.summaries import write_summaries
from peftlab.errors import RecordError
from peftlab.records.commit import write_atomic
from peftlab.records.record import to_json


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


def analyze_frame(frame: Frame, *, seed: int = 0) -> Findings:
    """:func:`analyze` for a frame that has been read already."""
    layers, flow = assess_layers(frame, seed=seed), assess_flow(frame)
    quantized, diagnosed = assess_quantization(frame), assess_diagnostics(frame)
    findings = conclude(frame, layers, quantized, seed=seed)
    for tables in (layers, flow, quantized, diagnosed):
        tables.write(frame)
    return findings


def conclude(frame: Frame, layers: LayerTables, quantized: QuantizationTables, *, seed: int = 0) -> Findings:
    """What the declared plan finds, written with the rows beneath it and the summaries.

    Raises:
        RecordError: ``analysis/`` cannot be written.
    """
    findings = assess(frame, seed=seed)
    with analysis_folder(frame.folder) as target:
        frame.write(target)
        write_atomic(target / "findings.json", to_json(findings))
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
