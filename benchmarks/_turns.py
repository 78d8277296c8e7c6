"""Timing calls that are compared with one another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def in_turns(
    calls: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Name -> median milliseconds of a call; one call of each in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 2):
        for name, call in calls.items():
            begin = clock()
            call()
            if turn >= 2:  # the first calls set up memory
                times[name].append(1000 * (clock() - begin))
    return {name: statistics.median(values) for name, values in times.items()}
