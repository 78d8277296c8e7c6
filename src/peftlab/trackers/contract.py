"""What a tracker is: a program of its own that shows runs while they go on, fed from what a run writes into its record.

A tracker never meets the run: it lives in a process beside it (execution/follow.py), reads the run's journal and its JSON
files, and may be slow, hang or die there. It has no part in the run's id, and the run none of its libraries in memory.
"""

from __future__ import annotations

import dataclasses
import fcntl
import importlib.util
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

from peftlab.errors import MissingExtra, OptionError, StudyError, install
from peftlab.records.commit import write_atomic
from peftlab.records.record import RunConfig
from peftlab.registry import Component, create

Status = Literal["completed", "diverged", "failed", "interrupted"]
#: in every line of a split there is ``split/epoch``, always finite: a store is asked for it to learn how far it has come
MARK = "epoch"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Figures of one step, by their full names (``train/loss``), all finite. The mark of ``split`` is ``split/epoch``."""

    step: int
    split: str
    values: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run."""

    config: RunConfig
    folder: Path  #: of all trackers of the study, absolute
    attempt: str = ""  #: which, where the run was tried again in another way (execution/fallback.py); empty: the first

    @property
    def id(self) -> str:
        """Unique in the results folder, the same when the run is resumed."""
        return f"{self.config.run_id}-{self.attempt}" if self.attempt else self.config.run_id

    def name(self, separator: str) -> str:
        """``lora[rank=8]/3``, with fold, tuned values and attempt where they tell runs apart."""
        config = self.config
        tried = [f"{key}={value}" for key, value in config.tuned.items()] if config.purpose == "tuning" else []
        fold = [f"fold{config.fold}"] if config.fold else []
        return separator.join([config.label, str(config.seed), *fold, *tried, *([self.attempt] if self.attempt else [])])

    def settings(self) -> dict[str, Any]:
        """What defines the run, nested. Its names, and what the plan predicted, may change later and are no part of it."""
        return self.config.identity()

    def names(self) -> dict[str, str]:
        """What the run is called here."""
        told = ("study", "arm", "label", "purpose", "run_id")
        return {key: str(getattr(self.config, key)) for key in told} | {"fold": str(self.config.fold)}


class Session(ABC):
    """One run in an open store.

    Attributes:
        last: split -> last step that the store has of it when it is opened. Nothing up to there is logged again.
    """

    last: dict[str, int]

    @abstractmethod
    def log(self, lines: Sequence[Line]) -> None:
        """Store lines; those of a split come in the order of their steps."""

    @abstractmethod
    def close(self, status: Status) -> None:
        """The run is over, for now at least where it is interrupted or failed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tracker(Component, ABC):
    """A configured tracker. The extra of peftlab that installs it has its name.

    A run has a process of its own with one thread; several runs of a study may be open at once.
    """

    modules: ClassVar[tuple[str, ...]]  #: what has to be installed; where nothing has to, there is no extra

    timeout_s: float = 120.0  #: seconds for its start, for each writing and for its end; one that takes longer is given up

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise OptionError(f"must be above 0 (got {self.timeout_s})", where="timeout_s", remedy="leave it out: 120 seconds")

    @abstractmethod
    def open(self, run: TrackedRun) -> Session:
        """Start to track a run, or go on with it. Called in the tracker's own process, where nobody can answer a prompt."""

    def require(self, where: str = "") -> None:
        """Whether it is installed; nothing is imported.

        Raises:
            MissingExtra: it is not.
        """
        missing = [name for name in self.modules if not _installed(name)]
        if missing:
            what = f"the tracker {self.name!r} needs {' and '.join(missing)}, which cannot be imported"
            raise MissingExtra(what, where=where, remedy=install(self.name))


def trackers_of(specs: Sequence[str | Mapping[str, Any]]) -> list[Tracker]:
    """The trackers that a study names.

    Raises:
        OptionError: unknown tracker or option.
        StudyError: one is named twice.
        MissingExtra: one is not installed.
    """
    found: dict[str, Tracker] = {}
    for number, spec in enumerate(specs):
        where = f"trackers[{number}]"
        tracker: Tracker = create("tracker", spec, where=where)
        if tracker.name in found:
            raise StudyError(f"{tracker.name!r} is named twice", where=where, remedy="name each tracker once")
        tracker.require(where)
        found[tracker.name] = tracker
    return [*found.values()]


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a parent that is missing; a module that something has blocked
        return False


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names: ``adapter.rank``; lists as JSON."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value) if isinstance(value, list | tuple) else value
    return found


class Notebook:
    """A small JSON file in which a tracker keeps what it must know of a run when that is resumed."""

    def __init__(self, run: TrackedRun, tracker: str) -> None:
        self.path = run.folder / tracker / f"{run.id}.json"

    def read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            return json.loads(self.path.read_text(encoding="utf-8"))
        return {}

    def write(self, content: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, json.dumps(content, indent=1, sort_keys=True) + "\n")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is between here and the end of this; ``path`` is the file that is locked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
