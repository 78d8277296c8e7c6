"""Which runs of a results folder the study, as it was run last, does not ask for: those of an earlier form of it.

A study is changed and run again in the same folder. Its runs of before stay there, and are no runs of what it asks now: a mean
over runs of 8 and of 12 steps would be the mean of nothing. An arm that the study does not name (an imported one, one that was
taken out) is judged by backbone and task alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from peftlab.analysis.planned import covers, evaluations, own_cell, tasks_of_runs
from peftlab.analysis.reading import Problem, RunRecord
from peftlab.records.record import NO_OUTCOME, RunConfig
from peftlab.study.expand import Cell, cells
from peftlab.study.schema import Study
from peftlab.study.task_key import task_key

#: what names one run of a plan: label, backbone, task, seed, fold
Place = tuple[str, str, str, int, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a study asks for: its cells, the runs that its plan names, and how these are trained where that is known."""

    cells: tuple[Cell, ...]
    tasks: Mapping[str, str]  #: run id -> key of its task, of the runs that its plan names
    planned: Mapping[Place, str]  #: -> run id
    ways: Mapping[tuple[str, str, str], frozenset[str]]  #: label, backbone, task -> what its known runs share

    @classmethod
    def of(cls, study: Study, plan: Any, runs: Iterable[tuple[str, RunConfig]]) -> Asked:
        """``plan``: what ``plan.json`` holds, which may be narrowed by ``--only``, or lost; ``runs``: id and form, as known."""
        found, tasks = tuple(cells(study)), tasks_of_runs(plan)
        ways: dict[tuple[str, str, str], set[str]] = {}
        for run_id, config in runs:
            if run_id in tasks and (cell := own_cell(found, config, tasks[run_id])) is not None:
                ways.setdefault((config.label, config.backbone, task_key(cell.task)), set()).add(_way(config))
        return cls(cells=found, tasks=tasks, planned=_planned(plan), ways={key: frozenset(value) for key, value in ways.items()})

    @property
    def ids(self) -> Set[str]:
        """Of the runs that its plan names."""
        return self.tasks.keys()

    def cell(self, run_id: str, config: RunConfig) -> Cell | None:
        """The study's own cell of which this is a run."""
        return own_cell(self.cells, config, self.tasks.get(run_id))

    def why_not(self, run_id: str, config: RunConfig) -> str:
        """Why an evaluation run is not asked for, in words; empty: it is, or it is of an arm that the study does not name."""
        if config.purpose != "evaluation" or run_id in self.ids:
            return ""
        here = [cell for cell in self.cells if cell.backbone == config.backbone]
        if not here:
            return f"the study has no backbone {config.backbone!r} any more"
        if not any(covers(cell.task, config.task) for cell in here):
            return f"the study has another task now ({_differing(here, config)})"
        cell = self.cell(run_id, config)
        if cell is None or config.adapter.get("source"):
            return ""
        if changed := _changed(cell, config):
            return f"the arm is trained otherwise now ({changed})"
        arm = (config.label, config.backbone, task_key(cell.task))
        if self.planned.get((*arm, config.seed, config.fold), run_id) != run_id:
            return "the study asks for another run of this arm and seed now"
        if _way(config) not in self.ways.get(arm, {_way(config)}):
            return "the arm is another one now"
        return ""


def without_earlier_forms(
    records: Sequence[RunRecord], problems: Sequence[Problem], asked: Asked
) -> tuple[list[RunRecord], list[Problem], list[str]]:
    """What a study asks for; and a sentence on the rest."""
    why = {record.folder.name: asked.why_not(record.folder.name, record.config) for record in records}
    why |= {problem.run_id: asked.why_not(problem.run_id, problem.config) for problem in problems if problem.config}
    left = [(record.config.label, why[record.folder.name]) for record in records if why[record.folder.name]]
    left += [(problem.label, why[problem.run_id]) for problem in problems if why.get(problem.run_id)]
    kept = [record for record in records if not why[record.folder.name]]
    return kept, [problem for problem in problems if not why.get(problem.run_id)], [sentence(left)] if left else []


def sentence(left: Sequence[tuple[str, str]]) -> str:
    """What is said of runs that were left out, from (label, why) of each; empty where there are none."""
    if not left:
        return ""
    arms: dict[str, list[str]] = {}
    for label, why in left:
        arms.setdefault(why, []).append(label)
    told = "; ".join(f"{', '.join(dict.fromkeys(labels))}: {why}" for why, labels in arms.items())
    one = len(left) == 1
    return (
        f"{len(left)} run{'' if one else 's'} of an earlier form of the study {'is' if one else 'are'} left out, and kept in the "
        f"folder: {told}. `peftlab run --output` keeps two forms of a study apart."
    )


def _planned(plan: Any) -> dict[Place, str]:
    keys = ("label", "backbone", "task", "seed", "fold")
    named = (run for run in evaluations(plan) if run.get("run_id"))
    return {tuple(run.get(key) for key in keys): str(run["run_id"]) for run in named}  # pyright: ignore[reportReturnType]


def _way(config: RunConfig) -> str:
    """What all runs of one arm share: everything but seed and fold."""
    return json.dumps({k: v for k, v in config.identity().items() if k not in ("seed", "fold")}, sort_keys=True, default=str)


def _changed(cell: Cell, config: RunConfig) -> str:
    """Keys of ``train`` with another value now, but for what tuning chose and what is settled when planned."""
    now = cell.train.model_dump(mode="json")
    settled = {key for key, value in now.items() if value == "auto"}
    skipped = {*settled, *config.tuned, *NO_OUTCOME} | ({"effective_batch_size"} if "batch_size" in settled else set())
    return ", ".join(
        f"{key} {_shown(config.train[key])}, now {_shown(value)}"
        for key, value in now.items()
        if key in config.train and key not in skipped and config.train[key] != value
    )


def _differing(here: list[Cell], config: RunConfig) -> str:
    """What of the task is another: the keys on which the nearest of the study's tasks differs."""
    differ = ([key for key, value in cell.task.items() if not covers(value, config.task.get(key))] for cell in here)
    keys = min(differ, key=len)
    tasks = {json.dumps(cell.task, sort_keys=True, default=str): cell.task for cell in here}
    if len(tasks) > 1:
        return ", ".join(keys)
    task = next(iter(tasks.values()))
    return ", ".join(f"{key} {_shown(config.task.get(key))}, now {_shown(task[key])}" for key in keys)


def _shown(value: Any) -> str:
    """As a study file would say it."""
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)
