"""The first and last things that the process of a run does, around the worker itself."""

from __future__ import annotations

import faulthandler
import hashlib
import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from peftlab.errors import LeaseHeld, PeftlabError, Stopped
from peftlab.execution.protocol import Channel, Failed, Leased, Part, Reused, WorkerOptions
from peftlab.records.commit import write_atomic
from peftlab.records.record import RunConfig, RunError
from peftlab.records.redact import redact, redact_all
from peftlab.records.run_folder import FALLBACK, LOG
from peftlab.records.store import RunFolder

#: seconds that a worker has for its last checkpoint when the process that started it is gone
GRACE_S = 120.0
TERMINATED, INTERRUPTED = 75, 130
#: sent to a run that says nothing any more: it writes the stacks of its threads into its log and goes on
SHOW_STACK = signal.SIGUSR1
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def run_child(
    target: str, config_json: str, path: str, options: WorkerOptions, retry: str, connection: Connection, control: Connection
) -> None:
    """Run one run in this process, under its lease, and exit with a code.

    Args:
        target: ``module:function``, called with (config_json, path, options, connection).
        config_json: the :class:`RunConfig`.
        path: the run's folder.
        options: threads, device, checkpoints.
        retry: SHA-256 of the ``error.json`` that may be retried; empty: no error is retried.
        connection: messages to the process that started this one.
        control: orders from it: the number of a signal; its end means that process is gone.
    """
    _begin(options, control)
    folder = RunFolder(path)
    try:
        with folder.lease():
            _log_to(folder)
            code = _run(folder, target, config_json, options, retry, connection)
            tidy_log(folder)
    except LeaseHeld as error:
        Channel(connection).send(Leased(error.what))
        code = 0
    except PeftlabError as error:  # not even the lease could be written
        Channel(connection).send(Failed(redact_all(error.as_json())))
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    with suppress(OSError):
        connection.close()
    sys.exit(code)


def run_stack(target: str, parts: Sequence[Part], options: WorkerOptions, control: Connection) -> None:
    """Run several runs together in this process, each under its own lease, and exit with a code; else as :func:`run_child`.

    ``target`` is called with (parts, options), those parts that are to be run; it records what becomes of each (:func:`record`).
    """
    _begin(options, control)
    code = 0
    with ExitStack() as held:
        ready = [part for part in parts if _ours(part, held)]
        if ready:
            folder = RunFolder(ready[0].path)
            _log_to(folder)
            try:
                code = _resolve(target)(ready, options)
            except (KeyboardInterrupt, SystemExit) as error:
                code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else _exit_code(error)
            tidy_log(folder)
    for part in parts:
        with suppress(OSError):
            part.connection.close()
    sys.exit(code)


def _ours(part: Part, held: ExitStack) -> bool:
    """Take the lease of a run and make its folder ready; False, and told, where there is nothing to run."""
    folder, channel = RunFolder(part.path), Channel(part.connection)
    try:
        held.enter_context(folder.lease())
    except PeftlabError as error:
        channel.send(Leased(error.what) if isinstance(error, LeaseHeld) else Failed(redact_all(error.as_json())))
        return False
    if _ended(folder, part.retry):
        channel.send(Reused())
        return False
    try:
        _make_ready(folder, part.config, part.retry)
    except PeftlabError as error:
        record(folder, error, part.connection)
        return False
    return True


def _begin(options: WorkerOptions, control: Connection) -> None:
    with suppress(OSError):
        os.setpgid(0, 0)  # Ctrl-C goes to the starter alone, which forwards it once
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    set_threads(options.threads)
    threading.Thread(target=_obey, args=(control,), name="control", daemon=True).start()


