"""``racing.json`` as the analysis reads it: which arms left a race, after how many seeds, and why."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportReturnType=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from peftlab.analysis.planned import canonical
from peftlab.analysis.reading import read_json
from peftlab.analysis.words import is_share, plural, show_difference, show_p
from peftlab.study.task_key import task_key

FILE = "racing.json"
_WHY = {"worse": "worse than", "within": "within the margin of", "beyond": "beyond the margin of", "open": "undecided against"}


def read_race(folder: Path) -> Mapping[str, Any] | None:
    """What `run` wrote; None where nothing was raced or the file cannot be read."""
    found = read_json(folder / FILE)
    return found if isinstance(found, dict) and _heats(found) else None


def _heats(race: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    heats = race.get("heats") if race else None
    whole = ("task_spec", "backbone", "seeds", "arms", "left")
    listed = heats if isinstance(heats, list) else []
    return [heat for heat in listed if isinstance(heat, dict) and all(key in heat for key in whole)]


def heat_of(race: Mapping[str, Any] | None, task: Any, backbone: str) -> Mapping[str, Any] | None:
    """The race on a task, as the study or a record writes it, and a backbone."""
    key, whole = task_key(task), canonical(task)
    here = (heat for heat in _heats(race) if heat["backbone"] == backbone)
    return next((heat for heat in here if heat.get("task") == key or canonical(heat["task_spec"]) == whole), None)


def spared(heat: Mapping[str, Any] | None, label: str, seed: int) -> bool:
    """Whether the race decided that this run is not needed."""
    arm = next((arm for arm in heat["arms"] if arm.get("label") == label), None) if heat else None
    if heat is None or arm is None or not (arm.get("left") or heat.get("over")):
        return False
    return seed in heat["seeds"][int(arm.get("seeds", 0)) :]


def flag(heat: Mapping[str, Any] | None, label: str) -> str:
    """What a reader of the arm's row must know; empty where it stayed to the end."""
    left = next((entry for entry in heat["left"] if entry.get("label") == label), None) if heat else None
    if heat is None or left is None:
        return ""
    return f"left the race after {left['seeds']} of {len(heat['seeds'])} seeds ({_WHY[left['why']]} {left['against']})"


def left_early(heat: Mapping[str, Any] | None, label: str) -> bool:
    """Whether the race went on for more seeds without this arm."""
    seeds = {arm.get("label"): int(arm.get("seeds", 0)) for arm in heat["arms"]} if heat else {}
    return seeds.get(label, 0) < max(seeds.values(), default=0)


def race_words(race: Mapping[str, Any] | None) -> list[str]:
    """A sentence for every arm that left, and what was spared."""
    heats, found = _heats(race), []
    for heat in heats:
        where = f"{heat.get('task')}, {heat['backbone']}: " if len(heats) > 1 else ""
        runs = heat.get("runs") or {}
        planned, needed = int(runs.get("planned") or 0), int(runs.get("needed") or 0)
        state = f"{needed} of {plural(planned, 'planned run')} {'were needed' if heat.get('over') else 'so far'}"
        found += [f"{where}Race: {state}."]
        found += [f"{where}{text}" for text in heat.get("sentences", [])]
    return found


def race_table(race: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """For the report: per race its rule and a row per arm."""
    return [
        {
            "title": f"{heat.get('task')}, {heat['backbone']}",
            "words": race_words({"heats": [heat]})[0],
            "rows": [_row(heat, arm, str((race or {}).get("metric", ""))) for arm in heat["arms"]],
            "family": heat.get("family"),
            "rule": heat.get("rule") or {},
            "earliest": heat.get("earliest"),
        }
        for heat in _heats(race)
    ]


def _row(heat: Mapping[str, Any], arm: Mapping[str, Any], metric: str) -> dict[str, Any]:
    left = next((entry for entry in heat["left"] if entry.get("label") == arm.get("label")), None)
    seeds = f"{arm.get('seeds')} of {len(heat['seeds'])}"
    if left is None:
        return {"label": arm.get("label"), "seeds": seeds, "why": "stayed", "gap": "", "e": "", "p": "", "adjusted": ""}
    unit = " points" if is_share(metric) else ""
    return {
        "label": arm.get("label"), "seeds": seeds, "why": f"{_WHY[left['why']]} {left['against']}",
        "gap": f"{show_difference(left['difference'], metric)}{unit} ± {show_difference(left['sd'], metric).lstrip('+')}",
        "e": f"{left['e_value']:.3g}", "p": show_p(left["p"]), "adjusted": show_p(left["p_adjusted"]),
    }  # fmt: skip


def in_order(values: pd.DataFrame, seeds: Sequence[int], folds: int) -> pd.DataFrame:
    """Values by (seed, fold) as one per seed, in the order in which seeds were run; a seed counts when it has all its folds."""
    groups = values.groupby(level="seed")
    whole = groups.mean().where(groups.count() == folds)
    known = [seed for seed in seeds if seed in whole.index]
    return whole.reindex([*known, *[seed for seed in whole.index if seed not in known]])
