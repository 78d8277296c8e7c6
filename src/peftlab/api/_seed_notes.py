"""Whether a planned study has the seeds that its margin needs: from what its results folder already holds."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from peftlab.analysis.words import plural, show_margin
from peftlab.errors import PeftlabError
from peftlab.records.store import ResultsFolder
from peftlab.study.expand import cells
from peftlab.study.schema import Study

if TYPE_CHECKING:
    from peftlab.planning.plan import Plan  # imports torch

FEW = 5  #: seeds; with fewer and no pilot the plan says that power is unknown


def with_seed_notes(plan: Plan, study: Study, folder: ResultsFolder) -> Plan:
    """The plan with one note on seeds; as it is where nothing is compared, or where a race decides how many there are."""
    if study.analysis.baseline is None or study.search is not None:
        return plan
    note = _from_records(study, folder) or _unknown(study)
    return dataclasses.replace(plan, notes=(*plan.notes, note)) if note else plan


def _unknown(study: Study) -> str:
    if len(study.seeds) >= FEW or "margin" not in study.analysis.model_fields_set:
        return ""
    return (
        f"what {plural(len(study.seeds), 'seed')} can show cannot be known before there are records; `peftlab power FOLDER` says "
        "after a pilot of two seeds or more how many the margin needs"
    )


def _from_records(study: Study, folder: ResultsFolder) -> str:
    """How many seeds show that an arm is within the margin which equals the baseline in truth; empty without two pairs."""
    try:
        if not any(run.status() == "finished" for run in folder.runs("evaluation")):
            return ""
        from peftlab.analysis.seeds import from_records

        made = from_records(folder.path, study=study)
    except PeftlabError:  # of the folder: `peftlab verify` tells it; a plan is made all the same
        return ""
    asked = {(cell.label, cell.backbone) for cell in cells(study)}
    rows = [row for row in made.rows if (row.arm, row.backbone) in asked]
    if not rows:
        return ""
    most = max(rows, key=lambda row: _sortable(row.non_inferiority.seeds))
    needed, have = most.non_inferiority, len(study.seeds)
    lacking = sum(_sortable(row.non_inferiority.seeds) > have for row in rows)
    word = "more seeds needed" if lacking else "seeds needed"
    where = f" on {most.task}, {most.backbone}" if len({(row.task, row.backbone) for row in rows}) > 1 else ""
    margin = show_margin(study.analysis.margin, study.analysis.metric)
    cautious = f" ({_count(needed.cautious)} at its upper 80 % limit)" if needed.cautious != needed.seeds else ""
    return (
        f"{word}: {_count(needed.seeds)}, the study has {have}; with so many, {most.arm}{where} is shown with "
        f"{100 * made.power:g} % probability to be within {margin} of {study.analysis.baseline} if in truth the two are equal, "
        f"at the standard deviation of {plural(most.n, 'pair')} so far{cautious}; comparisons that need more than {have}: "
        f"{lacking} of {len(rows)} (`peftlab power {folder.path}` shows each)"
    )


def _sortable(seeds: int | None) -> float:
    return math.inf if seeds is None else seeds


def _count(seeds: int | None) -> str:
    return "more than 1,000" if seeds is None else str(seeds)
