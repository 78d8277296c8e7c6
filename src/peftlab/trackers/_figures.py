"""What trackers are told, from a run's record: its journal line by line, and at its end what was measured, in groups.

====================== ==========================================================================================
group                  figures
====================== ==========================================================================================
``train/``             loss, learning rate, training time, by step
``validation/``        loss and metrics of the task, by step
``test/``              metrics on test data, once
``selected/``          validation metrics of the weights that were tested
``lora_adapters/``     trained parameters: number, share, reduction, adapted layers
``lora_rank/``         ranks of the adapted layers (by step where they moved), effective rank, share in use
``efficiency/``        memory in MB, FLOPs of a step, utilisation, energy
``training_efficiency/`` seconds of training, evaluation and all, milliseconds of a step, samples per second
``verification/``      what was proved or looked for: frozen weights unchanged, trained ones moved, gradient events, ...
====================== ==========================================================================================
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from peftlab.records.record import MetricLine
from peftlab.trackers.contract import MARK, Line

#: JSON file of a record -> group of the numbers at its top level; those of another file are grouped by its name
GROUPS = {
    "parameters.json": "lora_adapters",
    "ranks.json": "lora_rank",
    "rank_utilisation.json": "lora_rank",
    "memory.json": "efficiency",
    "efficiency.json": "efficiency",
    "evaluation.json": "verification",
    "gradient_flow.json": "verification",
    "quantization_analysis.json": "verification",
}
END = "final"  #: split of the figures at the end
#: updates in which every trained tensor was proved to move (training/proof.py)
_PROVED_UPDATES = 2

Read = Callable[[str], Any]


def journal_lines(lines: Iterable[MetricLine]) -> Iterator[Line]:
    """The journal, with full names."""
    for line in lines:
        values = {k: v for k, v in line.model_dump().items() if k not in ("step", "split")}
        yield Line(step=line.step, split=line.split, values=_numbers(line.split, values))


def end_lines(results: Mapping[str, Any], names: Iterable[str], read: Read) -> list[Line]:
    """What is known once a run is over, in the order of steps: ranks that moved, then all the rest at the last step.

    Args:
        results: of :class:`RunResults`, without ``parameters`` and ``memory``, which have files of their own.
        names: the JSON files of the record.
        read: content of one of them; None where there is none.
    """
    steps = int(results["steps"])
    by_step: dict[int, dict[str, float]] = defaultdict(dict, _rank_history(read("ranks.json") or {}))
    last = by_step[steps]
    for name in sorted(names):
        content = read(name)
        if isinstance(content, Mapping):
            last |= _numbers(GROUPS.get(name, name.removesuffix(".json")), content)
    last |= _ranks(read("parameters.json") or {}) | _use(read("rank_utilisation.json") or {})
    last |= _numbers("training_efficiency", results["time"])
    last |= _numbers("test", results["metrics"].get("test", {})) | _numbers("selected", results["metrics"].get("validation", {}))
    last |= _verified(results, read("gradient_flow.json") or {})
    last[f"{END}/{MARK}"] = float(results["epochs"])
    return [Line(step=step, split=END, values=values) for step, values in sorted(by_step.items()) if values]


def _numbers(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers among the values; what is nested is left out."""
    return {
        f"{group}/{key}": float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _rank_history(ranks: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Step -> how the ranks lay then."""
    entries = (e for e in ranks.get("history", ()) if isinstance(e.get("ranks"), Mapping) and isinstance(e.get("step"), int))
    return {entry["step"]: _spread(entry["ranks"].values()) for entry in entries}


def _spread(ranks: Iterable[float]) -> dict[str, float]:
    found = [*ranks]
    if not found:
        return {}
    spread = {"total": sum(found), "mean": statistics.fmean(found), "min": min(found), "max": max(found)}
    return _numbers("lora_rank", spread)


def _ranks(parameters: Mapping[str, Any]) -> dict[str, float]:
    """Of what is left at the end."""
    ranks = parameters.get("at_end", {}).get("ranks") or parameters.get("ranks") or {}
    return _spread(ranks.values()) | _numbers("lora_adapters", {"layers": len(ranks)})


def _use(utilisation: Mapping[str, Any]) -> dict[str, float]:
    """Means over the adapted layers."""
    sites = [*utilisation.get("sites", {}).values()]
    columns = {key: [s[key] for s in sites if s.get(key) is not None] for key in ("effective_rank", "rank_90", "share_in_use")}
    return _numbers("lora_rank", {f"{key}_mean": statistics.fmean(found) for key, found in columns.items() if found})


def _verified(results: Mapping[str, Any], gradient_flow: Mapping[str, Any]) -> dict[str, float]:
    """A run whose frozen weights changed, or whose trained ones did not move, ends with an error and never comes here."""
    checks: dict[str, float] = {
        "frozen_weights_unchanged": 1,
        "diverged": int(results["status"] == "diverged"),
        "flags": len(results["flags"]),
        "resumed": results["resumed"],
    }
    if results["steps"] >= _PROVED_UPDATES:
        checks["trained_tensors_moved"] = 1
    if "events" in gradient_flow:
        checks["gradient_events"] = len(gradient_flow["events"])
    return _numbers("verification", checks)
