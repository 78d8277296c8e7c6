"""What is told of an execution: to whom, and in which words; lines for logs, JSON for scripts."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
from typing import IO, Any, Protocol

from peftlab.execution.memory_guard import Shortage
from peftlab.execution.outcome import Ending, Outcome
from peftlab.execution.protocol import Evaluated, Message, Moved, Noted, Started
from peftlab.execution.run_names import run_name
from peftlab.execution.silence import Silence
from peftlab.records.journal import plain
from peftlab.records.record import RunConfig

_WORDS: dict[str, str] = {
    "reused": "reused (finished before)",
    "failed-before": "failed before (--retry-failed tries again)",
    "leased": "left to another process",
    "interrupted": "stopped; run again to continue",
}
_COUNTED = {"failed-before": "failed before", "leased": "left to another process"}


class Listener(Protocol):
    """Is told what happens in an execution, always from the process and thread that called ``execute``."""

    def begin(self, total: int, jobs: int) -> None:
        """``total`` runs are asked for."""
        ...

    def message(self, config: RunConfig, message: Message) -> None:
        """A run says something."""
        ...

    def silent(self, silence: Silence) -> None:
        """A run has said nothing for long; it goes on, or is ended where its study says so."""
        ...

    def waiting(self, shortage: Shortage) -> None:
        """There is no memory for the next run yet."""
        ...

    def ended(self, ending: Ending) -> None:
        """A run is over, for this execution."""
        ...

    def stopping(self, number: int, now: bool) -> None:
        """A signal came; ``now``: the second one, runs are ended without saving."""
        ...

    def close(self, outcome: Outcome) -> None:
        """All is over."""
        ...


class NullListener:
    """Hears nothing."""

    def begin(self, total: int, jobs: int) -> None:
        pass

    def message(self, config: RunConfig, message: Message) -> None:
        pass

    def silent(self, silence: Silence) -> None:
        pass

    def waiting(self, shortage: Shortage) -> None:
        pass

    def ended(self, ending: Ending) -> None:
        pass

    def stopping(self, number: int, now: bool) -> None:
        pass

    def close(self, outcome: Outcome) -> None:
        pass


def summary(outcome: Outcome) -> str:
    """``7 finished, 2 reused, 1 failed``."""
    return ", ".join(f"{number} {_COUNTED.get(how, how)}" for how, number in sorted(outcome.counts.items())) or "nothing to run"


class PlainListener(NullListener):
    """One line per event, for logs; steps are not shown."""

    def __init__(self, stream: IO[str] | None = None, what: str = "") -> None:
        self.stream = stream if stream is not None else sys.stdout
        self.what = what
        self.done, self.total = 0, 0
        self.noted: set[str] = set()

    def begin(self, total: int, jobs: int) -> None:
        self.done, self.total = 0, total
        self._line((f"{self.what}: " if self.what else "") + (f"{total} runs, {jobs} at a time" if total != 1 else "1 run"))

    def message(self, config: RunConfig, message: Message) -> None:
        if isinstance(message, Started):
            self._line(f"{run_name(config)}: " + (f"continued at step {message.step}" if message.step else "started"))
        elif isinstance(message, Evaluated):
            self._line(f"{run_name(config)}: step {message.step} {message.split} {metrics_text(message)}")
        elif isinstance(message, Moved):
            self._line(f"{run_name(config)}: {moved_text(message)}")
        elif isinstance(message, Noted) and is_new(message.what, self.noted):
            self._line(f"{run_name(config)}: {message.what}")

    def silent(self, silence: Silence) -> None:
        self._line(f"{run_name(silence.config)}: {silence.sentence()}")

    def waiting(self, shortage: Shortage) -> None:
        self._line(f"{run_name(shortage.config)}: {shortage.sentence()}")

    def ended(self, ending: Ending) -> None:
        self.done += 1
        self._line(f"[{self.done}/{self.total}] {ending_text(ending)}")

    def stopping(self, number: int, now: bool) -> None:
        self._line(stopping_text(now))

    def close(self, outcome: Outcome) -> None:
        self._line(summary(outcome))

    def _line(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class JsonListener(NullListener):
    """One JSON object a line."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream if stream is not None else sys.stdout

    def begin(self, total: int, jobs: int) -> None:
        self._line("begin", total=total, jobs=jobs)

    def message(self, config: RunConfig, message: Message) -> None:
        self._line(type(message).__name__.lower(), **_identity(config), **dataclasses.asdict(message))

    def silent(self, silence: Silence) -> None:
        values = {"pid": silence.pid, "silent_s": round(silence.silent_s, 3), "log": silence.log and str(silence.log)}
        self._line("silent", **_identity(silence.config), **values, ends=silence.ends)

    def waiting(self, shortage: Shortage) -> None:
        values = {"needed_mb": round(shortage.needed_mb, 1), "room_mb": round(shortage.room_mb, 1)}
        self._line("waiting", **_identity(shortage.config), **values)

    def ended(self, ending: Ending) -> None:
        values = {"how": ending.how, "detail": ending.detail, "time_s": round(ending.time_s, 3), "error": ending.error}
        self._line("ended", **_identity(ending.config), **values)

    def stopping(self, number: int, now: bool) -> None:
        self._line("stopping", signal=signal.Signals(number).name, now=now)

    def close(self, outcome: Outcome) -> None:
        self._line("close", counts=outcome.counts, interrupted=outcome.interrupted, exit_code=outcome.exit_code)

    def _line(self, event: str, **values: Any) -> None:
        print(json.dumps(plain({"event": event, **values}), allow_nan=False), file=self.stream, flush=True)


def _identity(config: RunConfig) -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "run_id": config.run_id,
        "arm": config.label,
        "seed": config.seed,
        "purpose": config.purpose,
    }


def metrics_text(message: Evaluated, most: int | None = None) -> str:
    """``accuracy 0.9731 loss 0.08``; of many the first ``most``."""
    return " ".join([f"{name} {value:.4g}" for name, value in message.metrics.items() if value is not None][:most])


def ending_text(ending: Ending) -> str:
    """What became of a run, and where it failed what to do."""
    word = _WORDS.get(ending.how, ending.how)
    text = f"{run_name(ending.config)}: {word}" + (f" in {ending.time_s:.1f} s" if ending.how == "finished" else "")
    if ending.error:
        remedy = f" -> {ending.error['remedy']}" if ending.error.get("remedy") else ""
        text += f": {ending.error.get('type', '')}: {ending.error.get('what', '')}{remedy}"
    return text + (f" ({ending.detail})" if ending.detail and ending.how != "reused" else "")


def is_new(note: str, told: set[str]) -> bool:
    """Whether nobody said it yet: what keeps one run's curves from a server keeps those of all."""
    new = note not in told
    told.add(note)
    return new


def moved_text(message: Moved) -> str:
    """Of a run that is started again elsewhere."""
    return f"its machine failed, it is started again: {message.why}"


def stopping_text(now: bool) -> str:
    """What the signal that came does, and another one would do."""
    return "stopping now, without saving" if now else "stopping after the step in flight; once more to stop without saving"
