"""Trackers of one run, seen from the run: processes that are started, told of its end, and waited for no longer than agreed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from peftlab.errors import PeftlabError
from peftlab.execution.processes import importable
from peftlab.records.record import RunConfig, RunResults
from peftlab.records.run_folder import RunFolder
from peftlab.registry import create
from peftlab.trackers.contract import Status, Tracker

FOLDER = "trackers"  #: in the folder of the study's results
_SLACK_S = 5.0  #: a tracker ends itself after its own time; this is for the system to do so


class Tracking:
    """The trackers of one attempt of a run. Nothing here raises, and nothing reaches the run but notes."""

    def __init__(self, specs: Sequence[str | Mapping[str, Any]], folder: RunFolder, config: RunConfig, attempt: str) -> None:
        self.specs, self.folder, self.config, self.attempt = specs, folder, config, attempt
        self.processes: list[tuple[Tracker, subprocess.Popen[str]]] = []
        self.notes: list[str] = []

    def begin(self) -> None:
        """Start their processes; each then follows the journal by itself."""
        for spec in self.specs:
            try:
                tracker: Tracker = create("tracker", spec)
                self.processes.append((tracker, self._start(spec)))
            except (OSError, PeftlabError) as error:
                self.notes.append(_note(spec if isinstance(spec, str) else str(spec.get("name")), str(error)))

    def end(self, status: Status, results: RunResults | None = None) -> list[str]:
        """Tell them how the attempt ended and wait until they are done, or their time is up.

        Returns:
            a note for each that did not do its part.
        """
        self._tell_all(status, results, gone=False)
        began = time.monotonic()
        for tracker, process in self.processes:
            patience_s = 3 * tracker.timeout_s + _SLACK_S  # to start, to write, to end
            what = _outcome(tracker, process, began + patience_s - time.monotonic())
            if what:
                self.notes.append(_note(tracker.name, what))
        self.processes = []
        return self.notes

    def leave(self, status: Status) -> None:
        """Tell them, and let them finish by themselves; the trackers of the resumed run wait for them."""
        self._tell_all(status, None, gone=True)

    def _tell_all(self, status: Status, results: RunResults | None, *, gone: bool) -> None:
        left = results.model_dump(mode="json", exclude={"parameters", "memory"}) if results else None
        for _, process in self.processes:
            _tell(process, {"status": status, "results": left, "gone": gone}, last=True)

    def _start(self, spec: str | Mapping[str, Any]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "peftlab.execution.follow"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=importable(),
        )
        asked = {
            "tracker": spec,
            "folder": str(self.folder.path.resolve()),
            "store": str(self.folder.path.resolve().parents[2] / FOLDER),
            "config": self.config.model_dump(mode="json"),
            "attempt": self.attempt,
        }
        _tell(process, asked)
        return process


def _tell(process: subprocess.Popen[str], order: Mapping[str, Any], *, last: bool = False) -> None:
    with suppress(OSError, ValueError):  # it may be gone
        assert process.stdin is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    if last:
        with suppress(OSError, ValueError):
            assert process.stdin is not None
            process.stdin.close()


def _outcome(tracker: Tracker, process: subprocess.Popen[str], patience_s: float) -> str:
    """What went wrong; empty: nothing."""
    late = f"did not answer within {tracker.timeout_s:g} s"
    try:
        code = process.wait(max(0.0, patience_s))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return late
    finally:
        assert process.stdout is not None
        said = process.stdout.read() if process.returncode is not None else ""
        process.stdout.close()
    if code == 0:
        return ""
    if code == -signal.SIGALRM:
        return late
    with suppress(ValueError, LookupError):
        return str(json.loads(said.splitlines()[0])["what"])
    return f"its process ended with code {code}"


def _note(name: str, what: str) -> str:
    return f"tracker {name}: {what.strip().splitlines()[0][:300]}; the run went on without it"
