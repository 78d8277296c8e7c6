"""A race on the records of a study: which runs it needs next, which arms have left, and ``racing.json``, which says so."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peftlab.analysis.racing import Left, Race, Rule, race
from peftlab.analysis.reading import RunRecord, read_json
from peftlab.analysis.words import equation_p, is_share, show_difference, show_margin
from peftlab.errors import RecordError, StudyError, nearest
from peftlab.planning.plan import Plan
from peftlab.records.record import RunConfig, RunError, to_json
from peftlab.records.store import ResultsFolder
from peftlab.study.expand import cells
from peftlab.study.schema import Study
from peftlab.study.task_key import task_key

FILE = "racing.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """The race on one task and backbone."""

    task: str
    backbone: str
    rule: Rule
    seeds: tuple[int, ...]
    labels: tuple[str, ...]
    configs: Mapping[tuple[str, int], tuple[RunConfig, ...]]  #: (arm, seed) -> its folds
    race: Race

    @property
    def due(self) -> list[RunConfig]:
        """Runs that the next look needs."""
        return [config for i, label in self.race.due for config in self.configs[label, self.seeds[i]]]

    @property
    def planned(self) -> int:
        """Runs of the full matrix."""
        return sum(map(len, self.configs.values()))

    @property
    def needed(self) -> list[RunConfig]:
        """Runs of the race so far."""
        spent = {label: self.race.seeds_of(label) for label in self.labels}
        return [config for (label, seed), folds in self.configs.items() if seed in self.seeds[: spent[label]] for config in folds]


def rules(study: Study, higher_is_better: bool) -> dict[tuple[str, str], Rule]:
    """(task, backbone) -> the rule of its race, from what the study declares.

    Raises:
        StudyError: a race of one arm, or ``keep`` or the baseline name no arm.
    """
    asked, analysis = study.search, study.analysis
    assert asked is not None
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in cells(study):
        groups.setdefault((task_key(cell.task), cell.backbone), []).append(cell.label)
    for (task, backbone), labels in groups.items():
        if len(labels) < 2:
            what = f"{labels[0]} is alone on {task}, {backbone}: there is no race of one arm"
            raise StudyError(what, where="search", remedy="add an arm, or leave search out")
        named = [("search.keep", label) for label in asked.keep]
        named += [("analysis.baseline", analysis.baseline)] if analysis.baseline else []
        for where, label in named:
            if label not in labels:
                raise StudyError(f"the study has no arm {label!r}", where=where, remedy=nearest(label, labels))
    return {
        key: Rule(
            goal=asked.goal, level=(1 - analysis.confidence) / len(groups), minimum=asked.minimum, arms=len(labels),
            margin=analysis.margin if asked.goal == "margin" else asked.margin, baseline=analysis.baseline,
            keep=frozenset(asked.keep), futility=asked.futility, higher_is_better=higher_is_better,
        )
        for key, labels in groups.items()
    }  # fmt: skip


def follow_race(folder: ResultsFolder, study: Study, plan: Plan) -> list[Heat]:
    """Every race as far as its runs have ended, of the arms that are tuned in every fold. Reads, and writes nothing."""
    declared = rules(study, plan.higher_is_better)
    waits = {(run.label, run.backbone, run.task) for run in plan.runs if run.config is None}
    runs = [run for run in plan.runs if (run.label, run.backbone, run.task) not in waits]
    configs = [(run.task, run.config) for run in runs if run.config is not None]
    standing = _standing(folder)
    return heats(folder, study, configs, declared, standing)


def heats(
    folder: ResultsFolder,
    study: Study,
    configs: Iterable[tuple[str, RunConfig]],
    declared: Mapping[tuple[str, str], Rule],
    standing: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
) -> list[Heat]:
    """The races of these runs, (task, configuration), under the declared rules."""
    found = []
    for key, rule in declared.items():
        mine = [config for task, config in configs if (task, config.backbone) == key]
        if mine:
            before = (standing or {}).get(key)
            found.append(_heat(folder, study, key, mine, rule, before))
    return found


def _heat(
    folder: ResultsFolder,
    study: Study,
    key: tuple[str, str],
    configs: Sequence[RunConfig],
    rule: Rule,
    before: Mapping[str, Any] | None,
) -> Heat:
    by_unit: dict[tuple[str, int], list[RunConfig]] = {}
    for config in configs:
        by_unit.setdefault((config.label, config.seed), []).append(config)
    labels = tuple(dict.fromkeys(config.label for config in configs))
    seeds = tuple(seed for seed in study.seeds if any((label, seed) in by_unit for label in labels))
    records = {config.run_id: _record(folder, config) for config in configs}
    values, ended, resolution = _table(records, by_unit, labels, seeds, study.analysis.metric, rule.higher_is_better)
    known = dataclasses.replace(rule, resolution=resolution)
    units = {unit: tuple(folds) for unit, folds in by_unit.items()}
    begun = Heat(task=key[0], backbone=key[1], rule=known, seeds=seeds, labels=labels, configs=units,
                 race=Race(labels=labels, looks=(), left=(), running=labels, due=(), over=False))  # fmt: skip
    kept = _stands(before, begun, study.analysis.metric) if before else {}
    return dataclasses.replace(begun, race=race(values, labels, known, ended=ended, standing=kept))


def _record(folder: ResultsFolder, config: RunConfig) -> RunRecord | None:
    """None: no outcome yet."""
    run = folder.run(config)
    if run.status() not in ("finished", "failed"):
        return None
    try:
        return RunRecord(folder=run.path, config=config, results=run.results(), error=run.error())
    except RecordError as error:  # counts as failed; whoever executes the run is told
        return RunRecord(folder=run.path, config=config, results=None, error=RunError(run_id=run.run_id, error=error.as_json()))


def _table(
    records: Mapping[str, RunRecord | None],
    by_unit: Mapping[tuple[str, int], Sequence[RunConfig]],
    labels: Sequence[str],
    seeds: Sequence[int],
    metric: str,
    higher_is_better: bool,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """(values [seeds, arms], whether ended, half a step of the metric).

    A seed's value is the mean over its folds. A diverged run counts at chance level, as everywhere (analysis/rows.py), and
    where no record states it as the worst seen; one that failed is no outcome of the arm and gives none.
    """
    results = [record.results for record in records.values() if record is not None and record.results is not None]
    chance = next((r.chance[metric] for r in results if metric in r.chance), None)
    seen = [value for r in results if r.status != "diverged" and (value := _value(r.metrics, metric)) is not None]
    worst = chance if chance is not None else (min if higher_is_better else max)(seen, default=np.nan)
    examples = [r.splits.get("test") or r.splits.get("validation") or 0 for r in results]
    values, ended = np.full((len(seeds), len(labels)), np.nan), np.zeros((len(seeds), len(labels)), dtype=bool)
    folds = 1
    for (i, seed), (j, label) in itertools.product(enumerate(seeds), enumerate(labels)):
        runs = [records[config.run_id] for config in by_unit.get((label, seed), ())]
        folds = max(folds, len(runs))
        got = [worst if run.diverged else _value(run.results.metrics, metric) if run.results else None for run in runs if run]
        ended[i, j] = len(got) == len(runs) or not runs
        if runs and len(got) == len(runs) and None not in got:
            values[i, j] = float(np.mean([value for value in got if value is not None]))
    known = [count for count in examples if count]
    return values, ended, 0.5 / (max(known) * folds) if known and is_share(metric) else 0.0


def _value(metrics: Mapping[str, Mapping[str, float | None]], metric: str) -> float | None:
    return metrics.get("test", metrics.get("validation", {})).get(metric)


def _shown(rule: Rule) -> dict[str, Any]:
    return {**dataclasses.asdict(rule), "keep": sorted(rule.keep), "margin": rule.margin and rule.margin.model_dump()}


def _same(written: Any, rule: Mapping[str, Any]) -> bool:
    """Whether an earlier rule decided as this one does; the step of the metric is known only once runs have ended."""
    late = {"resolution": 0.0}
    return isinstance(written, dict) and to_json({**written, **late}) == to_json({**rule, **late})


def _standing(folder: ResultsFolder) -> dict[tuple[Any, Any], Mapping[str, Any]]:
    """(task, backbone) -> its race as written last. A file that is lost or cannot be read is made anew from the records."""
    written = read_json(folder.path / FILE)
    listed = written.get("heats", []) if isinstance(written, dict) else []
    return {(heat.get("task"), heat.get("backbone")): heat for heat in listed if isinstance(heat, dict)}


def _stands(written: Mapping[str, Any], heat: Heat, metric: str) -> dict[str, Left]:
    """Arms that left, by label: what was decided stands, even where a failed run has been tried again since, as long as the rule,
    the metric, the arms and the runs that it was decided by are those of now. That a question would stay open depends on the
    planned seeds as well."""
    now = {"metric": metric, "labels": list(heat.labels)}
    if not _same(written.get("rule"), _shown(heat.rule)) or any(written.get(name) != value for name, value in now.items()):
        return {}
    try:
        left, runs = [Left(**entry) for entry in written["left"]], written["decided_by"]
        return {
            one.label: one
            for one in left
            if runs[one.label] == _decided_by(heat, one) and (one.why != "open" or written["seeds"] == list(heat.seeds))
        }
    except (TypeError, KeyError):
        return {}


def _decided_by(heat: Heat, left: Left) -> list[str]:
    """The runs that were looked at of an arm that left and of the one that it was compared with, in their order."""
    seeds = heat.seeds[: left.seeds]
    return [run.run_id for seed in seeds for label in (left.label, left.against) for run in heat.configs.get((label, seed), ())]


def save(folder: ResultsFolder, study: Study, found: Sequence[Heat]) -> dict[str, Any]:
    """Write ``racing.json``; returns its content."""
    content = {
        "method": "racing",
        "goal": study.search.goal if study.search else "",
        "metric": study.analysis.metric,
        "confidence": study.analysis.confidence,
        "heats": [_as_dict(heat, study.analysis.metric) for heat in found],
    }
    folder.write_state(FILE, to_json(content))
    return content


def _as_dict(heat: Heat, metric: str) -> dict[str, Any]:
    played = heat.race
    task = next(iter(heat.configs.values()))[0].task
    arms = [{"label": label, "seeds": played.seeds_of(label), "left": label not in played.running} for label in heat.labels]
    return {
        "task": heat.task, "backbone": heat.backbone, "task_spec": task, "rule": _shown(heat.rule),
        "metric": metric, "labels": list(heat.labels), "decided_by": {one.label: _decided_by(heat, one) for one in played.left},
        "family": heat.rule.family, "earliest": heat.rule.first_seed, "seeds": list(heat.seeds), "arms": arms,
        "looks": [{"seeds": seeds, "arms": list(labels)} for seeds, labels in played.looks],
        "left": [dataclasses.asdict(left) for left in played.left], "over": played.over,
        "runs": {"planned": heat.planned, "needed": len(heat.needed)},
        "sentences": [sentence(left, heat.rule, len(heat.seeds), metric) for left in played.left],
    }  # fmt: skip


def sentence(left: Left, rule: Rule, planned: int, metric: str) -> str:
    """Which arm left, when and why."""
    points = " percentage points" if is_share(metric) else ""
    by = "" if rule.margin is None else f" {show_margin(rule.margin, metric)}"
    what = {
        "worse": f"worse than {left.against}" + (f" by more than{by}" if by else ""),
        "within": f"within{by} of {left.against}",
        "beyond": f"short of {left.against} by more than{by}",
        "open": f"undecided against {left.against}, with a chance of {100 * (left.chance or 0):.1f} % to be decided in time",
    }[left.why]
    gap = f"{show_difference(left.difference, metric)}{points}"
    return (
        f"{left.label} left after {left.seeds} of {planned} seeds: {what} ({gap}, e-value {left.e_value:.3g}, anytime-valid "
        f"{equation_p(left.p)}, Holm-adjusted {equation_p(left.p_adjusted).removeprefix('p ').removeprefix('= ')})."
    )
