"""Runs that the study, as it was run last, does not ask for any more."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftlab.errors import PeftlabError
from peftlab.records.record import RunConfig
from peftlab.records.regular import read_regular
from peftlab.records.store import ResultsFolder
from peftlab.study.expand import cells
from peftlab.study.load import parse_yaml, validate_study
from peftlab.study.schema import Study


def orphans(results: ResultsFolder) -> list[tuple[Path, str]]:
    """(run folder, why nobody asks for it). Imported arms are asked for by whoever imported them."""
    try:
        study = validate_study(parse_yaml(results.study_text()))
        labels = {cell.label for cell in cells(study)}
    except PeftlabError:  # told by others
        return []
    return list(_orphans(results, study, labels))


def _orphans(results: ResultsFolder, study: Study, labels: set[str]) -> Iterator[tuple[Path, str]]:
    planned = _planned(results)
    for run in results.runs():
        try:
            config = run.config()
        except PeftlabError:
            continue
        if not config.adapter.get("source") and (why := _why(config, study, labels) or _not_chosen(config, planned)):
            yield run.path, why


def _planned(results: ResultsFolder) -> Mapping[tuple[str, int], set[str | None]]:
    """(label, seed) -> ids of its evaluation runs in the last plan; None for one that still waits for its tuning."""
    found = defaultdict[tuple[str, int], set[str | None]](set)
    try:
        plan: Any = json.loads(read_regular(results.path / "plan.json"))
        rows = [row for row in plan["runs"] if row["purpose"] == "evaluation"]
        for row in rows:
            found[row["label"], row["seed"]].add(row["run_id"])
    except (OSError, ValueError, KeyError, TypeError):  # no plan yet, or not one of ours; a damaged one is told as a problem
        return {}
    return found


def _not_chosen(config: RunConfig, planned: Mapping[tuple[str, int], set[str | None]]) -> str:
    """An evaluation run with values that tuning chose once and, with runs that were tried again, chooses no more."""
    ids = planned.get((config.label, config.seed), set())
    if config.purpose != "evaluation" or not config.tuned or not ids or ids & {None, config.run_id}:
        return ""
    return f"tuning does not choose {', '.join(f'{key} {value}' for key, value in config.tuned.items())} any more"


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
