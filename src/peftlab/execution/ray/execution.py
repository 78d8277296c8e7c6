"""One execution on a Ray cluster: a task for every run, as many at once as there is room for, and again where a machine failed.

Ray is told to try nothing again by itself: only here is known whether a run failed, which is its result, or its machine, which is
nothing. Nothing is lost or done twice because a run's lease, its folder and its id decide, as on one machine.
"""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from peftlab.errors import LeaseHeld, RecordError, WorkerDied
from peftlab.execution.agenda import Agenda, key_of
from peftlab.execution.deaths import record_death
from peftlab.execution.outcome import Ending, Outcome
from peftlab.execution.processes import signals
from peftlab.execution.progress import Listener
from peftlab.execution.protocol import Moved, Started, Step
from peftlab.execution.ray import cluster, delivery
from peftlab.execution.ray.flight import Flight, in_words, refusal, wait_until_seen
from peftlab.execution.ray.losses import Losses
from peftlab.execution.ray.machines import Machines
from peftlab.execution.ray.mailbox import Mailbox
from peftlab.execution.ray.task import Answer, Order, perform
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import RunFolder
from peftlab.records.store import ResultsFolder

_LOOK_S, _COLLECT_S, _SILENT_S = 0.5, 5.0, 15.0
#: between two looks at a run whose machine failed
_AGAIN_S = 2.0
_FORGET_S = 30.0


