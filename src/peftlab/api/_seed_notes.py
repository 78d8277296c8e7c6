"""Whether a planned study has the seeds that its margin needs: from what its results folder already holds of its runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from peftlab.analysis.words import listed, plural, show_margin
from peftlab.errors import PeftlabError
from peftlab.records.store import ResultsFolder
from peftlab.study.schema import Study

if TYPE_CHECKING:
    from peftlab.analysis.frame import Frame
    from peftlab.analysis.seeds import Planned, Seeds
    from peftlab.planning.plan import Plan  # imports torch

FEW = 5  #: seeds; with fewer and no pilot the plan says that power is unknown
SHOWN = {"non-inferior": "to be", "inferior": "not to be"}  #: verdict that stands, whatever the next study needs


def with_seed_notes(plan: Plan, study: Study, folder: ResultsFolder) -> Plan:
    """The plan with notes on seeds; as it is where it compares nothing, or where a race decides how many there are."""
    arms = {run.label for run in plan.runs}
    if study.analysis.baseline not in arms or len(arms) == 1 or study.search is not None:
        return plan
    notes = _from_records(plan, study, folder) or _unknown(study)
    return dataclasses.replace(plan, notes=(*plan.notes, *notes))


def _unknown(study: Study) -> list[str]:
    if len(study.seeds) >= FEW or "margin" not in study.analysis.model_fields_set:
        return []
    return [
        f"what {plural(len(study.seeds), 'seed')} can show cannot be known before two of them have run; `peftlab power FOLDER` "
        "then says how many the margin needs"
    ]


def _from_records(plan: Plan, study: Study, folder: ResultsFolder) -> list[str]:
    """How many seeds would show what is still open, and what is shown already; empty without two pairs of the plan's own arms."""
    try:
        if not any(run.status() == "finished" for run in folder.runs("evaluation")):
            return []
        from peftlab.analysis.assess import compared
        from peftlab.analysis.seeds import of_frame

        frame = _of_its_runs(plan, study, folder)
        made, tests = of_frame(frame), compared(frame)
    except PeftlabError:  # of the folder: `peftlab verify` tells it; a plan is made all the same
        return []
    known = {(run.label, run.backbone) for run in plan.runs if run.config is not None}
    rows = [row for row in made.rows if {(row.arm, row.backbone), (study.analysis.baseline, row.backbone)} <= known]
    verdicts = {(f.task, f.backbone, f.arms[0]): str(f.verdict) for f in tests if f.kind == "non_inferiority"}
    found = [(row, verdicts.get((row.task, row.backbone, row.arm), "")) for row in rows]
    several = len({(row.task, row.backbone) for row in rows}) > 1
    name = (lambda row: f"{row.arm} on {row.task}, {row.backbone}") if several else (lambda row: row.arm)
    needed = _needed([row for row, verdict in found if verdict not in SHOWN], name, made, study, folder)
    shown = _shown([(name(row), verdict) for row, verdict in found], study)
    return [note for note in (needed, shown) if note]


def _of_its_runs(plan: Plan, study: Study, folder: ResultsFolder) -> Frame:
    """The records as the report would count them if this plan had been run: those of another form of an arm are left out."""
    from peftlab.analysis.earlier_form import Asked
    from peftlab.analysis.frame import load_frame

    configs = ((run.config.run_id, run.config) for run in plan.runs if run.config is not None)
    return load_frame(folder.path, study=study, asked=Asked.of(study, plan.as_dict(), configs))


def _needed(rows: Sequence[Planned], name: Callable[[Planned], str], made: Seeds, study: Study, folder: ResultsFolder) -> str:
    """How many seeds show that an arm is within the margin which equals the baseline in truth; of those not shown yet."""
    if not rows:
        return ""
    most = max(rows, key=lambda row: _sortable(row.non_inferiority.seeds))
    needed, have = most.non_inferiority, len(study.seeds)
    lacking = sum(_sortable(row.non_inferiority.seeds) > have for row in rows)
    word = "more seeds needed" if lacking else "seeds needed"
    cautious = f" ({_count(needed.cautious)} at its upper 80 % limit)" if needed.cautious != needed.seeds else ""
    return (
        f"{word}: {_count(needed.seeds)}, the study has {have}; with so many, {name(most)} is shown with "
        f"{100 * made.power:g} % probability to be {_within(study)} if in truth the two are equal, at the standard deviation of "
        f"{plural(most.n, 'pair')} so far{cautious}; comparisons that need more than {have}: {lacking} of {len(rows)} "
        f"(`peftlab power {folder.path}` shows each)"
    )


def _shown(found: Sequence[tuple[str, str]], study: Study) -> str:
    """What the runs show that have ended, from (arm, verdict) of each; empty where that is nothing."""
    named = {word: [arm for arm, verdict in found if verdict == word] for word in SHOWN}
    parts = [f"{listed(arms)} {SHOWN[word]} {_within(study)}" for word, arms in named.items() if arms]
    return f"already shown by the runs that have ended: {listed(parts)}" if parts else ""


def _within(study: Study) -> str:
    return f"within {show_margin(study.analysis.margin, study.analysis.metric)} of {study.analysis.baseline}"


def _sortable(seeds: int | None) -> float:
    return math.inf if seeds is None else seeds


def _count(seeds: int | None) -> str:
    return "more than 1,000" if seeds is None else str(seeds)
