"""Names of tasks, and what a study planned of which there is no trace."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftlab.analysis.reading import Problem, RunRecord, flatten
from peftlab.records.record import RunConfig
from peftlab.study.expand import Cell, cells
from peftlab.study.schema import Study
from peftlab.study.task_key import task_key

#: parts of a data source that tell two of them apart
_DATA_KEYS = ("path", "folder", "id", "dataset", "file", "train")


def task_name(task: Mapping[str, Any]) -> str:
    """Kind and data in one word: ``image-classification digits``."""
    data = task.get("data", "")
    if isinstance(data, Mapping):
        detail = next((str(data[key]) for key in _DATA_KEYS if isinstance(data.get(key), str)), "")
        data = " ".join(part for part in (str(data.get("name", "")), Path(detail).name) if part)
    return f"{task.get('kind', '')} {data}".strip() or "task"


def task_names(tasks: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Canonical JSON of a task -> a short name; where two tasks would share one, what differs is added."""
    return distinguished({canonical(task): (task_name(task), flatten(task)) for task in tasks})


def distinguished(things: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Key -> short name, from key -> (base name, options); where several share a base name, the options that differ are added."""
    groups: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for key, (base, options) in things.items():
        groups[base][key] = options
    names: dict[str, str] = {}
    for base, members in groups.items():
        keys = sorted({k for options in members.values() for k in options})
        differing = [k for k in keys if len({repr(options.get(k)) for options in members.values()}) > 1]
        for key, options in members.items():
            extra = ",".join(f"{k}={options.get(k)}" for k in differing)
            names[key] = f"{base}[{extra}]" if extra else base
    return names


def canonical(task: Mapping[str, Any]) -> str:
    return json.dumps(task, sort_keys=True, default=str)


def missing_runs(
    study: Study,
    records: Sequence[RunRecord],
    known: Sequence[Problem],
    plan: Mapping[str, Any],
    spared: Callable[[Any, str, str, int], bool] = lambda *_: False,
) -> list[Problem]:
    """Planned runs of which there is no trace; without those that (task, backbone, label, seed) says were not needed."""
    begun = [(p.run_id, p.config) for p in known if p.kind == "unfinished" and p.config is not None]
    refused, declared, named = _refusals(plan), cells(study), tasks_of_runs(plan)
    have: Counter[tuple[str, str, str, int]] = Counter()
    for run_id, config in (*((record.folder.name, record.config) for record in records), *begun):
        if (cell := own_cell(declared, config, named.get(run_id))) is not None:
            have[cell.label, cell.backbone, task_key(cell.task), config.seed] += 1
    names = task_names(cell.task for cell in declared)
    found: list[Problem] = []
    for cell in declared:
        about: dict[str, Any] = {"label": cell.label, "backbone": cell.backbone, "task": names[canonical(cell.task)]}
        arm = (cell.label, cell.backbone, task_key(cell.task))
        if (why := refused.get(arm)) is not None:
            found.append(Problem(kind="refused", what=why, **about))
            continue
        expected = folds_of(cell.task)
        for seed in study.seeds:
            got = have[*arm, seed]
            if got < expected and not spared(cell.task, cell.backbone, cell.label, seed):
                what = "planned, but never run" if expected == 1 else f"{expected - got} of {expected} folds were never run"
                found.append(Problem(kind="missing", what=what, seed=seed, remedy="run the study again", **about))
    return found


def folds_of(task: Mapping[str, Any]) -> int:
    """Runs of each seed that a study asks for on a task."""
    folds = task.get("folds")
    return folds if isinstance(folds, int) and folds > 1 else 1


def _refusals(plan: Mapping[str, Any]) -> dict[tuple[str, str, str], str]:
    """(label, backbone, task) -> why the plan refused it."""
    return {
        (str(entry.get("label")), str(entry.get("backbone")), str(entry.get("task"))): str(entry["refusal"])
        for entry in evaluations(plan)
        if entry.get("refusal")
    }


def tasks_of_runs(plan: Any) -> dict[str, str]:
    """Run id -> key of its task, of the runs that ``plan.json`` names."""
    return {str(entry["run_id"]): str(entry.get("task")) for entry in evaluations(plan) if entry.get("run_id")}


def evaluations(plan: Any) -> list[Mapping[str, Any]]:
    """The evaluation runs of ``plan.json``, which may be lost or not be ours."""
    entries = plan.get("runs") if isinstance(plan, Mapping) else None
    runs = [entry for entry in (entries if isinstance(entries, list) else []) if isinstance(entry, Mapping)]
    return [run for run in runs if run.get("purpose", "evaluation") == "evaluation"]


def own_cell(found: Iterable[Cell], config: RunConfig, key: str | None = None) -> Cell | None:
    """The study's own cell of which this is a run, whatever its training; None: it is of no arm or task of the study.

    Of two tasks that both cover the run, one is the other with a further option (``digits``, and ``digits`` of 64 pixels): a run
    that has this option is of the one that asks for it. Where the options that two tasks name are not the same ones, only the
    plan can tell.

    Args:
        key: of its task (:func:`task_key`), where the plan names the run.
    """
    same = [cell for cell in found if (cell.label, cell.backbone) == (config.label, config.backbone)]
    covering = [cell for cell in same if covers(cell.task, config.task)]
    named = [cell for cell in covering if task_key(cell.task) == key]
    return max(named or covering, key=lambda cell: len(flatten(cell.task)), default=None)


def covers(asked: Any, done: Any) -> bool:
    """Whether a finished run's full specification is what the study asked for (defaults filled in, names expanded)."""
    if isinstance(asked, Mapping):
        return isinstance(done, Mapping) and all(covers(value, done.get(key)) for key, value in asked.items())
    if isinstance(asked, str) and isinstance(done, Mapping):  # a name, or data by their path or id
        return asked in done.values()
    return bool(asked == done)
