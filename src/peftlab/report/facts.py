"""What the report tells beside the findings: machine and versions, tuning, how to reproduce."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from peftlab.analysis.frame import Frame
from peftlab.analysis.reading import flatten, read_json
from peftlab.analysis.words import show

#: kept in the records, but of no use to a reader or of a kind that changes with every run
_LEFT_OUT = ("host", "command", "packages", "packages_sha256", "variables", "time", "started", "pid", "boot_id")
_MAIN_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "timm",
    "bitsandbytes",
    "numpy",
    "scipy",
    "pandas",
    "safetensors",
)


def environment(frame: Frame) -> dict[str, Any]:
    """Environment of the runs: ``same`` for what all share, ``differs`` for what not, ``runs`` read."""
    seen: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    count = 0
    for where in frame.rows["folder"].drop_duplicates():
        data = read_json(frame.folder / str(where) / "environment.json")
        if not isinstance(data, Mapping):
            continue
        count += 1
        packages = data.get("packages")
        versions = (
            {f"package {k}": v for k, v in packages.items() if k in _MAIN_PACKAGES} if isinstance(packages, Mapping) else {}
        )
        kept = {k: v for k, v in data.items() if k not in _LEFT_OUT}
        for key, value in {**flatten(kept), **versions}.items():
            seen[key][_text(value)] += 1
    same = {key: next(iter(values)) for key, values in seen.items() if len(values) == 1 and next(iter(values))}
    differs = {key: dict(values) for key, values in seen.items() if len(values) > 1}
    return {"same": same, "differs": differs, "runs": count}


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 200 else text[:199] + "…"


def fingerprints(frame: Frame) -> list[dict[str, str]]:
    """Per setting: hashes of backbone and data as recorded."""
    found = []
    for task, backbone in frame.settings:
        rows = frame.rows[(frame.rows["task"] == task) & (frame.rows["backbone"] == backbone)]
        config = read_json(frame.folder / str(rows["folder"].iloc[0]) / "config.json")
        if isinstance(config, Mapping):
            about = {k: str(config.get(f"{k}_fingerprint", "")) for k in ("backbone", "data")}
            found.append({"task": task, "name": backbone, **about})
    return found


def study_text(frame: Frame) -> tuple[str, str]:
    """study.yaml and its SHA-256."""
    raw = (frame.folder / "study.yaml").read_bytes()
    return raw.decode("utf-8", errors="replace"), hashlib.sha256(raw).hexdigest()


def tuning(frame: Frame) -> dict[str, Any] | None:
    """The tuning as a table: a row per arm, a column per combination of values; None where nothing was tuned."""
    data = frame.tuning
    if not data or not isinstance(data.get("trials"), list):
        return None
    metric, seeds = str(data.get("metric", "")), [str(s) for s in data.get("seeds") or []]
    trials: dict[tuple[str, ...], dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    columns: dict[str, str] = {}
    for trial in _entries(data["trials"]):
        key = _key(trial["values"])
        columns[key] = ", ".join(f"{k} = {_number(v)}" for k, v in trial["values"].items())
        value = trial.get("value")
        trials[_arm(trial)][key].append(float(value) if isinstance(value, int | float) else None)
    chosen = {_arm(entry): entry for entry in _entries(data.get("chosen"))}
    names = _names(list(trials))
    rows, lost = [], []
    for arm, results in trials.items():
        choice = chosen.get(arm, {})
        picked = _key(choice.get("values", {}))
        rows.append({"label": names[arm], "cells": [_cell(results.get(key, []), metric, key == picked) for key in columns]})
        lost += _lost(names[arm], results, columns, max(len(seeds), 1))
        if edge := choice.get("at_edge"):
            lost.append(
                f"{names[arm]}: the best {' and '.join(map(str, edge))} is at the edge of the grid; a better one may lie outside."
            )
        if not choice:
            lost.append(f"{names[arm]}: nothing was chosen.")
    tuned = {arm[0] for arm in trials}
    lost += [f"{label}: was not tuned." for label in frame.arms if label not in tuned]
    return {"columns": list(columns.values()), "rows": rows, "lost": lost, "metric": metric, "seeds": ", ".join(seeds)}


def _entries(value: Any) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, list) else []
    return [entry for entry in items if isinstance(entry, Mapping) and isinstance(entry.get("values"), Mapping)]


def _arm(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(entry.get(key, "")) for key in ("label", "backbone", "task"))


def _names(arms: list[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """The label, with backbone and task where several were tuned."""
    varying = [i for i in (1, 2) if len({arm[i] for arm in arms}) > 1]
    return {arm: arm[0] + (f" ({', '.join(arm[i] for i in varying)})" if varying else "") for arm in arms}


def _lost(name: str, results: Mapping[str, list[float | None]], columns: Mapping[str, str], seeds: int) -> list[str]:
    """What an arm did not get."""
    counts = {words: sum(v is not None for v in results.get(key, [])) for key, words in columns.items()}
    return [f"{name}: {words} gave a value in {got} of {seeds} trials." for words, got in counts.items() if got < seeds]


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(values: list[float | None], metric: str, chosen: bool) -> dict[str, Any]:
    known = [v for v in values if v is not None]
    text = show(sum(known) / len(known), metric) if known else "no value"
    return {"text": text, "n": len(known), "chosen": chosen}
