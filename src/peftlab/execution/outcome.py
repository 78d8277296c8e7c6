"""What became of runs, and of an execution as a whole."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from peftlab.errors import LeaseHeld
from peftlab.records.record import RunConfig

#: finished, diverged: now; reused: before (or by another process meanwhile); failed: now; failed-before: earlier, not
#: tried again; interrupted: stopped, can be continued; leased: another process works on it
How = Literal["finished", "diverged", "reused", "failed", "failed-before", "interrupted", "leased"]


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of one run."""

    config: RunConfig
    how: How
    detail: str = ""
    time_s: float = 0.0
    error: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of all runs. ``stop_signal``: what asked us to stop, if anything did."""

    endings: tuple[Ending, ...]
    stop_signal: int | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How -> number of runs."""
        return dict(Counter(ending.how for ending in self.endings))

    @property
    def reused(self) -> tuple[Ending, ...]:
        return tuple(ending for ending in self.endings if ending.how == "reused")

    @property
    def failed(self) -> tuple[Ending, ...]:
        """Those that failed now, and those that had failed before and were not tried again."""
        return tuple(ending for ending in self.endings if ending.how in ("failed", "failed-before"))

    @property
    def interrupted(self) -> bool:
        return self.stop_signal is not None or any(ending.how == "interrupted" for ending in self.endings)

    @property
    def exit_code(self) -> int:
        """Of the command line: see :mod:`peftlab.errors`."""
        if self.interrupted:
            return 130 if self.stop_signal == signal.SIGINT else 75
        if self.failed:
            return 1
        # another runner is still at it: whether it will fail is not known here, so that this is no success
        return LeaseHeld.exit_code if any(ending.how == "leased" for ending in self.endings) else 0
