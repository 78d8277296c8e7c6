"""Runs that a study, as it was run last, asks for and nobody has begun; and those in its folder that it does not ask for."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftlab.analysis.earlier_form import Asked, without_earlier_forms
from peftlab.analysis.planned import missing_runs
from peftlab.analysis.raced import heat_of, read_race, spared
from peftlab.analysis.reading import Problem, read_json, read_runs, read_study
from peftlab.study.schema import Study


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StillToDo:
    """What stands between a folder of results and its study."""

    study: Study  #: as run last
    lacking: tuple[Problem, ...]  #: a problem per evaluation run that is missing, or arm that is refused
    earlier: tuple[str, ...]  #: what is said of runs of an earlier form
    earlier_ids: frozenset[str]  #: of these runs
    trials: tuple[str, ...]  #: ids of the planned tuning runs, in their order
    tuning: Mapping[str, tuple[int, int]]  #: label -> tuning runs that nobody has begun, and how many are planned


def still_to_do(folder: Path) -> StillToDo:
    """From the records, the study and the plan of the command that ran last.

    Raises:
        RecordError: no readable study in the folder.
    """
    study, plan = read_study(folder), read_json(folder / "plan.json")
    plan = plan if isinstance(plan, dict) else {}
    records, problems, _ = read_runs(folder)
    known = [(record.folder.name, record.config) for record in records]
    asked = Asked.of(study, plan, known)
    known += [(problem.run_id, problem.config) for problem in problems if problem.config]
    records, problems, earlier = without_earlier_forms(records, problems, asked)
    race = read_race(folder) if study.search else None
    lacking = missing_runs(study, records, problems, plan, lambda t, b, *run: spared(heat_of(race, t, b), *run))
    trials, tuning = _tuning(folder, plan.get("runs"))
    return StillToDo(
        study=study,
        lacking=tuple(lacking),
        earlier=tuple(earlier),
        earlier_ids=frozenset(run_id for run_id, config in known if asked.why_not(run_id, config)),
        trials=trials,
        tuning=tuning,
    )


def _tuning(folder: Path, rows: Any) -> tuple[tuple[str, ...], dict[str, tuple[int, int]]]:
    """Trials of a later round have no id before the round before has ended."""
    planned: dict[tuple[str, Any], None] = {}
    for place, row in enumerate(rows if isinstance(rows, list) else []):
        if isinstance(row, Mapping) and row.get("purpose") == "tuning" and not row.get("refusal"):
            planned[(str(row.get("label")), row.get("run_id") or place)] = None
    begun = {path.parent.name for path in (folder / "tuning").glob("*/*/config.json")}
    every = Counter(label for label, _ in planned)
    open_now = Counter(label for label, run_id in planned if run_id not in begun)
    return tuple(str(run_id) for _, run_id in planned), {label: (number, every[label]) for label, number in open_now.items()}
