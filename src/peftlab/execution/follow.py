"""The process of one tracker beside one run: it follows the run's record and may do nothing to the run.

Started as ``python -P -m peftlab.execution.follow`` by execution/tracking.py, which writes a line of JSON with what to follow to
its standard input, and a second one with how the run ended; the end of the input without it means that the run's process is
gone. A line of JSON with ``what`` on its standard output says what went wrong. Torch-free.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from peftlab.records.record import RunConfig
from peftlab.records.run_folder import CONFIG, ENVIRONMENT, ERROR, RESULTS, RunFolder
from peftlab.registry import create
from peftlab.trackers._figures import end_lines, journal_lines
from peftlab.trackers.contract import Line, Session, TrackedRun, Tracker, alone

LOOK_EVERY_S = 1.0
_NICENESS = 5  # the run comes first
_GONE = '{"status": "interrupted", "gone": true}'
_NO_FIGURES = (CONFIG, ENVIRONMENT, RESULTS, ERROR, "lease.json")


def main() -> int:
    """Follow one run to its end."""
    orders, answers = _pipes()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # the end of the input is our sign, also where everybody gets a signal
    with suppress(OSError):
        os.nice(_NICENESS)
    try:
        asked = json.loads(orders.readline())
        tracker: Tracker = create("tracker", asked["tracker"])
        folder = RunFolder(asked["folder"])
        run = TrackedRun(config=RunConfig.model_validate(asked["config"]), folder=Path(asked["store"]), attempt=asked["attempt"])
        _alarm(tracker.timeout_s)
        with alone(run.folder / tracker.name / f"{run.id}.lock"):  # the process of an earlier life may still be at its end
            end = _end(orders, 0.0)
            if end is None or not end["gone"]:  # else another one may have been here since, and nothing is to be undone
                _follow(tracker, run, folder, orders, end)
    except Exception as error:  # whatever it is, it is told and stops nothing
        traceback.print_exc()
        with suppress(OSError):  # nobody may listen any more
            answers.write(json.dumps({"what": (str(error) or type(error).__name__).strip().splitlines()[0]}) + "\n")
            answers.flush()
        return 1
    return 0


def _follow(tracker: Tracker, run: TrackedRun, folder: RunFolder, orders: IO[str], end: dict[str, Any] | None) -> None:
    with _at_most(tracker.timeout_s):
        session = tracker.open(run)
    last = dict(session.last)
    while end is None:
        end = _end(orders, LOOK_EVERY_S)
        with _at_most(tracker.timeout_s):
            _log(session, [*journal_lines(folder.metrics())], last)
    _alarm(tracker.timeout_s)  # stays set: what libraries do when a process exits may hang too
    _log(session, [*journal_lines(folder.metrics())], last)
    if end.get("results"):
        _log(session, _end_lines(folder, end["results"]), last)
    session.close(end["status"])


def _end(orders: IO[str], patience_s: float) -> dict[str, Any] | None:
    """How the run ended; None: it has not."""
    ready, _, _ = select.select([orders], [], [], patience_s)
    return json.loads(orders.readline() or _GONE) if ready else None


def _log(session: Session, lines: list[Line], last: dict[str, int]) -> None:
    """What the store does not have yet. A resumed run makes the same lines again: those are passed over."""
    new = [line for line in lines if line.values and line.step > last.get(line.split, -1)]
    if new:
        session.log(new)
        last.update({line.split: line.step for line in new})


def _end_lines(folder: RunFolder, results: dict[str, Any]) -> list[Line]:
    names = [path.name for path in folder.path.glob("*.json") if path.name not in _NO_FIGURES]
    return end_lines(results, names, folder.read_json)


def _pipes() -> tuple[IO[str], IO[str]]:
    """Standard input and output for us alone: libraries find no input and print to the run's log."""
    orders, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return orders, answers


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    _alarm(seconds)
    try:
        yield
    finally:
        _alarm(0)


def _alarm(seconds: float) -> None:
    """After so long the system ends this process, wherever it hangs."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    sys.exit(main())
