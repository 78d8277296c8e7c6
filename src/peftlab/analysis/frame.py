"""One tidy frame from a results folder: a row per run x split x metric, and a list of everything that is not in it."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from peftlab.analysis.planned import canonical, missing_runs, task_name, task_names
from peftlab.analysis.raced import heat_of, read_race, spared
from peftlab.analysis.reading import Problem, RunRecord, read_json, read_runs, read_study
from peftlab.errors import nearest
from peftlab.study.confounds import Trained, unlike
from peftlab.study.expand import cells
from peftlab.study.schema import Study

COLUMNS = (
    "study label arm slug backbone task task_kind data seed fold run_id folder status split metric value higher_is_better "
    "imputed chance majority trainable trainable_at_end adapted total trainable_percent measured_peak_mb predicted_peak_mb "
    "train_s steps resumed examples flags"
).split()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What was measured and what was not.

    ``rows`` has the columns of :data:`COLUMNS` and one ``factor.NAME`` per grid key; ``task`` is kind and data in one word.
    """

    folder: Path
    study: Study
    rows: pd.DataFrame
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]  #: what runs noted about themselves
    split: str  #: split that is judged: "test", or "validation" where nothing was tested
    plan: Mapping[str, Any]
    tuning: Mapping[str, Any] | None
    race: Mapping[str, Any] | None = None  #: of a study with `search`: which arms left early, and why
    records: tuple[RunRecord, ...] = ()  #: what ``rows`` was made from, failed runs with it

    @property
    def metric(self) -> str:
        """The declared metric."""
        return self.study.analysis.metric

    @property
    def arms(self) -> list[str]:
        """Labels in the order of the study file; arms that are not in it come last."""
        present = list(dict.fromkeys(self.rows["label"]))
        declared = list(dict.fromkeys(cell.label for cell in cells(self.study)))
        return [a for a in declared if a in present] + [a for a in present if a not in declared]

    @property
    def settings(self) -> list[tuple[str, str]]:
        """(task, backbone) pairs that have records, in order of appearance."""
        return list(dict.fromkeys(zip(self.rows["task"], self.rows["backbone"], strict=True)))

    def primary(self) -> pd.DataFrame:
        """One row per run with the declared metric on the judged split; ``value`` may be missing."""
        rows = self.rows
        return rows[(rows["metric"] == self.metric) & (rows["split"] == self.split)].reset_index(drop=True)

    def values(self, task: str, backbone: str) -> pd.DataFrame:
        """Primary values of one setting: index (seed, fold), a column per arm, missing where a run is missing."""
        rows = self.primary()
        rows = rows[(rows["task"] == task) & (rows["backbone"] == backbone)]
        table = rows.pivot(index=["seed", "fold"], columns="label", values="value").sort_index()
        return table.reindex(columns=[arm for arm in self.arms if arm in table.columns])

    def write(self, folder: Path) -> None:
        """``results.parquet`` and ``results.csv``; cells that would start a formula in a spreadsheet are quoted."""
        folder.mkdir(parents=True, exist_ok=True)
        self.rows.to_parquet(folder / "results.parquet", index=False)
        safe = self.rows.rename(columns=safe_cell)
        for column in safe.columns:
            if not pd.api.types.is_numeric_dtype(safe[column]):
                safe[column] = safe[column].map(safe_cell)
        safe.to_csv(folder / "results.csv", index=False)


def safe_cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    if isinstance(value, str) and value[:1] in tuple("=+-@\t\r\n＝＋－＠"):
        return "'" + value
    return value


def load_frame(folder: str | Path) -> Frame:
    """Read a results folder.

    Raises:
        RecordError: there is no folder, or no readable ``study.yaml`` in it. Other damage is in ``problems``.
    """
    folder = Path(folder)
    study = read_study(folder)
    records, problems, warnings = read_runs(folder)
    plan = read_json(folder / "plan.json")
    plan = plan if isinstance(plan, dict) else {}
    tuning = read_json(folder / "tuning.json")
    names = task_names(record.config.task for record in records)
    records, duplicates = _without_duplicates(records, plan)
    warnings += duplicates
    rows, outcomes, row_warnings = _rows(records, names, study.analysis.metric)
    problems += outcomes
    race = read_race(folder) if study.search else None
    problems += missing_runs(
        study, records, problems, plan, lambda task, backbone, *run: spared(heat_of(race, task, backbone), *run)
    )
    frame = _table(rows)
    tested = frame[(frame["metric"] == study.analysis.metric) & frame["value"].notna() & ~frame["imputed"]]
    split = "validation" if len(tested) and "test" not in set(tested["split"]) else "test"
    return Frame(
        folder=folder,
        study=study,
        rows=frame,
        problems=tuple(problems),
        warnings=tuple(warnings + row_warnings + _frame_warnings(study, frame, split) + _confounds(study, records, names)),
        notes=tuple(dict.fromkeys(note for r in records if r.results for note in r.results.notes)),
        split=split,
        plan=plan,
        tuning=tuning if isinstance(tuning, dict) else None,
        race=race,
        records=tuple(records),
    )


