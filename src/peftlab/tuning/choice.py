"""Equal tuning: the same grid for every arm, on tuning seeds and validation data, and a record of what was chosen."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.errors import RecordError
from peftlab.planning.plan import Plan, PlannedRun
from peftlab.records.commit import write_atomic
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
from peftlab.study.schema import Study

FILE = "tuning.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One tuning run: values tried, seed, and the validation metric it reached (None: diverged or failed)."""

    label: str
    backbone: str
    task: str
    values: Mapping[str, Any]
    seed: int
    run_id: str
    value: float | None
    status: str  #: completed, diverged, failed or missing


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen for one arm, and by how much it led."""

    label: str
    backbone: str
    task: str
    values: Mapping[str, Any]
    mean: float
    trials: int
    lost: int  #: trials that diverged, failed or are missing
    at_edge: tuple[str, ...]  #: keys whose chosen value is the first or last of its list: the best may lie outside


def trials(folder: ResultsFolder, study: Study, plan: Plan) -> list[Trial]:
    """The outcome of every tuning run of the plan."""
    return [_trial(folder, study, run) for run in plan.tuning if run.config is not None]


def _trial(folder: ResultsFolder, study: Study, run: PlannedRun) -> Trial:
    config = run.config
    assert config is not None and study.tune is not None
    record = folder.run(config)
    results = record.results()
    value, status = None, "failed" if record.error() else "missing"
    if results is not None:
        status = results.status
        value = results.metrics.get("validation", {}).get(study.analysis.metric)
    values = {key: config.train[key] for key in study.tune.grid}
    return Trial(
        label=run.label,
        backbone=run.backbone,
        task=run.task,
        values=values,
        seed=run.seed,
        run_id=config.run_id,
        value=value,
        status=status,
    )


def choose(study: Study, found: Sequence[Trial], higher_is_better: bool) -> list[Choice]:
    """For each arm the values with the best mean over the tuning seeds; ties go to the earlier values in the grid.

    Values with a trial that diverged or failed on any tuning seed are out, unless all are.

    Raises:
        RecordError: an arm of which no trial ended with a value.
    """
    assert study.tune is not None
    cells = dict.fromkeys((t.label, t.backbone, t.task) for t in found)
    return [_choose(study, [t for t in found if (t.label, t.backbone, t.task) == cell], higher_is_better) for cell in cells]


def _choose(study: Study, found: Sequence[Trial], higher_is_better: bool) -> Choice:
    assert study.tune is not None
    by_values: dict[str, list[Trial]] = {}
    for trial in found:
        by_values.setdefault(json.dumps(trial.values, sort_keys=True), []).append(trial)
    complete = {k: ts for k, ts in by_values.items() if all(_usable(t) for t in ts)}
    usable = complete or {k: [t for t in ts if _usable(t)] for k, ts in by_values.items() if any(_usable(t) for t in ts)}
    if not usable:
        first = found[0]
        raise RecordError(
            f"no tuning run of {first.label} on {first.backbone} ended with a value",
            where=first.run_id,
            remedy="`peftlab status` shows why; mend the cause and run again with --retry-failed, or widen tune",
        )
    sign = 1 if higher_is_better else -1
    means = {k: statistics.fmean(t.value for t in ts if t.value is not None) for k, ts in usable.items()}
    best = max(means, key=lambda k: sign * means[k])  # max keeps the first of equals
    values = json.loads(best)
    grid = study.tune.grid
    edge = tuple(k for k, v in values.items() if len(grid[k]) > 1 and v in (grid[k][0], grid[k][-1]))
    first = found[0]
    return Choice(
        label=first.label,
        backbone=first.backbone,
        task=first.task,
        values=values,
        mean=means[best],
        trials=len(found),
        lost=sum(not _usable(t) for t in found),
        at_edge=edge,
    )


def _usable(trial: Trial) -> bool:
    return trial.value is not None and math.isfinite(trial.value)


def save(folder: ResultsFolder, study: Study, found: Sequence[Trial], chosen: Sequence[Choice]) -> None:
    """Write ``tuning.json``."""
    assert study.tune is not None
    content = {
        "grid": study.tune.grid,
        "seeds": study.tune.seeds,
        "metric": study.analysis.metric,
        "on": study.tune.on,
        "trials": [dataclasses.asdict(t) for t in found],
        "chosen": [dataclasses.asdict(c) for c in chosen],
    }
    write_atomic(folder.path / FILE, json.dumps(content, indent=1, sort_keys=True) + "\n")


def as_mapping(chosen: Sequence[Choice]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """(label, backbone, task) -> values, as the planner takes them."""
    return {(c.label, c.backbone, c.task): c.values for c in chosen}


def configs(plan: Plan) -> list[RunConfig]:
    """Configurations of the tuning runs that can be run."""
    return [run.config for run in plan.tuning if run.config is not None]
