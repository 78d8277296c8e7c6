"""Every run as the page holds it: what was asked, what came out, its curves and diagnostics; small enough for thousands."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from peftlab.analysis.frame import Frame
from peftlab.analysis.planned import canonical, task_names
from peftlab.analysis.reading import RunRecord, flatten, metric_lines, read_json
from peftlab.report.figures.contract import Bundle
from peftlab.report.html.shared import Pool, grouped_facts

MOST_POINTS = 80  #: of a curve; longer ones are thinned, first and last kept
CURVE_DIGITS = 5  #: significant digits of its values
FACT_DIGITS = 6  #: of what a run says of itself
MOST_ENTRIES = 20  #: of a table inside a diagnostic; larger ones are only counted
MOST_LEAVES = 48  #: single values in it and below it
MOST_BYTES = 16_384  #: a diagnostic larger than this is named, not shown
MOST_TEXT = 300
MOST_TRACE = 4_000
#: files that are shown as themselves, or whose content results.json repeats
_KNOWN = frozenset("config results error environment memory parameters MANIFEST".split())
#: of the environment: what changes with every run, and what tells a machine or a person apart
_PRIVATE = frozenset("host command time started pid boot_id packages packages_sha256".split())
_OF_THE_RUN = frozenset("seed fold label slug study arm factors run_id schema_version purpose evaluate_test".split())
_LEFT_OUT = frozenset("metrics higher_is_better run_id schema_version status flags notes data_warnings".split())
Unit = tuple[str, str, str, int, int]


def run_details(records: Iterable[RunRecord]) -> dict[Path, dict[str, Any]]:
    """Run folder -> what the run says of itself; most of the work, and none of it needs the findings."""
    return {record.folder: _details(record) for record in records}


def runs_data(frame: Frame, bundles: Sequence[Bundle], details: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """``runs`` in the order of settings, arms and seeds, and the pools they point into. ``details``: by :func:`run_details`."""
    pools = {name: Pool() for name in ("steps", "configs", "environments", "packages", "ranks")}
    places = {(b.task, b.backbone): i for i, b in enumerate(bundles)}
    arms = [{arm.label: k for k, arm in enumerate(b.arms)} for b in bundles]
    names = task_names(record.config.task for record in frame.records)
    curves, norms, ranks = _curves(bundles), _norms(bundles), _total_ranks(bundles)
    outcomes = _outcomes(frame)
    order = {label: i for i, label in enumerate(frame.arms)}
    groups, facts = grouped_facts({record.folder: details[record.folder]["facts"] for record in frame.records})
    found: list[tuple[Any, dict[str, Any]]] = []
    for record in frame.records:
        config, task = record.config, names[canonical(record.config.task)]
        unit: Unit = (task, config.backbone, config.label, config.seed, config.fold)
        setting = places.get((task, config.backbone), -1)
        entry = {
            "id": record.folder.name, "s": setting, "a": arms[setting].get(config.label, -1) if setting >= 0 else -1,
            "arm": config.label, "task": task, "backbone": config.backbone, "seed": config.seed, "fold": config.fold,
            "where": record.folder.relative_to(frame.folder).as_posix(), **_status(record), **outcomes.get(unit[:5], {}),
            **_interned(details[record.folder], pools), "facts": facts[record.folder],
            "metrics": _metrics(details[record.folder]["metrics"], frame.metric),
            "gradients": _at(norms.get(unit), pools), "ranks": _at(ranks.get(unit), pools),
            "curves": {
                split: _at(columns, pools) for split, columns in (curves.get(unit) or _broken_off(record, frame.metric)).items()
            },
        }  # fmt: skip
        key = (setting if setting >= 0 else len(bundles), order.get(config.label, len(order)), config.seed, config.fold)
        found.append((key, {name: value for name, value in entry.items() if value not in (None, [], "", {})}))
    found += [((len(bundles), len(order), 0, 0), entry) for entry in _without_outcome(frame)]
    found.sort(key=lambda pair: (*pair[0], pair[1]["id"]))
    return {"runs": [entry for _, entry in found], "facts": groups, **{name: pool.values for name, pool in pools.items()}}


def _without_outcome(frame: Frame) -> list[dict[str, Any]]:
    """Folders that hold neither results nor an error, or damaged ones."""
    return [
        {
            "id": p.run_id, "s": -1, "a": -1, "arm": p.label, "task": p.task, "backbone": p.backbone,
            "seed": -1 if p.seed is None else p.seed, "fold": p.fold, "where": p.where, "status": p.kind,
            "error": {"type": p.kind, "what": p.what, "remedy": p.remedy},
        }
        for p in frame.problems
        if p.kind in ("unfinished", "unreadable") and p.run_id
    ]  # fmt: skip


def _status(record: RunRecord) -> dict[str, Any]:
    if record.diverged:
        return {"status": "diverged"}
    return {"status": "completed" if record.results else "failed"}


def _outcomes(frame: Frame) -> dict[Any, dict[str, Any]]:
    primary = frame.primary()
    columns = [primary[c] for c in ("task", "backbone", "label", "seed", "fold", "value", "imputed")]
    return {
        (str(task), str(backbone), str(label), int(seed), int(fold)): {"value": number(value), "imputed": bool(imputed)}
        for task, backbone, label, seed, fold, value, imputed in zip(*columns, strict=True)
    }


def _metrics(measured: Mapping[str, Mapping[str, Any]] | None, declared: str) -> dict[str, dict[str, Any]] | None:
    """The declared metric as it is, the others shortened."""
    digits = {declared: None}
    return (
        None
        if measured is None
        else {split: {k: number(v, digits.get(k, FACT_DIGITS)) for k, v in values.items()} for split, values in measured.items()}
    )


def _interned(details: Mapping[str, Any], pools: Mapping[str, Pool]) -> dict[str, Any]:
    """With what many runs have in common kept once."""
    modules = None if details["modules"] is None else pools["ranks"].place(details["modules"])
    common = {name: pools[f"{name}s"].place(details[name]) for name in ("config", "environment")}
    return {**details, **common, "packages": pools["packages"].place(details["packages"]), "modules": modules}


def _at(columns: list[list[Any]] | None, pools: Mapping[str, Pool]) -> list[Any] | None:
    """Columns of a curve, the steps among those of all runs: most runs were measured at the same."""
    return columns and [pools["steps"].place(columns[0]), *columns[1:]]


def _details(record: RunRecord) -> dict[str, Any]:
    """Configuration, environment, facts, flags, notes and error."""
    results, folder = record.results, record.folder
    config = record.config.model_dump(mode="json")
    environment = read_json(folder / "environment.json")
    environment = environment if isinstance(environment, Mapping) else {}
    packages = environment.get("packages")
    facts, large = _diagnostics(folder)
    if results is not None:
        told = results.model_dump(mode="json")
        facts = scalars({key: value for key, value in told.items() if key not in _LEFT_OUT}) | facts
    at_end = (results.parameters.get("at_end") or {}) if results else {}
    shown = {key: _short(value) for key, value in flatten({k: v for k, v in config.items() if k not in _OF_THE_RUN}).items()}
    return {
        "config": shown,
        "environment": {k: _short(v) for k, v in flatten({k: v for k, v in environment.items() if k not in _PRIVATE}).items()},
        "packages": packages if isinstance(packages, Mapping) else {},
        "metrics": results.metrics if results else None,
        "facts": facts,
        "large": large,
        "modules": at_end["ranks"] if isinstance(at_end.get("ranks"), Mapping) else None,
        "flags": results.flags if results else None,
        "notes": [*results.data_warnings, *results.notes] if results else None,
        "error": _error(record),
    }  # fmt: skip


def _error(record: RunRecord) -> dict[str, Any] | None:
    if record.error is None:
        return None
    trace = record.error.traceback
    cut = trace if len(trace) <= MOST_TRACE else "…\n" + trace[-MOST_TRACE:]
    return {**record.error.error, "step": record.error.step, "traceback": cut}


def _diagnostics(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Single values of every diagnostic, named file.key, and the files that are too large to be shown."""
    facts: dict[str, Any] = {}
    large: list[str] = []
    for path in sorted(folder.glob("*.json")):
        if path.stem in _KNOWN or path.stem.startswith("error-"):
            continue
        size = path.stat().st_size
        content = read_json(path) if size <= MOST_BYTES else None
        if isinstance(content, Mapping):
            facts |= {f"{path.stem}.{key}": value for key, value in scalars(content).items()}
        else:
            large.append(f"{path.name} ({max(1, round(size / 1000))} kB)")
    return facts, large