def _without_duplicates(records: Sequence[RunRecord], plan: Mapping[str, Any]) -> tuple[list[RunRecord], list[str]]:
    """One record per arm, task, backbone, seed and fold: the planned one, else the newest."""
    planned = {str(run.get("run_id")) for run in plan.get("runs") or [] if isinstance(run, Mapping)}
    groups: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        config = record.config
        groups[(config.label, config.backbone, canonical(config.task), config.seed, config.fold)].append(record)
    kept, dropped = [], []
    for group in groups.values():
        group.sort(key=lambda r: (r.folder.name in planned, r.results is not None, r.folder.stat().st_mtime_ns, r.folder.name))
        kept.append(group[-1])
        dropped += [f"{r.config.label} seed {r.config.seed} ({r.folder.name})" for r in group[:-1]]
    if not dropped:
        return kept, []
    shown = ", ".join(dropped[:5]) + (f" and {len(dropped) - 5} more" if len(dropped) > 5 else "")
    return kept, [f"Older records of the same arm and seed were left out of the analysis: {shown}."]


def _rows(
    records: Sequence[RunRecord], names: Mapping[str, str], metric: str
) -> tuple[list[dict[str, Any]], list[Problem], list[str]]:
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    warnings: list[str] = []
    levels = _levels(records, names, metric)
    for record in records:
        task = names[canonical(record.config.task)]
        if record.diverged or record.results is None:
            problems.append(_problem(record, task))
        base = _about(record, task)
        if record.results is not None:
            rows += [base | extra for extra in _metrics(record, record.results, metric)]
        if record.diverged:
            level = levels.get(task, _Level())
            if not level.is_chance:
                warnings.append(
                    f"{record.config.label} seed {record.config.seed} diverged and no record of the task states the chance level "
                    f"of {metric}: the worst value seen on the task stands in for it."
                )
            outcome = {"metric": metric, "value": level.value, "higher_is_better": level.higher, "imputed": True}
            chance = level.value if level.is_chance else None
            splits = record.results.metrics if record.results else ("test", "validation")
            for split in dict.fromkeys(("test", *splits)):
                rows.append(base | outcome | {"split": split, "chance": chance})
    return rows, problems, warnings


@dataclasses.dataclass(frozen=True, slots=True)
class _Level:
    value: float | None = None
    higher: bool = True
    is_chance: bool = False


def _levels(records: Sequence[RunRecord], names: Mapping[str, str], metric: str) -> dict[str, _Level]:
    """Task -> the value that a diverged run is given: chance, or where no record states it the worst value seen."""
    found: dict[str, _Level] = {}
    for record in records:
        results, task = record.results, names[canonical(record.config.task)]
        if results is None or (task in found and found[task].is_chance):
            continue
        higher = results.higher_is_better.get(metric, True)
        if metric in results.chance:
            found[task] = _Level(results.chance[metric], higher, True)
            continue
        seen = [m[metric] for m in results.metrics.values() if m.get(metric) is not None] + [found.get(task, _Level()).value]
        finite = [float(v) for v in seen if v is not None and math.isfinite(v)]
        if finite:
            found[task] = _Level(min(finite) if higher else max(finite), higher, False)
    return found


def _problem(record: RunRecord, task: str) -> Problem:
    config, error = record.config, record.error.error if record.error else {}
    what = error.get("what", "") if record.error else "training diverged; the run is an outcome of its arm and counts"
    return Problem(
        kind="diverged" if record.diverged else "failed",
        what=f"{error['type']}: {what}" if error.get("type") else what,
        remedy=error.get("remedy", ""),
        label=config.label, backbone=config.backbone, task=task, seed=config.seed, fold=config.fold,
        run_id=record.folder.name, where=f"runs/{record.folder.parent.name}/{record.folder.name}",
    )  # fmt: skip


