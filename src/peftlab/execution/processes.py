"""Processes of this machine: how they start fast, how signals reach the one that waits for them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import peftlab

#: what the fork server imports before it makes the first process
PRELOAD = ("peftlab.execution.preload",)


@contextmanager
def signals(come: deque[int], wake: int) -> Iterator[None]:
    """SIGINT and SIGTERM are put down in ``come`` and wake the loop that waits for the other end of the pipe ``wake``, which does
    not block. Only the main thread may ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = 0

    def handler(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 2:  # the loop does not come round: give up here
            raise KeyboardInterrupt
        come.append(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    # Written by the system's own handler: Python's runs in the main thread alone, and not before that has been woken. A signal
    # that another thread took, or that came just before the loop began to wait, would else be seen at its next message.
    woken = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, old in before.items():
            signal.signal(number, old)


def warm_up() -> None:
    """Let the fork server start importing in the background; :func:`execute` then waits less for its first run."""
    if sys.platform == "linux":
        process_context()
        with start_up():
            multiprocessing.forkserver.ensure_running()


def process_context() -> Any:
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    return context


@contextmanager
def start_up() -> Iterator[None]:
    """While a process starts: hide this program's main module, which a run does not need (so scripts without a
    ``__main__`` guard work, and the command line is not imported again), and let the fork server find this package."""
    main = sys.modules["__main__"]
    added = {"PEFTLAB_FORK_SERVER": "1", **_path()}
    before = {name: os.environ.get(name) for name in added}
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ.update(added)
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def importable() -> dict[str, str]:
    """Environment of a new Python that is to find this package."""
    return {**os.environ, **_path()}


def _path() -> dict[str, str]:
    root = Path(peftlab.__file__).resolve().parents[1]
    if root.name in ("site-packages", "dist-packages"):
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))}


def out_of_memory_kills() -> int:
    """How often the kernel has killed a process for memory since it started (Linux)."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
