"""Runs that say nothing any more: noticed and told, never ended. What looks hung may be slow, and only a person can tell."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from peftlab.execution.child import SHOW_STACK
from peftlab.execution.protocol import Message
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import LOG
from peftlab.records.store import RunFolder


@dataclass(frozen=True, slots=True)
class Silence:
    """A run in progress that has said nothing for a long time."""

    config: RunConfig
    pid: int
    silent_s: float
    step: int | None  #: of what it said last; None: it never said anything
    log: Path | None  #: where the stacks of its threads are now

    def sentence(self) -> str:
        """What to know and what to do."""
        last = f"after step {self.step}" if self.step else "since it started"
        stacks = f" The stacks of its threads are in {self.log}." if self.log else ""
        return (
            f"nothing heard for {self.silent_s:.0f} s, {last}; it goes on.{stacks} If it hangs: `kill -9 {self.pid}` ends it"
            " alone, and --retry-failed continues it from its last checkpoint"
        )


@dataclass(slots=True)
class Watch:
    """When one process was last heard. Its silence is due after ``limit_s``, and again whenever that has doubled."""

    limit_s: float
    last: Message | None = None
    since_s: float = field(default_factory=time.monotonic)
    told: int = 0

    def heard(self, message: Message) -> None:
        self.last, self.since_s, self.told = message, time.monotonic(), 0

    def due_in_s(self) -> float:
        return max(0.0, self.since_s + self.limit_s * 2**self.told - time.monotonic())

    def look(self, config: RunConfig, folder: RunFolder, pid: int) -> Silence | None:
        """The silence, if it is due. Once it has spoken it is asked where it stands; before, the signal would end it."""
        if self.due_in_s():
            return None
        self.told += 1
        log = None
        if self.last is not None:
            with suppress(OSError):
                os.kill(pid, SHOW_STACK)
                log = folder.path / LOG
        step = getattr(self.last, "step", None)
        return Silence(config, pid, time.monotonic() - self.since_s, step, log)