def _about(record: RunRecord, task: str) -> dict[str, Any]:
    config, results = record.config, record.results
    parameters = results.parameters if results else {}
    memory = results.memory if results else {}
    return {
        "study": config.study, "label": config.label, "arm": config.arm, "slug": config.slug, "backbone": config.backbone,
        "task": task, "task_kind": str(config.task.get("kind", "")), "data": task_name({"data": config.task.get("data", "")}),
        "seed": config.seed, "fold": config.fold, "run_id": record.folder.name,
        "folder": f"runs/{record.folder.parent.name}/{record.folder.name}",
        "status": "diverged" if record.diverged else results.status if results else "failed", "imputed": False,
        "trainable": parameters.get("trainable"), "adapted": parameters.get("adapter"), "total": parameters.get("total"),
        "trainable_at_end": (parameters.get("at_end") or {}).get("trainable", parameters.get("trainable")),
        "trainable_percent": parameters.get("trainable_percent"),
        "measured_peak_mb": memory.get("measured_peak_mb"), "predicted_peak_mb": memory.get("predicted_peak_mb"),
        "train_s": results.time.get("train_s") if results else None, "steps": results.steps if results else None,
        "resumed": results.resumed if results else 0, "flags": "; ".join(results.flags) if results else "",
        **{f"factor.{name}": _scalar(value) for name, value in config.factors.items()},
    }  # fmt: skip


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _metrics(record: RunRecord, results: Any, metric: str) -> list[dict[str, Any]]:
    """A diverged run's own primary value is replaced by its imputed row."""
    return [
        {
            "split": split, "metric": name, "value": value, "higher_is_better": results.higher_is_better.get(name),
            "chance": results.chance.get(name), "majority": results.majority.get(name), "examples": results.splits.get(split),
        }
        for split, values in results.metrics.items()
        for name, value in values.items()
        if not (record.diverged and name == metric)
    ]  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    factors = sorted({key for row in rows for key in row if key.startswith("factor.")})
    table = pd.DataFrame(rows, columns=pd.Index([*COLUMNS, *factors]))
    numbers = (
        "value chance majority trainable trainable_at_end adapted total trainable_percent measured_peak_mb predicted_peak_mb "
        "train_s steps examples"
    ).split()
    for column in numbers:
        table[column] = pd.to_numeric(table[column], errors="coerce").astype("float64")
    table["value"] = table["value"].where(table["value"].abs() != math.inf)
    for column in ("seed", "fold", "resumed"):
        table[column] = table[column].astype("int64")
    table["imputed"] = table["imputed"].astype("bool")
    table["higher_is_better"] = table["higher_is_better"].astype("boolean")
    for column in [c for c in table.columns if c not in (*numbers, "seed", "fold", "resumed", "imputed", "higher_is_better")]:
        table[column] = table[column].astype("string")
    return table


def _confounds(study: Study, records: Sequence[RunRecord], names: Mapping[str, str]) -> list[str]:
    configs = (record.config for record in records)
    arms = (Trained.of((c.label, c.backbone, names[canonical(c.task)]), c.train) for c in configs)
    return unlike(arms, study.analysis.baseline)


def _frame_warnings(study: Study, frame: pd.DataFrame, split: str) -> list[str]:
    found: list[str] = []
    metric = study.analysis.metric
    if frame.empty:
        return ["There is no finished run yet: nothing can be said."]
    if metric not in set(frame["metric"]):
        return [f"No record has the declared metric {metric!r}. {nearest(metric, set(frame['metric'].dropna()))}"]
    if split == "validation":
        found.append("Nothing was evaluated on test data: all values are on validation data, which may have guided the training.")
    directions = frame.loc[frame["metric"] == metric, "higher_is_better"].dropna().unique()
    if len(directions) > 1:
        found.append(f"Records disagree on whether a higher {metric} is better.")
    declared = {cell.label for cell in cells(study)}
    if extra := sorted(set(frame["label"]) - declared):
        found.append("Not in the study file, but in its folder, and analysed with the rest: " + ", ".join(extra) + ".")
    if frame["label"].nunique() == 1:
        found.append("There is one arm only: nothing can be compared.")
    if frame["seed"].nunique() * frame["fold"].nunique() == 1:
        found.append("There is one seed only: no interval and no test is possible, and differences may be chance.")
    return found
