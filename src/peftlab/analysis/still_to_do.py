"""Runs that a study, as it was run last, asks for and nobody has begun; and those in its folder that it does not ask for."""

from __future__ import annotations

from pathlib import Path

from peftlab.analysis.earlier_form import without_earlier_forms
from peftlab.analysis.planned import missing_runs
from peftlab.analysis.raced import heat_of, read_race, spared
from peftlab.analysis.reading import Problem, read_json, read_runs, read_study
from peftlab.study.schema import Study


def still_to_do(folder: Path) -> tuple[Study, list[Problem], list[str]]:
    """(study, a problem per run or arm that is missing or refused, what is said of runs of an earlier form).

    Raises:
        RecordError: no readable study in the folder.
    """
    study, plan = read_study(folder), read_json(folder / "plan.json")
    plan = plan if isinstance(plan, dict) else {}
    records, problems, _ = read_runs(folder)
    records, problems, earlier = without_earlier_forms(records, problems, study, plan)
    race = read_race(folder) if study.search else None
    return study, missing_runs(study, records, problems, plan, lambda t, b, *run: spared(heat_of(race, t, b), *run)), earlier
