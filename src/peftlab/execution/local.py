"""Runs on this machine, each in its own process, several at once.

A fork server with everything imported makes a new process in a fraction of a second (macOS: a fresh process, which imports
again). Every run has a lease, so several executions of one study share the work. Whatever happens to one process, the others go
on; whatever happens to this one, its children save and stop. A run is started when there is memory for it: in the order given,
and where that is short the largest that fits. Where that is wanted, several runs share one process and are computed together.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from peftlab.errors import OptionError, RecordError
from peftlab.execution.agenda import Agenda, key_of
from peftlab.execution.child import INTERRUPTED, TERMINATED
from peftlab.execution.deaths import death, record_death
from peftlab.execution.memory_guard import LOOK_EVERY_S, InProgress, MemoryGuard, own_mb
from peftlab.execution.outcome import Ending, Outcome
from peftlab.execution.processes import signals, warm_up
from peftlab.execution.progress import Listener
from peftlab.execution.protocol import Moved, WorkerOptions
from peftlab.execution.workers import Host, Worker, launch
from peftlab.planning.stacking import Stacking
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder

__all__ = ["WORKER", "execute", "warm_up"]

WORKER = "peftlab.execution.worker:main"
STACK = "peftlab.execution.stacked:main"


def execute(  # noqa: PLR0913
    folder: ResultsFolder,
    configs: Sequence[RunConfig],
    *,
    jobs: int,
    options: WorkerOptions,
    listener: Listener,
    retry_failed: bool = False,
    target: str = WORKER,
    stacking: Stacking | None = None,
    stack_target: str = STACK,
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
        stacking: which runs share a process; None: none do.
        stack_target: ``module:function`` of a process that several runs share.

    Returns:
        what became of every run; a run that another process works on is counted as ``leased``.

    Raises:
        OptionError: ``jobs`` below 1.
        RecordError: the results folder cannot be written.
    """
    if jobs < 1:
        raise OptionError(f"jobs must be at least 1 (got {jobs})", where="--jobs", remedy="use --jobs 1")
    agenda = Agenda(folder, configs, listener, retry_failed=retry_failed)
    return _Execution(folder, agenda, jobs, options, listener, (target, stack_target), stacking or Stacking()).run()


