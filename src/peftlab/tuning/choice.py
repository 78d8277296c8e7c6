"""What the trials gave, what is chosen for each arm, and the record of both: ``tuning.json``."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from peftlab.errors import RecordError
from peftlab.planning.plan import Plan, PlannedRun
from peftlab.planning.search import Key, Search, Values, shown
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
from peftlab.records.times import own_s
from peftlab.study.schema import Range, Study

FILE = "tuning.json"
#: share of a range (of its logarithm where it is searched so) at either end that counts as its edge
EDGE = 0.05


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrialRun:
    """A trial on one tuning seed: values tried, and the validation metric reached (None: diverged or failed)."""

    label: str
    backbone: str
    task: str
    values: Values
    seed: int
    run_id: str
    value: float | None
    status: str  #: completed, diverged, failed, refused or missing
    trial: int = 0  #: number of the trial; of trials with the same values, whose runs are the same, each has its own entry
    time_s: float = 0.0  #: training and evaluation; of a run computed together with others its part of theirs
    share: float = 1.0  #: of the steps; below 1 on the lower rungs of successive halving
    steps: int = 0
    fold: int = 0

    @property
    def key(self) -> Key:
        return Key(self.label, self.backbone, self.task, self.fold)

    @property
    def usable(self) -> bool:
        return self.value is not None and math.isfinite(self.value)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen for one arm and fold, and what the arm was given."""

    label: str
    backbone: str
    task: str
    values: Values
    mean: float
    trials: int
    different: int  #: trials that were not a repetition of an earlier one
    runs: int
    lost: int  #: runs that diverged, failed, were refused or are missing
    tied: int  #: different values with that mean: above 1 the data did not choose, their order did
    at_edge: tuple[str, ...]  #: keys whose chosen value lies at the edge of what was searched: the best may lie outside
    lacks: tuple[str, ...]  #: keys that were searched for other arms and that this one does not have
    time_s: float  #: training and evaluation in all its trials
    fold: int = 0

    @property
    def key(self) -> Key:
        return Key(self.label, self.backbone, self.task, self.fold)


def outcomes(folder: ResultsFolder, study: Study, plan: Plan) -> list[TrialRun]:
    """The outcome of every tuning run whose values are known, of the arms that can be run."""
    keys = {search.key for search in plan.searches}
    planned = [run for run in plan.tuning if run.key in keys]
    return [_outcome(folder, study, run) for run in planned if run.config is not None or run.refusal]


def _outcome(folder: ResultsFolder, study: Study, run: PlannedRun) -> TrialRun:
    about: dict[str, Any] = {**run.key._asdict(), "seed": run.seed}
    assert study.tune is not None
    about |= {"trial": run.trial or 0, "steps": run.steps, "share": study.tune.rung_of(run.trial or 0)[2]}
    if run.config is None:
        return TrialRun(**about, values={}, run_id="", value=None, status="refused")
    record = folder.run(run.config)
    about |= {"values": run.config.tuned, "run_id": run.config.run_id}
    try:
        results, failure = record.results(), record.error()
    except RecordError:  # whoever executes the run is told (execution/local.py); the others count as ever
        return TrialRun(**about, value=None, status="failed")
    if results is None:
        return TrialRun(**about, value=None, status="failed" if failure else "missing")
    value = results.metrics.get("validation", {}).get(study.analysis.metric)
    time_s = own_s(results.time, "train_s", "evaluate_s") or own_s(results.time, "train_s") or 0.0
    return TrialRun(**about, value=value, status=results.status, time_s=time_s)


def score(runs: Sequence[TrialRun], higher_is_better: bool) -> float | None:
    """Of one trial: the mean over its tuning seeds; the worst there is where a seed gave no value; None: not all have ended."""
    if not runs or any(run.status == "missing" for run in runs):
        return None
    if not all(run.usable for run in runs):
        return -math.inf if higher_is_better else math.inf
    return statistics.fmean(run.value for run in runs if run.value is not None)


