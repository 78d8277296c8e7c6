"""What a run has taken so far. It may go on in one process after another, and several runs may share one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

#: why a run is alone in the end, of one that was computed together with others before it was continued
ALONE = "it was continued in a process of its own"


class Spent:
    """Seconds of a run in all its processes, attempts that were given up included.

    A process goes on from what the last checkpoint says (training/loop.py), or the last attempt that was given up
    (execution/answered.py): what the process before did after that is lost with it, and counts nowhere. Where nobody wrote it
    down, in a checkpoint of an earlier version, seconds are None from there on.

    Args:
        together: JSON-ready, of what this process has computed for this run together with others (``Passes.record``).
    """

    def __init__(self, together: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._together = together
        self._began = {"total_s": time.perf_counter(), "cpu_s": time.process_time()}
        self._before: Mapping[str, Any] = {"total_s": 0.0, "cpu_s": 0.0, "part_s": 0.0, "stacked": {}, "given_up": {}}

    def state(self) -> dict[str, Any]:
        """JSON-ready.

        ``total_s``, of the clock; ``cpu_s``, of the processors; ``part_s``, of the clock, in processes with several runs divided
        by their number; ``stacked``, what was computed together with others, in whatever process, empty if nothing was;
        ``given_up``, the part of ``total_s`` and ``cpu_s`` that went into attempts given up, empty without any.
        """
        now = {"total_s": time.perf_counter(), "cpu_s": time.process_time()}
        here = {key: now[key] - self._began[key] for key in now}
        together, before = self._together(), self._before["stacked"]
        here["part_s"] = here["total_s"] / together.get("runs", 1)
        stacked = dict(together) if together or not before else {"why_alone": ALONE, **before}
        return {
            **{key: None if (old := self._before[key]) is None else old + value for key, value in here.items()},
            "stacked": stacked,
            "given_up": self._before["given_up"],
        }

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go on from :meth:`state` of an earlier process; None where there is none."""
        unknown = {"total_s": None, "cpu_s": None, "part_s": None, "stacked": {}, "given_up": {}}
        self._before = unknown if state is None else state

    def give_up(self) -> dict[str, Any]:
        """The attempt in hand ends here, and another begins; returns :meth:`state`, for later processes."""
        so_far = self.state()
        given_up = {key: so_far[key] for key in ("total_s", "cpu_s")}
        self._before = {**self._before, "given_up": given_up}
        return {**so_far, "given_up": given_up}
