"""What the process of a run tells the process that started it, and what it is told at the start. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from peftlab.training.prefix_store import LIMIT_MB


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a run is executed; nothing here may change its result, except ``device`` and ``threads`` in the last bits.

    ``cache`` is where prepared data and weights are shared between runs. Checkpoints are written every
    ``checkpoint_every_s`` seconds, or every ``checkpoint_every_steps`` optimizer steps where that is given.
    """

    cache: Path
    threads: int = 1  #: of each process
    processes: int = 1  #: that share the examples of every batch of a run (training/team.py); dropout's draws depend on it
    shard: bool = False  #: and divide the frozen weights (training/sharding.py)
    device: str = "auto"
    checkpoint_every_s: float = 30.0
    checkpoint_every_steps: int | None = None
    deterministic: bool = True
    trackers: tuple[str | Mapping[str, Any], ...] = ()  #: as the study names them; they see the run and do nothing to it
    probes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  #: name -> options, as the study gives them
    fused: bool = True  #: adapted layers compute base and update together; the same numbers up to rounding and dropout's draws
    prefix_cache_mb: float = LIMIT_MB  #: of hidden states before the first trained layer, kept for all runs; 0: none are kept
    silence_s: float = 600.0  #: a run that has said nothing for so long is reported, with its stack in its log; it is not stopped
    memory_patience_s: float = 600.0  #: for memory to come free when nothing of ours runs; then the run is left for another time


@dataclass(frozen=True, slots=True)
class Part:
    """One run of a process that runs several together."""

    config: str  #: JSON of the run's configuration
    path: str  #: the run's folder
    retry: str  #: SHA-256 of the ``error.json`` that may be retried; empty: no error is retried
    connection: Connection  #: messages about it


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins at ``step`` (above 0: continued from a checkpoint) of ``total`` optimizer steps (0: not known yet)."""

    step: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step is done."""

    step: int
    total: int
    loss: float | None
    lr: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation is done."""

    metrics: Mapping[str, float | None]
    split: str = "validation"
    step: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """``results.json`` is written."""

    status: Literal["completed", "diverged"] = "completed"


@dataclass(frozen=True, slots=True)
class Failed:
    """``error.json`` is written; its ``error`` part."""

    error: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leased:
    """Nothing was done: another process holds the run's lease."""

    by: str


@dataclass(frozen=True, slots=True)
class Reused:
    """Nothing was done: another process had ended the run between our look and our lease."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The machine that the run was on failed or was taken away; the run is started again, on another if there is one."""

    why: str


@dataclass(frozen=True, slots=True)
class Noted:
    """What a person would rather know now than read in the record later; the run goes on."""

    what: str


Message = Moved | Noted | Reused | Started | Step | Evaluated | Finished | Failed | Leased


class Channel:
    """The worker's end: sends messages, steps at most every ``step_every_s`` seconds (and always the last one).

    A receiver that is gone is no error here: the worker is told to stop on another way (see ``child.py``).
    """

    def __init__(self, connection: Connection | None, *, step_every_s: float = 0.1) -> None:
        self.connection, self.step_every_s = connection, step_every_s
        self._last = float("-inf")

    def send(self, message: Message) -> None:
        """Send one message."""
        if isinstance(message, Step):
            now = time.monotonic()
            if now - self._last < self.step_every_s and message.step < message.total:
                return
            self._last = now
        if self.connection is not None:
            with suppress(OSError):
                self.connection.send(message)
