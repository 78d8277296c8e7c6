"""What a run cost, as its results say it: memory and time, and of whom they are where the run had its process not for itself."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from peftlab.records.record import RunConfig
from peftlab.training.loop import Fitted, Trainer

#: of ``time`` in a run's results: how it was computed, not how long it took
_HOW = ("threads", "processes", "device", "precision", "fused_layers", "plain_layers", "prefix", "sharded")


def memory_of(measured: Mapping[str, Any], config: RunConfig, processes: int) -> dict[str, Any]:
    """What was measured beside what was predicted, which was for one process."""
    if processes > 1:
        notes = [*measured["notes"], f"of the first of {processes} processes; nothing was predicted"]
        return {**measured, "notes": notes}
    if "peak_mb" not in config.predicted:
        return dict(measured)
    return {**measured, "predicted_peak_mb": config.predicted["peak_mb"], "predicted": config.predicted["parts_mb"]}


def times_of(fitted: Fitted, trainer: Trainer, spent: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds and rates, of all processes of the run (training/spent.py).

    Of the last attempt: ``train_s``, ``evaluate_s``, ``hooks_s``, ``samples_per_s`` and, of its steps in this process,
    ``step_ms_median``. Of all attempts: ``total_s`` and ``cpu_s``, of which ``given_up`` says what went into those given up.
    ``part_s``, of a run that was computed together with others: its part of ``total_s``.

    Args:
        spent: by ``Spent.state``.
    """
    examples = trainer.schedule.seen(fitted.steps)
    return {
        "train_s": fitted.train_s,
        "evaluate_s": trainer.evaluate_s,
        **{key: spent[key] for key in ("total_s", "cpu_s")},
        **({"given_up": spent["given_up"]} if spent["given_up"] else {}),
        **({"part_s": spent["part_s"]} if spent["stacked"] else {}),
        "hooks_s": {name: seconds for name, seconds in trainer.chain.seconds.items() if seconds > 0},
        "step_ms_median": 1000 * statistics.median(fitted.step_s) if fitted.step_s else None,
        "samples_per_s": examples / fitted.train_s if fitted.train_s else None,
    }


def shared(
    memory: Mapping[str, Any], times: Mapping[str, Any], stacked: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(memory, time) of a run that was computed together with others, to its end or not: every figure stands below ``shared``.

    So nobody who asks what a run took is given what all of them took. ``stacked``: with how many it was.
    """
    about = {"device": memory.get("device"), "notes": [*memory.get("notes", []), "of all runs in the process"]}
    figures = {key: value for key, value in memory.items() if key not in about}
    took = {key: value for key, value in times.items() if key not in _HOW}
    how = {key: value for key, value in times.items() if key in _HOW}
    return {**about, "stacked": stacked, "shared": figures}, {**how, "stacked": stacked, "shared": took}


def stack_note(stacked: Mapping[str, Any]) -> str:
    """For the notes of a run."""
    if not stacked["joint_passes"]:
        why = stacked.get("why_alone", "the others had ended")
        return f"in one process with {stacked['runs'] - 1} others, but not computed together: {why}"
    alone = f"; by itself in the end: {stacked['why_alone']}" if stacked.get("why_alone") else ""
    return f"computed together with other runs, so memory and time are those of all{alone}"
