"""What happens on a node: one run, executed by execution/local.py in a process of its own, under its lease.

The process that Ray starts only waits, passes on what the run says, and turns what the mailbox answers into signals. When it
is ended, or its node is drained, the run notices, saves and stops.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftlab.errors import LeaseHeld, PeftlabError
from peftlab.execution import processes
from peftlab.execution.agenda import key_of
from peftlab.execution.local import execute
from peftlab.execution.outcome import Ending
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import Message, Step, WorkerOptions
from peftlab.execution.ray.delivery import Parcel, bring, send
from peftlab.execution.ray.mailbox import Letter
from peftlab.execution.ray.passport import differences, passport
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder, RunFolder

_POST_EVERY_S, _POST_TIMEOUT_S = 0.5, 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One run, and all that a node needs to know for it."""

    config: str  #: RunConfig as JSON
    folder: Path  #: of the study's results, on the disk of the program that was started
    witness: str  #: a file there; who sees it shares that disk
    share: bool  #: work on that disk
    scratch: str  #: else the folder for this study on the node
    options: WorkerOptions
    retry_failed: bool
    target: str
    preload: tuple[str, ...]
    passport: Mapping[str, str]
    variables: Mapping[str, str]  #: of the environment
    state: Parcel | None = None  #: what the run has done so far, where no disk is shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of it."""

    ending: Ending
    node: str  #: Ray's id
    parcel: Parcel | None = None
    scratch: str = ""  #: the folder that can be removed once the parcel has come
    recorded: bool = False  #: there is a record of it
    refused: tuple[str, ...] = ()  #: why nothing may run here


def perform(order: Order, mailbox: Any) -> Answer:
    """Execute one run."""
    import ray

    config = RunConfig.model_validate_json(order.config)
    node = ray.get_runtime_context().get_node_id()
    refused = differences(order.passport, passport())
    if order.share and not (order.folder / order.witness).is_file():
        refused.append("the disk of the results is not seen there")
    if refused:
        return Answer(ending=Ending(config, "interrupted"), node=node, refused=(platform.node(), *refused))
    os.environ.update(order.variables)
    processes.PRELOAD = order.preload
    folder = ResultsFolder(order.folder if order.share else Path(order.scratch).expanduser())
    run = folder.run(config)
    with _signals_noted() as noted, _Forward(config, mailbox) as forward:
        forward.post()
        try:
            if not order.share:
                _as_there(order, run.make(), config, folder)
        except LeaseHeld as error:  # by what a machine that failed has left here, still at its end
            return Answer(ending=Ending(config, "leased", error.what), node=node)
        if noted:
            return Answer(ending=Ending(config, "interrupted"), node=node)
        outcome = execute(
            folder,
            [config],
            jobs=1,
            options=order.options,
            listener=forward,
            retry_failed=order.retry_failed,
            target=order.target,
        )
    ending = outcome.endings[0] if outcome.endings else Ending(config, "interrupted")
    if order.share or ending.how == "leased":
        return Answer(ending=ending, node=node, recorded=run.status() in ("finished", "failed"))
    return Answer(ending=ending, node=node, parcel=send(run), scratch=str(run.path))


def _as_there(order: Order, run: RunFolder, config: RunConfig, folder: ResultsFolder) -> None:
    """Begin with what the program that was started has; where that is nothing, with what an earlier task left here, if whole."""
    if order.state is not None:
        bring(order.state, run, config, folder.path)
    elif run.status() in ("failed", "finished") and (run.status() == "failed" or run.verify()):
        with run.lease():
            shutil.rmtree(run.path)
        run.make()


class _Forward(NullListener):
    """Posts what the run says, a bundle at a time; of steps the last of each bundle."""

    def __init__(self, config: RunConfig, mailbox: Any) -> None:
        self.key, self.mailbox = key_of(config), mailbox
        self.letters: deque[Letter] = deque(maxlen=10_000)
        self.obeyed = 0
        self.over, self.turn = threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self._posting, name="mailbox", daemon=True)

    def __enter__(self) -> _Forward:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def message(self, config: RunConfig, message: Message) -> None:
        with suppress(IndexError):  # nothing, or all posted just now
            if isinstance(message, Step) and isinstance(self.letters[-1][2], Step):
                self.letters.pop()
        self.letters.append((self.key, "message", message))

    def silent(self, silence: Any) -> None:
        self.letters.append((self.key, "silent", silence))

    def waiting(self, shortage: Any) -> None:
        self.letters.append((self.key, "waiting", shortage))

    def _posting(self) -> None:
        while not self.over.wait(_POST_EVERY_S):
            self.post()
        self.post()

    def post(self) -> None:
        """Post what there is, and obey; one at a time, so that no signal is obeyed twice."""
        with self.turn:
            self._post()

    def _post(self) -> None:
        import ray
        from ray.exceptions import RayError

        letters: list[Letter] = []
        with suppress(IndexError):
            while True:
                letters.append(self.letters.popleft())
        try:
            signals = ray.get(self.mailbox.post.remote(letters), timeout=_POST_TIMEOUT_S)
        except RayError:  # the view misses a few lines; who waits for the run finds out by himself
            return
        for number in signals[self.obeyed :]:
            self.obeyed += 1
            if not self.over.is_set():
                os.kill(os.getpid(), number)


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Signals that come before the run's own process is there, or when it is gone, end nothing."""
    noted: list[int] = []
    before = {n: signal.signal(n, lambda number, _: noted.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fingerprints(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of backbones and data (a backbone's name, a task as JSON), as this machine has them; where they cannot be had, why."""
    from peftlab.backbones.resolve import source_of
    from peftlab.registry import create

    found = []
    for backbone, task in pairs:
        try:
            made = create("task", json.loads(task), key="kind", where="task")
            found.append((source_of(backbone).fingerprint(backbone), made.fingerprint()))
        except PeftlabError as error:
            found.append((error.what, error.what))
    return found
