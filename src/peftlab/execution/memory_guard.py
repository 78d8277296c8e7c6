"""Memory, looked at before each start: what runs in progress will still take, what the next one will need, what is free."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from peftlab.errors import PlanRefused
from peftlab.records.record import RunConfig

LOOK_EVERY_S = 2.0
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Shortage:
    """A run that waits for memory."""

    config: RunConfig
    needed_mb: float
    room_mb: float

    def sentence(self) -> str:
        """What is missing."""
        return f"waits for memory: predicted to need {self.needed_mb:,.0f} MB of its own, room is for {self.room_mb:,.0f} MB"

    def refusal(self) -> dict[str, str]:
        """As an error, once nobody wants to wait any longer; nothing was started, so nothing is recorded."""
        what = self.sentence().replace("waits for memory: ", "")
        remedy = "close other programs, or use a smaller train.batch_size, and run again"
        return PlanRefused(what, where=self.config.label, remedy=remedy).as_json()


@dataclass(frozen=True, slots=True)
class InProgress:
    """A process that takes memory now."""

    configs: tuple[RunConfig, ...]  #: of its runs
    pid: int
    stepped: bool  #: has done a step, so that it holds what it needs


def own_mb(config: RunConfig) -> float:
    """Predicted peak without the pages of libraries, which processes of one fork server share; 0 where nothing was predicted."""
    return max(0.0, config.predicted.get("peak_mb", 0.0) - config.predicted.get("parts_mb", {}).get("process", 0.0))


@dataclass(slots=True)
class MemoryGuard:
    """Of one execution on one device ("auto", "cpu", "cuda" or "mps")."""

    device: str
    patience_s: float  #: nothing runs and nothing fits: how long others may take to give memory back
    processes: int = 1  #: of each run
    short: Shortage | None = None
    since_s: float = 0.0
    _look_at: float = field(default=0.0)

    def pick(
        self, queue: Sequence[RunConfig], active: Sequence[InProgress], needed_mb: Callable[[RunConfig], float]
    ) -> RunConfig | None:
        """The next run; where there is no room for it, the largest of the others that there is room for, or None.

        Args:
            needed_mb: of a run that is not done yet; 0: it needs no start.
        """
        if self.short is not None and time.monotonic() < self._look_at:
            return None
        front = queue[0]
        if not (needed := needed_mb(front)):
            return front
        room = self.room_mb(active)
        fitting = [(needed, 0, front)] if needed <= room else []
        fitting = fitting or [(mb, -n, config) for n, config in enumerate(queue) if (mb := needed_mb(config)) <= max(0.0, room)]
        if fitting:
            self.short = None
            return max(fitting, key=lambda one: one[:2])[2]
        now = time.monotonic()
        if self.short is None or active:  # what waits for our own runs does not wait in vain
            self.since_s = now
        self.short, self._look_at = Shortage(front, needed, max(0.0, room)), now + LOOK_EVERY_S
        return None

    def room_mb(self, active: Iterable[InProgress]) -> float:
        """For one more run, once those in progress have what they are predicted to need."""
        from peftlab.nn.memory import memory_mb  # torch, which an execution without predictions does without
        from peftlab.planning.estimate import HEADROOM
        from peftlab.training.precision import resolve_device

        device = resolve_device(self.device).type
        held = promised = 0.0
        for run in active:
            own = sum(map(self.needed_mb, run.configs))
            has = _held_mb(run, device)
            held += has
            promised += max(own, has)
        return HEADROOM * (memory_mb(device)[1] + held) - promised

    def needed_mb(self, config: RunConfig) -> float:
        """Predicted for all processes of a run on this device; on accelerators each has one of its own."""
        from peftlab.training.precision import resolve_device

        if self.processes == 1 or resolve_device(self.device).type != "cpu" or not (own := own_mb(config)):
            return own_mb(config)
        libraries = config.predicted.get("parts_mb", {}).get("process", 0.0)  # the others come from no fork server
        return own * self.processes + libraries * (self.processes - 1)

    def look_again(self) -> None:
        """Something ended: there may be room now."""
        self._look_at = 0.0

    def given_up(self, active: Sequence[InProgress]) -> Shortage | None:
        """The run that is not waited for any longer."""
        if self.short is None or active or time.monotonic() - self.since_s < self.patience_s:
            return None
        self.look_again()  # the next one has waited as long
        return self.short


def _held_mb(run: InProgress, device: str) -> float:
    """On a CPU pages of its own; an accelerator's allocator keeps what the first step took."""
    if device != "cpu":
        return sum(map(own_mb, run.configs)) if run.stepped else 0.0
    with suppress(psutil.Error):
        first = psutil.Process(run.pid)
        return sum(process.memory_full_info().uss for process in (first, *first.children(recursive=True))) / _MB
    return 0.0
