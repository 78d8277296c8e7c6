"""A second process that works beside this one where a report is large.

It is a fresh interpreter that is sent what to do: nothing is forked (other threads may be running), and no script that calls us
is imported anew. Where it cannot be had, or dies, the work is done here. What the two tell each other lies in a folder that only
this user can read.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peftlab.analysis.heap import few_collections

MANY = 300  #: runs from which it pays


class Helper:
    """Does one thing at a time; without a process everything is done when it is asked for."""

    def __init__(self, process: subprocess.Popen[bytes] | None, folder: Path) -> None:
        self.folder = folder
        self._process = process
        self._asked: Callable[[], Any] | None = None
        self._jobs = 0

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._asked = lambda: function(*arguments)
        if self._process is None or self._process.stdin is None:
            return
        self._jobs += 1
        job = self.folder / f"job-{self._jobs}"
        job.write_bytes(pickle.dumps((function, arguments), protocol=5))
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{job}\n".encode())
            self._process.stdin.flush()

    def result(self) -> Any:
        """What the function returned; computed here where the process has not."""
        assert self._asked is not None
        if self._process is not None and self._process.stdout is not None:
            if self._process.stdout.readline() == b"done\n":
                return pickle.loads((self.folder / f"job-{self._jobs}.out").read_bytes())  # noqa: S301 (our own)
            self._process = None
        return self._asked()


@contextlib.contextmanager
def helping(wanted: bool) -> Iterator[Helper]:
    """A helper for the time of the context; with a process of its own if ``wanted`` and there is a second processor."""
    with tempfile.TemporaryDirectory(prefix="peftlab-report-") as name:
        process = _process() if wanted and (os.cpu_count() or 1) > 1 else None
        try:
            yield Helper(process, Path(name))
        finally:
            if process is not None:
                process.kill()
                process.communicate()


def _process() -> subprocess.Popen[bytes] | None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import peftlab.report.build; from peftlab.report.helper import serve; serve()"
    )
    try:
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError:
        return None


def serve() -> None:
    """Carry out jobs, one path a line, until the input ends."""
    with few_collections():
        for line in sys.stdin:
            job = Path(line.strip())
            function, arguments = pickle.loads(job.read_bytes())  # noqa: S301 (our own)
            job.with_suffix(".out").write_bytes(pickle.dumps(function(*arguments), protocol=5))
            sys.stdout.write("done\n")
            sys.stdout.flush()
