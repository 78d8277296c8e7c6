"""The rows of the tidy frame: what each record says, and what stands in for a run that diverged."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from peftlab.analysis.planned import canonical, task_name
from peftlab.analysis.reading import Problem, RunRecord
from peftlab.records.record import RunResults
from peftlab.records.times import last_attempt_s

COLUMNS = (
    "study label arm slug backbone task task_kind data seed fold run_id folder status split metric value higher_is_better "
    "imputed chance majority trainable trainable_at_end adapted total trainable_percent measured_peak_mb predicted_peak_mb "
    "train_s steps resumed examples flags"
).split()
#: a run on one processor that had it for less than this share of its time was kept waiting, by other processes or a slow disk
BUSY_SHARE, BUSY_FROM_S = 0.8, 2.0
BUSY_FLAG = "timed on a busy machine"


def tidy_rows(
    records: Sequence[RunRecord], names: Mapping[str, str], metric: str
) -> tuple[pd.DataFrame, list[Problem], list[str]]:
    """A row per run x split x metric; a diverged run has the chance level of ``metric`` in place of its own value.

    Args:
        records: runs with results, or with an error.
        names: canonical task -> its name in the table (:func:`peftlab.analysis.planned.task_names`).
        metric: the declared metric.

    Returns:
        The table, with the columns of :data:`COLUMNS` and one ``factor.NAME`` per grid key; the runs that diverged or failed; a
        warning for every diverged run whose chance level no record states (the worst value seen on its task stands in for it).
    """
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
    return _table(rows), problems, warnings


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
        "resumed": results.resumed if results else 0,
        "flags": "; ".join([*results.flags, *_kept_waiting(results)]) if results else "",
        **{f"factor.{name}": _scalar(value) for name, value in config.factors.items()},
    }  # fmt: skip


def _kept_waiting(results: RunResults) -> list[str]:
    """The flag of a run whose seconds say more about what else went on than about its arm.

    Processes wait for their GPU, those of a team for one another, those that share a frozen prefix for whoever computes it, and
    a run of a stack has no time of its own: they are not asked. Nor is what took less than two seconds, most of which is waiting
    for files.
    """
    time = results.time
    wall_s, cpu_s = (last_attempt_s(time, key) for key in ("total_s", "cpu_s"))  # others may have waited for a GPU
    alone_on_cpu = str(time.get("device", "")).startswith("cpu") and time.get("processes", 1) == 1
    if wall_s is None or cpu_s is None or wall_s < BUSY_FROM_S:
        return []
    asked = results.steps > 0 and alone_on_cpu and not time.get("prefix")
    return [BUSY_FLAG] if asked and cpu_s < BUSY_SHARE * wall_s else []


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
