"""What is said of a run whose process could not say it itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping

from peftlab.errors import Hung, LeaseHeld, PeftlabError, WorkerDied
from peftlab.execution.child import last_step, tidy_log
from peftlab.execution.processes import out_of_memory_kills
from peftlab.records.record import RunConfig, RunError
from peftlab.records.run_folder import RunFolder


def death(code: int | None, hung_s: float | None, kills_before: int, folder: RunFolder) -> dict[str, str]:
    """The error of a process that ended without a result.

    Args:
        code: its exit code, below 0: the signal.
        hung_s: it was ended for a silence of so many seconds.
        kills_before: how often the kernel had killed for memory when it started.
    """
    remedy = "`peftlab run --retry-failed` continues it from its last checkpoint"
    if hung_s is not None:
        what = f"nothing was heard of the run for {hung_s:.0f} s, longer than train.hang_limit_s: it was ended"
        remedy = f"its worker.log says where it stood; {remedy}"
        return Hung(what, where=str(folder.path), remedy=remedy).as_json()
    if code is not None and code < 0:
        what = f"the run's process was ended by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            seen = out_of_memory_kills() > kills_before
            what += ": the system ran out of memory" if seen else " (running out of memory is the usual cause)"
            remedy = f"use fewer --jobs or a smaller batch_size; {remedy}"
    else:
        what = f"the run's process ended with code {code} and left no result"
    return WorkerDied(what, where=str(folder.path), remedy=remedy).as_json()


def record_death(folder: RunFolder, config: RunConfig, error: Mapping[str, str]) -> dict[str, str]:
    """``error.json`` for a process that could not write it; the error, with what became of the attempt to record it."""
    for _ in range(20):  # the lock goes with the process; where the server was killed, a little later
        try:
            with folder.lease():
                if folder.status() not in ("finished", "failed"):
                    folder.create(config)
                    log = tidy_log(folder)[-4000:]
                    folder.fail(RunError(run_id=folder.run_id, error=dict(error), traceback=log, step=last_step(folder)))
            break
        except LeaseHeld:
            time.sleep(0.25)
        except PeftlabError as unwritten:  # a full disk, say: reported all the same
            return {**error, "remedy": f"{error.get('remedy', '')} (this could not be recorded: {unwritten.what})"}
    return dict(error)
