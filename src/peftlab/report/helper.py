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

from peftlab.analysis.garbage_collection import few_collections
from peftlab.errors import PeftlabError
from peftlab.records.commit import disk_errors
from peftlab.records.environment import usable_cores

MANY = 300  #: runs from which it pays


class Helper:
    """Does one thing at a time; without a process everything is done when it is asked for."""

    def __init__(self, process: subprocess.Popen[bytes] | None, folder: Path) -> None:
        self.folder = folder
        self._process = process
        self._asked: Callable[[], Any] | None = None
        self._jobs = 0

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have it begun there, if it can be sent; one that has been started before must have been asked for its result."""
        self._asked = lambda: function(*arguments)
        if self._process is None or self._process.stdin is None:
            return
        self._jobs += 1
        job = self.folder / f"job-{self._jobs}"
        try:
            job.write_bytes(pickle.dumps((function, arguments), protocol=5))
            self._process.stdin.write(f"{job}\n".encode())
            self._process.stdin.flush()
        except (OSError, pickle.PicklingError, AttributeError, TypeError):  # a full disk; gone; cannot be sent
            self._process = None

    def result(self) -> Any:
        """What the function returned; computed here where the process has not.

        Raises:
            Whatever the function raises.
        """
        assert self._asked is not None
        if self._process is not None and self._process.stdout is not None:
            with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
                if self._process.stdout.readline() == b"done\n":
                    found = pickle.loads((self.folder / f"job-{self._jobs}.out").read_bytes())  # noqa: S301 (our own)
                    if isinstance(found, PeftlabError):
                        raise found
                    return found
            self._process = None
        return self._asked()


@contextlib.contextmanager
def helping(wanted: bool, preload: str = "") -> Iterator[Helper]:
    """A helper for the time of the context; with a process of its own if ``wanted`` and there is a second processor.

    Args:
        wanted: whether there is enough to do for two.
        preload: a module that the process imports while it waits for its first job.

    Raises:
        RecordError: there is no place for temporary files.
    """
    with contextlib.ExitStack() as held:
        with disk_errors(Path(tempfile.gettempdir())):
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="peftlab-report-")))
        process = _process(preload) if wanted and usable_cores() > 1 else None
        try:
            yield Helper(process, folder)
        finally:
            if process is not None:
                process.kill()
                process.communicate()


def _process(preload: str) -> subprocess.Popen[bytes] | None:
    imports = "".join(f"import {name}; " for name in (preload, __name__) if name)
    code = f"import sys; sys.path[:] = {sys.path!r}; {imports}{__name__}.serve()"
    try:
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError:
        return None


def serve() -> None:
    """Carry out jobs, one path a line, until the input ends; what is raised by rule is a result, too.

    Answers go where standard output went; what a job prints goes to standard error.
    """
    with few_collections(), os.fdopen(os.dup(1), "w", encoding="ascii") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            job = Path(line.strip())
            function, arguments = pickle.loads(job.read_bytes())  # noqa: S301 (our own)
            try:
                found = function(*arguments)
            except PeftlabError as error:
                found = error
            sys.stdout.flush()  # this process is killed in the end, and what it holds back goes with it
            job.with_suffix(".out").write_bytes(pickle.dumps(found, protocol=5))
            answers.write("done\n")
            answers.flush()