def scalars(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Single values under dotted keys; of lists, and of tables of more than :data:`MOST_ENTRIES` entries, their size."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            modules = any("." in part for part in item)  # a value for each; curves and figures show them
            inner = {} if modules or len(item) > MOST_ENTRIES else scalars(item, f"{name}.")
            small = not modules and len(item) <= MOST_ENTRIES and len(inner) <= MOST_LEAVES
            found |= inner if small else {f"{name} (entries)": len(item)}
        elif isinstance(item, list):
            if item and not prefix:
                found[f"{name} (entries)"] = len(item)
        elif isinstance(item, bool) or item is None:
            found[name] = item
        elif item != "":
            found[name] = number(item, FACT_DIGITS) if isinstance(item, int | float) else _short(item)
    return {key: item for key, item in found.items() if item is not None}


def _curves(bundles: Iterable[Bundle]) -> dict[Unit, dict[str, Any]]:
    found: dict[Unit, dict[str, Any]] = {}
    for bundle in bundles:
        if bundle.curves.empty:
            continue
        metric = bundle.findings.plan.metric
        names = [c for c in dict.fromkeys(("label", "seed", "fold", "split", "step", "loss", metric)) if c in bundle.curves]
        lines: dict[Unit, list[dict[str, Any]]] = {}
        for values in zip(*(bundle.curves[name].tolist() for name in names), strict=True):
            line = dict(zip(names, values, strict=True))
            unit = (bundle.task, bundle.backbone, str(line["label"]), int(line["seed"]), int(line["fold"]))
            lines.setdefault(unit, []).append(line)
        found |= {unit: _of_lines(records, metric) for unit, records in lines.items()}
    return found


def _broken_off(record: RunRecord, metric: str) -> dict[str, Any]:
    """Curves of a run that failed: they are in no table, but show how far it came."""
    if record.results is not None:
        return {}
    return _of_lines([x for x in metric_lines(record.folder / "metrics.jsonl") if isinstance(x.get("step"), int)], metric)


def _of_lines(lines: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """``train``: [steps, losses]; ``validation``: [steps, losses, values of the metric]."""
    train = thinned([line for line in lines if line["split"] == "train"])
    validation = thinned([line for line in lines if line["split"] == "validation"])
    found: dict[str, Any] = {}
    if train:
        found["train"] = [[int(line["step"]) for line in train], [number(line.get("loss"), CURVE_DIGITS) for line in train]]
    if validation:
        values = [number(line.get(metric), CURVE_DIGITS) for line in validation]
        found["validation"] = [
            [int(line["step"]) for line in validation], [number(line.get("loss"), CURVE_DIGITS) for line in validation],
            values if metric != "loss" and any(v is not None for v in values) else [],
        ]  # fmt: skip
    return found


def thinned(points: Sequence[Any]) -> list[Any]:
    """Evenly spaced points, at most :data:`MOST_POINTS`, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return list(points)
    last = len(points) - 1
    return [points[round(k * last / (MOST_POINTS - 1))] for k in range(MOST_POINTS)]


def _norms(bundles: Iterable[Bundle]) -> dict[Unit, list[list[Any]]]:
    """Norm of all modules' gradients together: root of the sum of squares, per recorded step."""
    found: dict[Unit, list[list[Any]]] = {}
    for bundle in bundles:
        if bundle.gradients is None or bundle.gradients.empty:
            continue
        table = bundle.gradients
        squares = table["norm"].pow(2).groupby([table[c] for c in ("arm", "seed", "fold", "step")], sort=False).sum(min_count=1)
        _collect(found, bundle, squares.pow(0.5))
    return found


def _total_ranks(bundles: Iterable[Bundle]) -> dict[Unit, list[list[Any]]]:
    """Sum of the ranks of all modules, per step that changed them."""
    found: dict[Unit, list[list[Any]]] = {}
    for bundle in bundles:
        if bundle.ranks is None or bundle.ranks.empty:
            continue
        _collect(found, bundle, bundle.ranks.groupby(["arm", "seed", "fold", "step"], sort=False)["rank"].sum())
    return found


def _collect(found: dict[Unit, list[list[Any]]], bundle: Bundle, series: pd.Series) -> None:
    runs: dict[Unit, list[tuple[int, float | None]]] = {}
    for (arm, seed, fold, step), value in zip(series.index, series.tolist(), strict=True):
        unit = (bundle.task, bundle.backbone, str(arm), int(seed), int(fold))
        runs.setdefault(unit, []).append((int(step), number(value, CURVE_DIGITS)))
    for unit, points in runs.items():
        kept = thinned(sorted(points, key=lambda point: point[0]))
        found[unit] = [[step for step, _ in kept], [value for _, value in kept]]


def number(value: Any, digits: int | None = None) -> float | int | None:
    """Rounded to significant digits; None for what is missing or not finite.

    ``digits`` None: as it is, for what the script rounds as the tables of the page do: rounded twice it would be another number.
    """
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return None
    if isinstance(value, int) or float(value).is_integer():
        return int(value)
    return float(value) if digits is None else float(f"{value:.{digits}g}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value, default=str)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"