def choose(searches: Sequence[Search], found: Sequence[TrialRun], higher_is_better: bool) -> list[Choice]:
    """For each arm and fold the values with the best mean over the tuning seeds; ties go to the earlier trial.

    Values with a run that diverged or failed are out, unless all are.

    Raises:
        RecordError: an arm of which no run ended with a value.
    """
    return [_choose(search, [run for run in found if run.key == search.key], higher_is_better) for search in searches]


def _choose(search: Search, found: Sequence[TrialRun], higher_is_better: bool) -> Choice:
    by_values: dict[tuple[float, str], dict[str, TrialRun]] = {}
    for run in found:
        by_values.setdefault((run.share, _text(run.values)), {})[run.run_id] = run
    groups = {key: list(runs.values()) for key, runs in by_values.items()}
    whole = {key: runs for key, runs in groups.items() if key[0] == 1}  # values that did not get all steps are out
    complete = {key: runs for key, runs in whole.items() if all(run.usable for run in runs)}
    usable = complete or {key: kept for key, runs in whole.items() if (kept := [run for run in runs if run.usable])}
    label, backbone, _, fold = search.key
    if not usable:
        raise RecordError(
            f"no tuning run of {label} on {backbone}{f', fold {fold},' if fold else ''} ended with a value",
            where=found[0].run_id if found else label,
            remedy="`peftlab status` shows why; mend the cause and run again with --retry-failed, or widen tune",
        )
    sign = 1 if higher_is_better else -1
    means = {key: statistics.fmean(run.value for run in runs if run.value is not None) for key, runs in usable.items()}
    best = max(means, key=lambda key: sign * means[key])  # max keeps the first of equals
    tied = sum(mean == means[best] for mean in means.values())
    values = usable[best][0].values
    runs = [run for group in groups.values() for run in group]
    return Choice(
        **search.key._asdict(),
        values=values,
        mean=means[best],
        trials=search.trials,
        different=len(groups),
        runs=len(runs),
        lost=sum(not run.usable for run in runs),
        tied=tied,
        at_edge=()
        if tied == len(means) > 1
        else tuple(key for key, value in values.items() if _at_edge(search.space[key], value)),
        lacks=search.lacks,
        time_s=sum(run.time_s for run in runs),
    )


def _text(values: Values) -> str:
    return json.dumps(values, sort_keys=True)


def _at_edge(space: list[Any] | Range, value: Any) -> bool:
    """Of a list of numbers: its smallest or largest. Words have no edge, and zero is none: no option goes below it."""
    if not isinstance(space, Range):
        numbers = [v for v in space if isinstance(v, int | float) and not isinstance(v, bool)]
        return len(numbers) == len(space) > 1 and value in (min(numbers) or None, max(numbers))
    low, high, at = (math.log(v) if space.log else v for v in (space.low, space.high, value))
    below = at - low if space.low else math.inf
    return min(below, high - at) <= EDGE * (high - low)


def save(
    folder: ResultsFolder, study: Study, searches: Sequence[Search], found: Sequence[TrialRun], chosen: Sequence[Choice]
) -> Any:
    """Write ``tuning.json``; returns its content."""
    tune = study.tune
    assert tune is not None
    content = {
        "sampler": tune.sampler,
        "grid": tune.grid,
        "space": shown(tune.space),
        "seeds": tune.seeds,
        "rungs": tune.rungs if tune.sampler == "halving" else [],
        "metric": study.analysis.metric,
        "on": tune.on,
        "arms": [search.as_dict() for search in searches],
        "trials": [_entry(run) for run in found],
        "chosen": [_entry(choice) for choice in chosen],
    }
    folder.write_state(FILE, json.dumps(content, indent=1, sort_keys=True) + "\n")
    return content


def _entry(one: TrialRun | Choice) -> dict[str, Any]:
    about = dataclasses.asdict(one)
    return {name: value for name, value in about.items() if name not in Key._fields} | one.key.as_dict()


def as_mapping(chosen: Sequence[Choice]) -> dict[Key, Values]:
    """As the planner takes them."""
    return {choice.key: choice.values for choice in chosen}


def configs(plan: Plan) -> list[RunConfig]:
    """Configurations of the tuning runs that can be run."""
    return [run.config for run in plan.tuning if run.config is not None]
