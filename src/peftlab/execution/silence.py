"""Runs that say nothing any more: noticed and told. What looks hung may be slow, and only a person can tell, so a run is ended
for it only where its study says after how long (``train.on_hang: fail``), and only once it has begun: before, it may load files
or prepare data, which is as long as it is.
"""

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

_STACK_S = 0.5  #: for a process to write its stacks before it is ended


@dataclass(frozen=True, slots=True)
class Silence:
    """A run in progress that has said nothing for a long time."""

    config: RunConfig
    pid: int
    silent_s: float
    step: int | None  #: of what it said last; None: it never said anything
    log: Path | None  #: where the stacks of its threads are now
    ends: bool = False  #: its study wants it ended now

    def sentence(self) -> str:
        """What to know and what to do."""
        last = f"after step {self.step}" if self.step else "since it started"
        if self.ends:
            return f"nothing heard for {self.silent_s:.0f} s, {last}; its process is ended, as train.on_hang asks"
        stacks = f" The stacks of its threads are in {self.log}." if self.log else ""
        return (
            f"nothing heard for {self.silent_s:.0f} s, {last}; it goes on.{stacks} If it hangs: `kill -9 {self.pid}` ends it"
            " alone, and --retry-failed continues it from its last checkpoint"
        )


@dataclass(slots=True)
class Watch:
    """When one process was last heard. Its silence is due after ``limit_s``, whenever that has doubled, and at ``ends_s``."""

    limit_s: float
    ends_s: float | None = None  #: silence after which the run is to be ended, once it has spoken; None: never
    last: Message | None = None
    since_s: float = field(default_factory=time.monotonic)
    told: int = 0

    @classmethod
    def of(cls, config: RunConfig, limit_s: float) -> Watch:
        """As the study of the run wants it."""
        return cls(limit_s, config.train.get("hang_limit_s") if config.train.get("on_hang") == "fail" else None)

    def heard(self, message: Message) -> None:
        self.last, self.since_s, self.told = message, time.monotonic(), 0

    def due_in_s(self) -> float:
        told_next = self.limit_s * 2**self.told
        ends = told_next if self.ends_s is None or self.last is None else self.ends_s
        return max(0.0, self.since_s + min(told_next, ends) - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether the run is to be ended."""
        return self.ends_s is not None and self.last is not None and time.monotonic() - self.since_s >= self.ends_s

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
        if self.over and log is not None:
            time.sleep(_STACK_S)
        step = getattr(self.last, "step", None)
        return Silence(config, pid, time.monotonic() - self.since_s, step, log, self.over)