class Execution:
    """See :meth:`run`."""

    def __init__(
        self,
        machines: Machines,
        folder: ResultsFolder,
        configs: list[RunConfig],
        order: Order,
        listener: Listener,
        *,
        jobs: int | None = None,
        retries: int = 3,
    ) -> None:
        self.machines, self.folder, self.order, self.listener = machines, folder, order, listener
        self.jobs, self.retries = jobs, retries
        self.agenda = Agenda(folder, configs, listener, retry_failed=order.retry_failed)
        self.later: list[tuple[float, RunConfig]] = []  #: not before
        self.flights: dict[str, Flight] = {}
        self.losses = Losses()
        self.steps: dict[str, int] = {}
        self.signals: deque[int] = deque()
        self.forgetting: list[Any] = []  #: copies on nodes that are being removed
        self.ray = cluster.require()

    def run(self) -> Outcome:
        """Run what is not done yet, and wait for it."""
        self._begin_talking()
        self.listener.begin(len(self.agenda.queue), self._room())
        read, write = os.pipe()
        os.set_blocking(write, False)
        try:
            with signals(self.signals, write):
                while self._fill() or self.flights:
                    self._wait()
        finally:
            os.close(read)
            os.close(write)
            for flight in self.flights.values():
                with suppress(Exception):
                    self.ray.cancel(flight.reference, force=True)
                flight.held.close()
            if self.ray.is_initialized():  # else Ray would start a cluster of its own here, to wait for nothing
                with suppress(Exception):
                    self.ray.wait(self.forgetting, num_returns=len(self.forgetting), timeout=_FORGET_S)
                    self.ray.kill(self.mailbox)
            outcome = self.agenda.close()
        return outcome

    def _begin_talking(self) -> None:
        here = self.ray.get_runtime_context().get_node_id()  # of this machine, or of the server that ray:// leads to
        self.mailbox: Any = cluster.on_node(self.ray.remote(Mailbox), here, max_concurrency=1000).remote()
        self.letters = self.mailbox.collect.remote(_COLLECT_S)
        self.heard_s = time.monotonic()
        # with GPUs a process for each run: it keeps the GPU that it was given first, and some of its memory
        self.task = self.ray.remote(max_calls=int(self.machines.gpus_per_run > 0))(perform)

    def _room(self) -> int:
        configs = self.agenda.configs.values()
        return self.jobs or max((self.machines.room(self.machines.needs(config)) for config in configs), default=1) or 1

    def _fill(self) -> bool:
        """Hand over what there is room for; whether anything is left to do."""
        now = time.monotonic()
        due = [config for when, config in self.later if when <= now]
        self.later = [(when, config) for when, config in self.later if when > now]
        self.agenda.queue.extendleft(reversed(due))
        if not (self.later or self.flights):
            self.agenda.take_deferred()
        queue, passed = self.agenda.queue, deque[RunConfig]()
        while queue and self.agenda.stop is None:
            config = queue.popleft()
            if self._has_room(config):
                self._begin(config)
            else:
                passed.append(config)
                if len(self.flights) >= self._room() and not self.machines.place.rules:
                    break
        queue.extendleft(reversed(passed))
        if self.agenda.stop is not None:
            return False
        if self.later and not self.flights and not queue:
            time.sleep(_LOOK_S)
        return bool(self.later) or self.agenda.left

    def _has_room(self, config: RunConfig) -> bool:
        """One more than fits is handed over, so that no machine waits for us."""
        if self.jobs is not None and len(self.flights) >= self.jobs:
            return False
        needs = self.machines.needs(config)
        alike = sum(self.machines.needs(flight.config).keys() == needs.keys() for flight in self.flights.values())
        return alike < self.machines.room(needs) + 1

    def _begin(self, config: RunConfig) -> None:
        run = self.folder.run(config)
        standing = self.agenda.standing(config, run)
        if standing == "ended":
            return self.agenda.end_as_found(config, run)
        if standing == "open":
            try:
                return self._hand_over(config, run)
            except LeaseHeld:
                pass
            except RecordError as error:  # one record that cannot be read is no reason to leave the other runs undone
                return self.agenda.end(Ending(config, "failed", error=error.as_json()))
        return self._defer(config, str(run.holder() or ""))

    def _hand_over(self, config: RunConfig, run: RunFolder) -> None:
        """Give the run to Ray. Where a node works on a copy of its folder, the lease is ours meanwhile."""
        with ExitStack() as held:
            state = None
            if not self.order.share:
                new = run.status() == "new"  # before our lease is there
                held.enter_context(run.make().lease())
                state = None if new else delivery.send(run.create(config))
            needs = self.machines.needs(config)
            options: dict[str, Any] = {"num_cpus": needs.pop("CPU"), "num_gpus": needs.pop("GPU", 0.0), "max_retries": 0}
            if memory := needs.pop("memory", 0.0):
                options["memory"] = int(memory)
            order = replace(self.order, config=config.model_dump_json(), state=state)
            reference = self.task.options(**options, resources=needs, name=config.label).remote(order, self.mailbox)
            self.flights[key_of(config)] = Flight(config, run, reference, held.pop_all())

    def _wait(self) -> None:
        references = {flight.reference: key for key, flight in self.flights.items()}
        try:
            self._heed()
            ready, _ = self.ray.wait([*references, self.letters], num_returns=1, timeout=_LOOK_S)
            if self.letters in ready:
                self._deliver(self.ray.get(self.letters, timeout=_COLLECT_S))
                self.letters = self.mailbox.collect.remote(_COLLECT_S)
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.RaySystemError, ConnectionError) as error:
            return self._come_back(error)
        ended = [references[reference] for reference in ready if reference in references]
        if ended:
            self._collect_now()
        for key in ended:
            self._conclude(key)
        if time.monotonic() - self.heard_s > _SILENT_S and not self.machines.reachable():
            self._come_back(None)
        return None

    def _collect_now(self) -> None:
        """What a run said comes before its end."""
        with suppress(self.ray.exceptions.RayError):
            more = self.ray.get(self.mailbox.collect.remote(0.0), timeout=_COLLECT_S)
            if self.ray.wait([self.letters], timeout=0)[0]:
                self._deliver(self.ray.get(self.letters))
                self.letters = self.mailbox.collect.remote(_COLLECT_S)
            self._deliver(more)

    def _deliver(self, letters: list[Any]) -> None:
        self.heard_s = time.monotonic()
        for key, method, content in letters:
            config = self.agenda.configs.get(key)
            if config is None:
                continue
            if isinstance(content, Step | Started):
                self.steps[key] = content.step
            getattr(self.listener, method)(*((config, content) if method == "message" else (content,)))

    def _conclude(self, key: str) -> None:
        flight = self.flights.pop(key)
        try:
            with flight.held:
                answer: Answer = self.ray.get(flight.reference)
                if answer.refused:
                    raise refusal(answer)
                if answer.parcel is not None:
                    delivery.bring(answer.parcel, flight.run, flight.config, self.folder.path)
                    self.forgetting.append(
                        cluster.on_node(self.ray.remote(delivery.forget), answer.node, max_retries=0).remote(answer.scratch)
                    )
        except (self.ray.exceptions.RayError, RecordError) as error:
            return self._lost(flight, error)
        ending = answer.ending
        if ending.how == "leased":
            return self._defer(flight.config, ending.detail)
        if ending.how == "interrupted" and self.agenda.stop is None:
            return self._lost(flight, "the machine asked the run to stop")
        if self.order.share and answer.recorded:
            wait_until_seen(flight.run)
        return self.agenda.end(replace(ending, config=flight.config))

    def _lost(self, flight: Flight, why: Exception | str) -> None:
        """A machine failed, and not the run."""
        config, key = flight.config, key_of(flight.config)
        if self.agenda.standing(config, flight.run) == "ended":  # its last act was its record
            return self.agenda.end_as_found(config, flight.run)
        if self.agenda.stop is not None:
            return self.agenda.end(Ending(config, "interrupted", time_s=time.monotonic() - flight.began_s))
        number, words = self.losses.machine(key, self.steps.get(key, 0)), in_words(why)
        if number <= self.retries:
            self.listener.message(config, Moved(words))
            self.later.append((time.monotonic() + _AGAIN_S * (number - 1), config))
            return None
        what = f"its machine failed {number} times without a step of progress; last: {words}"
        remedy = "`ray status` shows what became of the nodes; `peftlab run --retry-failed` continues the run"
        error = WorkerDied(what, where=str(flight.run.path), remedy=remedy).as_json()
        return self.agenda.end(Ending(config, "failed", error=record_death(flight.run.make(), config, error)))

    def _come_back(self, why: Exception | None) -> None:
        """The cluster is gone, and with it all tasks: their runs saved and stopped, and go on once it is there again."""
        words = in_words(why) if why is not None else "the cluster does not answer"
        flights, self.flights, self.forgetting = self.flights, {}, []
        for flight in flights.values():
            flight.held.close()
            if self.agenda.stop is None:
                self.listener.message(flight.config, Moved(words))
        self.machines.come_back(lambda: self.agenda.stop is not None or bool(self.signals))
        self._heed()
        if self.agenda.stop is not None:
            for flight in flights.values():
                self._lost(flight, words)
            return
        self.losses.cluster(flights)
        self.agenda.queue.extendleft(flight.config for flight in reversed(flights.values()))
        self._begin_talking()

    def _heed(self) -> None:
        while self.signals:
            self._on_signal(self.signals.popleft())

    def _on_signal(self, number: int) -> None:
        """First: ask every run to save and stop. Second: end them now."""
        again = self.agenda.ask_to_stop(number)
        self.listener.stopping(number, again)
        if not self.flights:  # nobody listens, or nobody can be reached
            return
        self.mailbox.stop.remote(number)
        for key, flight in self.flights.items():
            if again or key not in self.steps:  # not begun, as far as we know; its node may never come
                with suppress(ValueError):
                    self.ray.cancel(flight.reference, force=again)

    def _defer(self, config: RunConfig, by: str) -> None:
        """By what is left of a machine that failed: looked at again soon. By another process: when all else is done."""
        if self.agenda.stop is None and self.losses.recent(key_of(config)):
            self.later.append((time.monotonic() + _AGAIN_S, config))
        else:
            self.agenda.defer(config, by)
