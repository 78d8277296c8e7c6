"""Runs on this machine, each in its own process, several at once.

A fork server with everything imported makes a new process in a fraction of a second (macOS: a fresh process, which imports
again). Every run has a lease, so several executions of one study share the work. Whatever happens to one process, the others go
on; whatever happens to this one, its children save and stop. A run is started when there is memory for it: in the order given,
and where that is short the largest that fits.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from peftlab.errors import OptionError, RecordError
from peftlab.execution.child import INTERRUPTED, TERMINATED, error_hash, run_child
from peftlab.execution.deaths import death, record_death
from peftlab.execution.memory_guard import LOOK_EVERY_S, InProgress, MemoryGuard, own_mb
from peftlab.execution.outcome import Ending, Outcome
from peftlab.execution.processes import out_of_memory_kills, process_context, signals, start_up, warm_up
from peftlab.execution.progress import Listener
from peftlab.execution.protocol import Failed, Leased, Reused, Step, WorkerOptions
from peftlab.execution.silence import Watch
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder, RunFolder

__all__ = ["WORKER", "execute", "warm_up"]

WORKER = "peftlab.execution.worker:main"


def execute(
    folder: ResultsFolder,
    configs: Sequence[RunConfig],
    *,
    jobs: int,
    options: WorkerOptions,
    listener: Listener,
    retry_failed: bool = False,
    target: str = WORKER,
) -> Outcome:
    """Run what is not done yet, and wait for it.

    Args:
        folder: where the runs live.
        configs: the runs, in the order in which they are started.
        jobs: processes at once.
        options: given to every worker.
        listener: is told what happens.
        retry_failed: also run what failed before (their errors are kept).
        target: ``module:function`` of the worker.

    Returns:
        what became of every run; a run that another process works on is counted as ``leased``.

    Raises:
        OptionError: ``jobs`` below 1.
        RecordError: the results folder cannot be written.
    """
    if jobs < 1:
        raise OptionError(f"jobs must be at least 1 (got {jobs})", where="--jobs", remedy="use --jobs 1")
    execution = _Execution(folder, list(configs), jobs, options, listener, target, retry_failed)
    return execution.run()


@dataclass
class _Worker:
    config: RunConfig
    folder: RunFolder
    process: Any
    connection: Connection
    control: Connection
    out_of_memory_kills: int
    watch: Watch
    started_s: float = field(default_factory=time.monotonic)
    leased: bool = False
    reused: bool = False
    stepped: bool = False
    error: dict[str, str] | None = None  #: that it told; on a full disk not even that can be written
    hung_s: float | None = None  #: it was ended after this long a silence


class _Execution:
    def __init__(
        self,
        folder: ResultsFolder,
        configs: list[RunConfig],
        jobs: int,
        options: WorkerOptions,
        listener: Listener,
        target: str,
        retry_failed: bool,
    ) -> None:
        self.folder, self.jobs, self.options, self.listener, self.target = folder, jobs, options, listener, target
        unique = {(config.purpose, config.slug, config.run_id): config for config in configs}
        self.queue = deque(unique.values())
        self.deferred: deque[RunConfig] = deque()  #: leased by another process when their turn came
        self.final = False  #: the deferred ones are being looked at for the last time
        self.active: list[_Worker] = []
        self.guard = MemoryGuard(options.device, options.memory_patience_s, options.processes)
        self.endings: list[Ending] = []
        self.stop: int | None = None  #: the signal that asked us to stop
        self.signals: deque[int] = deque()  #: come, not yet acted on
        known = {key: error_hash(folder.run(config)) for key, config in unique.items()} if retry_failed else {}
        self.retry = {key[2]: found for key, found in known.items()}

    def run(self) -> Outcome:
        self.listener.begin(len(self.queue), self.jobs)
        read, write = os.pipe()
        os.set_blocking(write, False)
        try:
            with signals(self.signals, write):
                while self._fill() or self.active:
                    self._wait(read)
        except BaseException:
            self._abandon()
            raise
        finally:
            os.close(read)
            os.close(write)
            outcome = Outcome(tuple(self.endings), self.stop)
            self.listener.close(outcome)
        return outcome

    def _fill(self) -> bool:
        """Start what can be started; whether anything is left to start."""
        while self.stop is None and len(self.active) < self.jobs:
            if not self.queue and self.deferred and not self.active:
                self.queue, self.deferred, self.final = self.deferred, deque(), True
            if not self.queue or not self._begin_next():
                break
        return self.stop is None and bool(self.queue or self.deferred)

    def _begin_next(self) -> bool:
        """Begin a run that there is memory for; whether there is one."""
        before = self.guard.short
        active = [InProgress(worker.config, worker.process.pid, worker.stepped) for worker in self.active]
        config = self.guard.pick(self.queue, active, self._needed_mb)
        if config is not None:
            self.queue.remove(config)
            self._begin(config)
        elif given_up := self.guard.given_up(active):
            self.queue.remove(config := given_up.config)
            self._end(config, "failed", error=given_up.refusal())
        elif before is None and self.guard.short:
            self.listener.waiting(self.guard.short)
        return config is not None

    def _needed_mb(self, config: RunConfig) -> float:
        """Nothing where no process will be started."""
        run = self.folder.run(config)
        status = run.status()
        ended = status in ("running", "finished") or (status == "failed" and not self._to_retry(run))
        return 0.0 if ended or not own_mb(config) else self.guard.needed_mb(config)

    def _begin(self, config: RunConfig) -> None:
        run = self.folder.run(config)
        status = run.status()
        if status == "running":
            self._defer(config, str(run.holder() or ""))
        elif status == "finished" or (status == "failed" and not self._to_retry(run)):
            self._end_as_found(config, run)
        else:
            self.active.append(self._launch(config, run.make()))

    def _to_retry(self, run: RunFolder) -> bool:
        """Only the error that was there at the beginning: another runner may have tried again since."""
        found = self.retry.get(run.run_id)
        return bool(found) and found == error_hash(run)

    def _end_as_found(self, config: RunConfig, run: RunFolder) -> None:
        with self._damage_ends_only(config):
            results, failure = run.results(), run.error()
            if results is not None:
                self._end(config, "reused", results.status)
            else:
                self._end(config, "failed-before", error=dict(failure.error) if failure else {})

    @contextmanager
    def _damage_ends_only(self, config: RunConfig) -> Iterator[None]:
        """One record that cannot be read is no reason to leave the other runs undone."""
        try:
            yield
        except RecordError as error:
            self._end(config, "failed-before", error=error.as_json())

    def _launch(self, config: RunConfig, run: RunFolder) -> _Worker:
        context = process_context()
        connection, theirs = context.Pipe(duplex=False)
        orders, control = context.Pipe(duplex=False)
        text = config.model_dump_json()
        arguments = (self.target, text, str(run.path), self.options, self.retry.get(config.run_id, ""), theirs, orders)
        process = context.Process(target=run_child, args=arguments, name=f"{config.label} seed {config.seed}")
        with start_up():
            process.start()
        theirs.close()
        orders.close()
        watch = Watch.of(config, self.options.silence_s)
        return _Worker(config, run, process, connection, control, out_of_memory_kills(), watch)

    def _wait(self, wake: int) -> None:
        waited: list[Any] = [wake]
        for worker in self.active:
            waited += [worker.process.sentinel] if worker.connection.closed else [worker.connection, worker.process.sentinel]
        looks = [LOOK_EVERY_S] if self.guard.short is not None and self.queue else []
        watches = [worker.watch.due_in_s() for worker in self.active if worker.hung_s is None]
        patience_s = min((*looks, *watches), default=None)
        ready = set(multiprocessing.connection.wait(waited, patience_s))
        if wake in ready:
            os.read(wake, 4096)
        while self.signals:
            self._on_signal(self.signals.popleft())
        for worker in list(self.active):
            if worker.connection in ready or worker.process.sentinel in ready:
                self._receive(worker)
            if worker.process.sentinel in ready:
                self.active.remove(worker)
                self._conclude(worker)
            elif worker.hung_s is None:
                self._listen_for(worker)

    def _listen_for(self, worker: _Worker) -> None:
        """Tell of a long silence, and end it where its study says so."""
        silence = worker.watch.look(worker.config, worker.folder, worker.process.pid)
        if silence is not None:
            self.listener.silent(silence)
            if silence.ends:
                worker.hung_s = silence.silent_s
                worker.process.kill()

    def _receive(self, worker: _Worker) -> None:
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                worker.watch.heard(message)
                worker.leased |= isinstance(message, Leased)
                worker.reused |= isinstance(message, Reused)
                worker.stepped |= isinstance(message, Step)
                worker.error = dict(message.error) if isinstance(message, Failed) else worker.error
                self.listener.message(worker.config, message)
        except (EOFError, OSError):
            worker.connection.close()

    def _conclude(self, worker: _Worker) -> None:
        worker.process.join()
        code = worker.process.exitcode
        worker.connection.close()
        worker.control.close()
        self.guard.look_again()
        if worker.leased:
            return self._defer(worker.config, "")
        if worker.reused:
            return self._end_as_found(worker.config, worker.folder)
        with self._damage_ends_only(worker.config):
            self._end_of(worker, code, time.monotonic() - worker.started_s)

    def _end_of(self, worker: _Worker, code: int | None, duration_s: float) -> None:
        status = worker.folder.status()
        if status == "finished":
            results = worker.folder.results()
            diverged = results is not None and results.status == "diverged"
            return self._end(worker.config, "diverged" if diverged else "finished", time_s=duration_s)
        if status != "failed" and (self.stop is not None or code in (TERMINATED, INTERRUPTED)):
            return self._end(worker.config, "interrupted", time_s=duration_s)
        if status != "failed":
            told = worker.error or death(code, worker.hung_s, worker.out_of_memory_kills, worker.folder)
            return self._end(worker.config, "failed", time_s=duration_s, error=record_death(worker.folder, worker.config, told))
        failure = worker.folder.error()  # of an earlier try, where this one could not write its own
        error = worker.error or (dict(failure.error) if failure else {})
        return self._end(worker.config, "failed", time_s=duration_s, error=error)

    def _defer(self, config: RunConfig, by: str) -> None:
        if self.final or self.stop is not None:
            self._end(config, "leased", by)
        else:
            self.deferred.append(config)

    def _end(
        self, config: RunConfig, how: Any, detail: str = "", *, time_s: float = 0.0, error: dict[str, str] | None = None
    ) -> None:
        ending = Ending(config, how, detail, time_s, error or {})
        self.endings.append(ending)
        self.listener.ended(ending)

    def _on_signal(self, number: int) -> None:
        """First: ask every child to save and stop. Second: end them now."""
        again, self.stop = self.stop is not None, number if self.stop is None else self.stop
        for worker in self.active:
            with suppress(OSError, ValueError):
                if again:
                    worker.process.kill()
                else:
                    worker.control.send(signal.Signals(number).value)
        self.listener.stopping(number, again)

    def _abandon(self) -> None:
        """We cannot go on: children save and stop, and are not left behind."""
        for worker in self.active:
            worker.control.close()
        deadline = time.monotonic() + 30
        for worker in self.active:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