def set_threads(threads: int) -> None:
    """Threads of numeric libraries: those loaded already and those still to come."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _log_to(folder: RunFolder) -> None:
    """What libraries print, and the stack of a crash in native code, goes to a file and not into the progress bars."""
    with suppress(OSError), (folder.path / LOG).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = io.TextIOWrapper(io.BufferedWriter(_Log()), errors="backslashreplace", write_through=True)
        faulthandler.enable(file=2)
        faulthandler.register(SHOW_STACK, file=2, chain=False)  # in C: answers even where Python hangs


class _Log(io.RawIOBase):
    """The log for Python's own prints. What a full disk does not take is lost: no run ends for its log."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def write(self, data: Any) -> int:
        with suppress(OSError):
            os.write(1, data)
        return len(data)


def tidy_log(folder: RunFolder) -> str:
    """Mask secrets in the log, remove it when empty; returns it. For the holder of the lease."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    path = folder.path / LOG
    try:
        before = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    after = redact(before)
    with suppress(OSError, PeftlabError):
        if not after.strip():
            path.unlink()
        elif after != before:
            write_atomic(path, after)
    return after


def error_hash(folder: RunFolder) -> str:
    """SHA-256 of ``error.json``; empty where there is none."""
    try:
        return hashlib.sha256((folder.path / "error.json").read_bytes()).hexdigest()
    except OSError:
        return ""


def _run(folder: RunFolder, target: str, config_json: str, options: WorkerOptions, retry: str, connection: Connection) -> int:
    if _ended(folder, retry):
        Channel(connection).send(Reused())
        return 0
    try:
        _make_ready(folder, config_json, retry)
        code = _resolve(target)(config_json, str(folder.path), options, connection)
    except Stopped as error:
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as error:
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else _exit_code(error)
    except BaseException as error:  # whatever a run dies of is its record
        return record(folder, error, connection)
    return code if isinstance(code, int) else 0


def _ended(folder: RunFolder, retry: str) -> bool:
    """Whether another runner was faster."""
    found = error_hash(folder)
    return folder.results() is not None or bool(found and found != retry)


def _make_ready(folder: RunFolder, config_json: str, retry: str) -> None:
    if retry:
        folder.clear_error()
        _first_again(folder)
    folder.sweep()
    folder.create(RunConfig.model_validate_json(config_json))


def _first_again(folder: RunFolder) -> None:
    """A failed run that is tried again, and has no checkpoint to go on from, does not begin with what it fell back to: why it
    had to (memory that others held, a device) may be gone. What it was is kept as ``fallback-<n>.json``."""
    if not any(folder.checkpoints.glob("*/step-*")):
        folder.set_aside(FALLBACK)


def record(folder: RunFolder, error: BaseException, connection: Connection | None) -> int:
    """Keep what a run died of in its folder, and tell; returns the exit code that says so."""
    if isinstance(error, PeftlabError):
        described, code = error.as_json(), error.exit_code
    else:
        remedy = "the traceback in error.json says where; `peftlab run --retry-failed` tries again"
        what = str(error) or type(error).__name__
        described, code = {"type": type(error).__name__, "what": what, "where": str(folder.path), "remedy": remedy}, 1
    if folder.status() != "finished" and not (folder.path / "error.json").exists():
        text = "".join(traceback.format_exception(error))
        with suppress(PeftlabError):  # on a full disk, say: then only who waits for us is told, and the run stays as it was
            folder.fail(RunError(run_id=folder.run_id, error=described, traceback=text, step=last_step(folder)))
        Channel(connection).send(Failed(redact_all(described)))
    return code


def last_step(folder: RunFolder) -> int | None:
    """The last step in the journal of a run."""
    with suppress(PeftlabError):
        lines = folder.metrics()
        return lines[-1].step if lines else None
    return None


def _resolve(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def _terminate(_number: int, _frame: FrameType | None) -> None:
    """Until the worker has its own handler there is nothing to save."""
    sys.exit(TERMINATED)


def _obey(control: Connection) -> None:
    """Turn orders of the starter into signals to ourselves; when it is gone, stop, and after a time of grace die."""
    while True:
        try:
            number = control.recv()
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGTERM)
            break
        os.kill(os.getpid(), number)
    threading.Event().wait(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
