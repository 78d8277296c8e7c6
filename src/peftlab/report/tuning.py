"""The tuning as the report shows it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from peftlab.analysis.frame import Frame
from peftlab.analysis.tuned import Arm, arm_names, arm_of, entries, extent, folded, not_given, rung_text, values_text
from peftlab.analysis.words import show

_NOT_RUN = {"text": "–", "n": 1, "chosen": False}  #: left out by an earlier rung
_SAMPLERS = {"random": "drawn at random", "tpe": "drawn by the tree-structured Parzen estimator"}


def tuning(frame: Frame) -> dict[str, Any] | None:
    """A table with a row per arm and fold, and what arms did not get; None where nothing was tuned.

    Of a grid a column per combination of values; of draws, which differ between arms, what was chosen and from how much.
    """
    data = frame.tuning
    if not data or not isinstance(data.get("trials"), list):
        return None
    metric, seeds = str(data.get("metric", "")), [str(s) for s in data.get("seeds") or []]
    runs = entries(data["trials"])
    chosen = {arm_of(entry): entry for entry in entries(data.get("chosen"))}
    names = arm_names(dict.fromkeys((*map(arm_of, runs), *chosen)))
    drawn = _SAMPLERS.get(str(data.get("sampler", "")))
    table = _drawn(names, chosen, metric) if drawn else _grid(names, runs, chosen, metric)
    of = "every arm and fold" if folded(names) else "every arm"
    intro = f"As many trials for {of}, {drawn}," if drawn else f"The same grid for {of},"
    if data.get("sampler") == "halving":
        intro = f"Successive halving, with the same values and as many steps for {of}, every rung trained afresh,"
    tuned = {arm[0] for arm in names}
    lost = not_given(data) + [f"{label}: was not tuned." for label in frame.arms if label not in tuned]
    return {**table, "intro": intro, "lost": lost, "metric": metric, "seeds": ", ".join(seeds), "space": _space(data)}


def _grid(
    names: Mapping[Arm, str], runs: list[Mapping[str, Any]], chosen: Mapping[Arm, Mapping[str, Any]], metric: str
) -> dict[str, Any]:
    values: dict[Arm, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    columns: dict[str, str] = {}
    for run in runs:
        key = _key([run["values"], run.get("share", 1.0)])
        columns[key] = values_text(run["values"]) + rung_text(run)
        value = run.get("value")
        values[arm_of(run)][key].append(float(value) if isinstance(value, int | float) else None)
    rows = []
    for arm in values:
        picked = _key([chosen.get(arm, {}).get("values", {}), 1.0])
        cells = [_cell(values[arm][key], metric, key == picked) if key in values[arm] else _NOT_RUN for key in columns]
        rows.append({"label": names[arm], "cells": cells})
    return {"columns": list(columns.values()), "rows": rows, "marked": True}


def _drawn(names: Mapping[Arm, str], chosen: Mapping[Arm, Mapping[str, Any]], metric: str) -> dict[str, Any]:
    keys = list(dict.fromkeys(key for entry in chosen.values() for key in entry["values"]))
    rows = []
    for arm, entry in chosen.items():
        values = entry["values"]
        texts = [values_text({key: values[key]}).partition(" = ")[2] if key in values else "does not have it" for key in keys]
        mean, time_s = entry.get("mean"), entry.get("time_s")
        texts += [show(mean if isinstance(mean, int | float) else None, metric), str(entry.get("trials", ""))]
        texts += [str(entry.get("different", "")), f"{time_s:.3g} s" if isinstance(time_s, int | float) else ""]
        rows.append({"label": names[arm], "cells": [{"text": text, "n": 1, "chosen": False} for text in texts]})
    return {"columns": [*keys, f"mean {metric}", "trials", "different", "time"], "rows": rows, "marked": False}


def _space(data: Mapping[str, Any]) -> list[str]:
    """What was searched, a line per key; for a grid the table says it."""
    space = data.get("space")
    if data.get("sampler") not in _SAMPLERS or not isinstance(space, Mapping):
        return []
    return [f"{key}: {extent(values)}" for key, values in space.items() if isinstance(values, Mapping | list)]


def _key(values: Any) -> str:
    return json.dumps(values, sort_keys=True, default=str)


def _cell(values: list[float | None], metric: str, chosen: bool) -> dict[str, Any]:
    known = [v for v in values if v is not None]
    text = show(sum(known) / len(known), metric) if known else "no value"
    return {"text": text, "n": len(known), "chosen": chosen}
