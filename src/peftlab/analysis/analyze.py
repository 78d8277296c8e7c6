"""From a results folder to ``analysis/``: the tidy frame and the findings."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from peftlab.analysis.assess import assess
from peftlab.analysis.findings import Findings
from peftlab.analysis.frame import Frame, load_frame
from peftlab.errors import RecordError
from peftlab.records.record import to_json


def analyze(folder: str | Path, *, seed: int = 0) -> Findings:
    """Read the records, carry out the declared plan, write ``analysis/{results.parquet,results.csv,findings.json}``.

    Args:
        folder: ``results/<study>``.
        seed: of the bootstrap.

    Raises:
        RecordError: no results folder, no readable ``study.yaml``, or ``analysis/`` cannot be written.
    """
    return analyze_frame(load_frame(folder), seed=seed)


def analyze_frame(frame: Frame, *, seed: int = 0) -> Findings:
    """:func:`analyze` for a frame that has been read already."""
    findings = assess(frame, seed=seed)
    target = frame.folder / "analysis"
    try:
        frame.write(target)
        partial = target / "findings.json.partial"
        partial.write_text(to_json(findings), encoding="utf-8")
        partial.replace(target / "findings.json")
    except OSError as error:
        remedy = "free some space, or make the folder writable"
        raise RecordError(f"cannot write the analysis: {error.strerror}", where=str(target), remedy=remedy) from error
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