class _Execution:
    def __init__(
        self,
        folder: ResultsFolder,
        agenda: Agenda,
        jobs: int,
        options: WorkerOptions,
        listener: Listener,
        targets: tuple[str, str],
        stacking: Stacking,
    ) -> None:
        self.folder, self.agenda, self.jobs = folder, agenda, jobs
        self.options, self.listener, self.targets, self.stacking = options, listener, targets, stacking
        self.active: list[Worker] = []
        self.alone: set[str] = set()  #: keys of runs whose stack broke
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
        while self.agenda.stop is None and len(self._hosts()) < self.jobs:
            if not self.active:
                self.agenda.take_deferred()
            if not self.agenda.queue or not self._begin_next():
                break
        return self.agenda.left

    def _begin_next(self) -> bool:
        """Begin a run that there is memory for; whether there is one."""
        queue, before = self.agenda.queue, self.guard.short
        active = [self._in_progress(host) for host in self._hosts()]
        config = self.guard.pick(queue, active, self._needed_mb)
        if config is not None:
            queue.remove(config)
            self._begin(config, active)
        elif given_up := self.guard.given_up(active):
            queue.remove(given_up.config)
            self.agenda.end(Ending(given_up.config, "failed", error=given_up.refusal()))
        elif before is None and self.guard.short:
            self.listener.waiting(self.guard.short)
        return config is not None

    def _hosts(self) -> list[Host]:
        return list(dict.fromkeys(worker.host for worker in self.active))

    def _in_progress(self, host: Host) -> InProgress:
        inside = [worker for worker in self.active if worker.host is host]
        return InProgress(tuple(w.config for w in inside), host.process.pid, any(w.stepped for w in inside))

    def _needed_mb(self, config: RunConfig) -> float:
        """Nothing where no process will be started."""
        starts = self.agenda.standing(config, self.folder.run(config)) == "open"
        return self.guard.needed_mb(config) if starts and own_mb(config) else 0.0

    def _begin(self, config: RunConfig, active: list[InProgress]) -> None:
        run = self.folder.run(config)
        standing = self.agenda.standing(config, run)
        if standing == "leased":
            self.agenda.defer(config, str(run.holder() or ""))
        elif standing == "ended":
            self.agenda.end_as_found(config, run)
        else:
            others = self._companions(config, active)
            for other in others:
                self.agenda.queue.remove(other)
            self._launch([config, *others])

    def _companions(self, config: RunConfig, active: list[InProgress]) -> list[RunConfig]:
        """Queued runs that are begun in one process with this one: fresh ones, as many as there is memory for."""
        if not self._fresh(config):
            return []
        free = self.jobs - len(self._hosts())
        found = self.stacking.companions(config, (other for other in self.agenda.queue if self._fresh(other)), free)
        if not found:
            return []
        room = self.guard.room_mb(active) - self.guard.needed_mb(config)
        fitting: list[RunConfig] = []
        for other in found:
            room -= self.guard.needed_mb(other)
            if room < 0:
                break
            fitting.append(other)
        return fitting

    def _fresh(self, config: RunConfig) -> bool:
        """Whether nothing of it was done yet: what was begun, and what was in a stack that broke, goes on by itself."""
        if key_of(config) in self.alone:
            return False
        run = self.folder.run(config)
        return self.agenda.standing(config, run) == "open" and not any(run.checkpoints.glob("*/step-*"))

    def _launch(self, configs: Sequence[RunConfig]) -> None:
        runs = [(config, self.folder.run(config).make(), self.agenda.retry.get(key_of(config), "")) for config in configs]
        self.active += launch(runs, self.options, *self.targets)

    def _wait(self, wake: int) -> None:
        waited: list[Any] = [wake, *(host.process.sentinel for host in self._hosts())]
        waited += [worker.connection for worker in self.active if not worker.connection.closed]
        looks = [LOOK_EVERY_S] if self.guard.short is not None and self.agenda.queue else []
        watches = [worker.watch.due_in_s() for worker in self.active if self._watched(worker)]
        patience_s = min((*looks, *watches), default=None)
        ready = set(multiprocessing.connection.wait(waited, patience_s))
        if wake in ready:
            os.read(wake, 4096)
        while self.signals:
            self._on_signal(self.signals.popleft())
        for worker in list(self.active):
            over = worker.host.process.sentinel in ready
            if worker.connection in ready or over:
                self._receive(worker)
            if over:
                self.active.remove(worker)
                self._conclude(worker)
            elif self._watched(worker):
                self._listen_for(worker)

    def _watched(self, worker: Worker) -> bool:
        return not (worker.host.ended or worker.ended)

    def _listen_for(self, worker: Worker) -> None:
        """Tell of a long silence, and end it where its study says so; in a stack nobody can say who hangs."""
        silence = worker.watch.look(worker.config, worker.folder, worker.host.process.pid)
        if silence is not None:
            self.listener.silent(silence)
            if silence.ends:
                worker.hung_s = None if worker.host.stacked else silence.silent_s
                worker.host.ended = True
                worker.host.process.kill()

    def _receive(self, worker: Worker) -> None:
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                for other in self.active:
                    if other.host is worker.host:  # in a stack one speaks while the others wait
                        other.watch.heard(message)
                worker.heard(message)
                self.listener.message(worker.config, message)
        except (EOFError, OSError):
            worker.connection.close()

    def _conclude(self, worker: Worker) -> None:
        host = worker.host
        host.process.join()
        code = host.process.exitcode
        worker.connection.close()
        host.control.close()
        self.guard.look_again()
        if worker.leased:
            return self.agenda.defer(worker.config, "")
        if worker.reused:
            return self.agenda.end_as_found(worker.config, worker.folder)
        if self._goes_on_alone(worker, code):
            self.alone.add(key_of(worker.config))
            self.agenda.queue.appendleft(worker.config)
            return self.listener.message(
                worker.config, Moved("the process that it shared with other runs ended: it goes on by itself")
            )
        try:
            ending = self._ending_of(worker, code, time.monotonic() - host.started_s)
        except RecordError as error:  # one record that cannot be read is no reason to leave the other runs undone
            ending = Ending(worker.config, "failed-before", error=error.as_json())
        return self.agenda.end(ending)

    def _goes_on_alone(self, worker: Worker, code: int | None) -> bool:
        """Whether it was in a stack that ended before it, and nobody asked for that: nobody can say whose fault it is."""
        asked = self.agenda.stop is not None or code in (TERMINATED, INTERRUPTED)
        ended = worker.error is not None or worker.folder.status() in ("finished", "failed")
        return worker.host.stacked and not asked and not ended

    def _ending_of(self, worker: Worker, code: int | None, duration_s: float) -> Ending:
        status = worker.folder.status()
        if status == "finished":
            results = worker.folder.results()
            diverged = results is not None and results.status == "diverged"
            return Ending(worker.config, "diverged" if diverged else "finished", time_s=duration_s)
        if status != "failed" and (self.agenda.stop is not None or code in (TERMINATED, INTERRUPTED)):
            return Ending(worker.config, "interrupted", time_s=duration_s)
        if status != "failed":
            told = worker.error or death(code, worker.hung_s, worker.host.out_of_memory_kills, worker.folder)
            return Ending(worker.config, "failed", time_s=duration_s, error=record_death(worker.folder, worker.config, told))
        failure = worker.folder.error()  # of an earlier try, where this one could not write its own
        error = worker.error or (dict(failure.error) if failure else {})
        return Ending(worker.config, "failed", time_s=duration_s, error=error)

    def _on_signal(self, number: int) -> None:
        """First: ask every child to save and stop. Second: end them now."""
        again = self.agenda.ask_to_stop(number)
        for host in self._hosts():
            with suppress(OSError, ValueError):
                if again:
                    host.process.kill()
                else:
                    host.control.send(signal.Signals(number).value)
        self.listener.stopping(number, again)

    def _abandon(self) -> None:
        """We cannot go on: children save and stop, and are not left behind."""
        for host in self._hosts():
            host.control.close()
        deadline = time.monotonic() + 30
        for host in self._hosts():
            host.process.join(max(0.0, deadline - time.monotonic()))
            if host.process.is_alive():
                host.process.kill()
                host.process.join()
