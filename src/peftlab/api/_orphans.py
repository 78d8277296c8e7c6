"""Runs that the study, as it was run last, does not ask for any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from peftlab.analysis.earlier_form import Asked
from peftlab.analysis.reading import read_json
from peftlab.analysis.tuned import Arm, arm_of, entries
from peftlab.errors import PeftlabError
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import RunFolder
from peftlab.records.store import ResultsFolder
from peftlab.study.expand import Cell, cells
from peftlab.study.load import parse_yaml, validate_study
from peftlab.study.schema import Study
from peftlab.study.task_key import task_key


def orphans(results: ResultsFolder) -> list[tuple[Path, str]]:
    """(run folder, why nobody asks for it). Imported arms are asked for by whoever imported them."""
    try:
        study = validate_study(parse_yaml(results.study_text()))
        labels = {cell.label for cell in cells(study)}
    except PeftlabError:  # told by others
        return []
    return list(_orphans(results, study, labels))


def _orphans(results: ResultsFolder, study: Study, labels: set[str]) -> Iterator[tuple[Path, str]]:
    chosen = _chosen(results) if study.tune is not None else {}
    found = _known(results)
    asked = _asked(results, study, found)
    for run, config in found:
        why = "" if config.adapter.get("source") else _why(config, study, labels)
        why = why or _not_chosen(config, asked.cell(run.run_id, config), chosen) or asked.why_not(run.run_id, config)
        if why:
            yield run.path, why


def earlier_forms(results: ResultsFolder, study: Study) -> dict[Path, str]:
    """Folder -> why, of the evaluation runs that the analysis leaves out (:mod:`peftlab.analysis.earlier_form`)."""
    found = _known(results, "evaluation")
    asked = _asked(results, study, found)
    return {run.path: why for run, config in found if (why := asked.why_not(run.run_id, config))}


def _known(results: ResultsFolder, purpose: Literal["evaluation"] | None = None) -> list[tuple[RunFolder, RunConfig]]:
    return [(run, config) for run in results.runs(purpose) if (config := _config(run)) is not None]


def _asked(results: ResultsFolder, study: Study, found: Sequence[tuple[RunFolder, RunConfig]]) -> Asked:
    evaluations = ((run.run_id, config) for run, config in found if config.purpose == "evaluation")
    return Asked.of(study, read_json(results.path / "plan.json"), evaluations)


def _config(run: RunFolder) -> RunConfig | None:
    try:
        return run.config()
    except PeftlabError:  # told as a problem
        return None


def _chosen(results: ResultsFolder) -> Mapping[Arm, Mapping[str, Any]]:
    """Arm -> the values that tuning chose for it, as far as they were recorded; a damaged record is told as a problem."""
    tuning = read_json(results.path / "tuning.json")
    return {arm_of(entry): entry["values"] for entry in entries(tuning.get("chosen") if isinstance(tuning, Mapping) else None)}


def _not_chosen(config: RunConfig, cell: Cell | None, chosen: Mapping[Arm, Mapping[str, Any]]) -> str:
    """An evaluation run with values that tuning chose once and, with runs that were tried again, chooses no more."""
    now = None if cell is None else chosen.get((cell.label, cell.backbone, task_key(cell.task), config.fold))
    if config.purpose != "evaluation" or now is None:
        return ""
    gone = [f"{key} {value}" for key, value in config.tuned.items() if key in now and now[key] != value]
    return f"tuning does not choose {', '.join(gone)} any more" if gone else ""


def _why(config: RunConfig, study: Study, labels: set[str]) -> str:
    if config.label not in labels:
        return f"the study has no arm {config.label!r} any more"
    if config.purpose == "evaluation":
        return "" if config.seed in study.seeds else f"the study has no seed {config.seed} any more"
    if study.tune is None:
        return "the study tunes nothing any more"
    if config.seed not in study.tune.seeds:
        return f"the study has no tuning seed {config.seed} any more"
    gone = [f"{key} {value}" for key, value in config.tuned.items() if value not in study.tune.grid.get(key, [value])]
    return f"the study does not try {', '.join(gone)} any more" if gone else ""
