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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from peftlab.errors import OptionError, RecordError
from peftlab.execution.agenda import Agenda, key_of
from peftlab.execution.child import INTERRUPTED, TERMINATED, run_child
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
    agenda = Agenda(folder, configs, listener, retry_failed=retry_failed)
    return _Execution(folder, agenda, jobs, options, listener, target).run()


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
        self, folder: ResultsFolder, agenda: Agenda, jobs: int, options: WorkerOptions, listener: Listener, target: str
    ) -> None:
        self.folder, self.agenda, self.jobs = folder, agenda, jobs
        self.options, self.listener, self.target = options, listener, target
        self.active: list[_Worker] = []
        self.guard = MemoryGuard(options.device, options.memory_patience_s, options.processes)
        self.signals: deque[int] = deque()  #: come, not yet acted on

    def run(self) -> Outcome:
        self.listener.begin(len(self.agenda.queue), self.jobs)
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
            outcome = self.agenda.close()
        return outcome

    def _fill(self) -> bool:
        """Start what can be started; whether anything is left to start."""
        while self.agenda.stop is None and len(self.active) < self.jobs:
            if not self.active:
                self.agenda.take_deferred()
            if not self.agenda.queue or not self._begin_next():
                break
        return self.agenda.left

    def _begin_next(self) -> bool:
        """Begin a run that there is memory for; whether there is one."""
        queue, before = self.agenda.queue, self.guard.short
        active = [InProgress(worker.config, worker.process.pid, worker.stepped) for worker in self.active]
        config = self.guard.pick(queue, active, self._needed_mb)
        if config is not None:
            queue.remove(config)
            self._begin(config)
        elif given_up := self.guard.given_up(active):
            queue.remove(given_up.config)
            self.agenda.end(Ending(given_up.config, "failed", error=given_up.refusal()))
        elif before is None and self.guard.short:
            self.listener.waiting(self.guard.short)
        return config is not None

    def _needed_mb(self, config: RunConfig) -> float:
        """Nothing where no process will be started."""
        starts = self.agenda.standing(config, self.folder.run(config)) == "open"
        return self.guard.needed_mb(config) if starts and own_mb(config) else 0.0

    def _begin(self, config: RunConfig) -> None:
        run = self.folder.run(config)
        standing = self.agenda.standing(config, run)
        if standing == "leased":
            self.agenda.defer(config, str(run.holder() or ""))
        elif standing == "ended":
            self.agenda.end_as_found(config, run)
        else:
            self.active.append(self._launch(config, run.make()))

    def _launch(self, config: RunConfig, run: RunFolder) -> _Worker:
        context = process_context()
        connection, theirs = context.Pipe(duplex=False)
        orders, control = context.Pipe(duplex=False)
        text, retry = config.model_dump_json(), self.agenda.retry.get(key_of(config), "")
        arguments = (self.target, text, str(run.path), self.options, retry, theirs, orders)
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
        looks = [LOOK_EVERY_S] if self.guard.short is not None and self.agenda.queue else []
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
            return self.agenda.defer(worker.config, "")
        if worker.reused:
            return self.agenda.end_as_found(worker.config, worker.folder)
        try:
            ending = self._ending_of(worker, code, time.monotonic() - worker.started_s)
        except RecordError as error:  # one record that cannot be read is no reason to leave the other runs undone
            ending = Ending(worker.config, "failed-before", error=error.as_json())
        return self.agenda.end(ending)

    def _ending_of(self, worker: _Worker, code: int | None, duration_s: float) -> Ending:
        status = worker.folder.status()
        if status == "finished":
            results = worker.folder.results()
            diverged = results is not None and results.status == "diverged"
            return Ending(worker.config, "diverged" if diverged else "finished", time_s=duration_s)
        if status != "failed" and (self.agenda.stop is not None or code in (TERMINATED, INTERRUPTED)):
            return Ending(worker.config, "interrupted", time_s=duration_s)
        if status != "failed":
            told = worker.error or death(code, worker.hung_s, worker.out_of_memory_kills, worker.folder)
            return Ending(worker.config, "failed", time_s=duration_s, error=record_death(worker.folder, worker.config, told))
        failure = worker.folder.error()  # of an earlier try, where this one could not write its own
        error = worker.error or (dict(failure.error) if failure else {})
        return Ending(worker.config, "failed", time_s=duration_s, error=error)

    def _on_signal(self, number: int) -> None:
        """First: ask every child to save and stop. Second: end them now."""
        again = self.agenda.ask_to_stop(number)
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
