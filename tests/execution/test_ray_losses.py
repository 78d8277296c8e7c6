"""What a Ray execution makes of machines that failed, leases they left, damage and signals: decided without a cluster."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import threading
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path

import pytest

from peftlab.execution.agenda import key_of
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import Step, WorkerOptions
from peftlab.execution.ray import losses
from peftlab.execution.ray import machines as the_machines
from peftlab.execution.ray.execution import Execution
from peftlab.execution.ray.flight import Flight, wait_until_seen
from peftlab.execution.ray.losses import Losses
from peftlab.execution.ray.machines import Machines
from peftlab.execution.ray.mailbox import Letter, Mailbox
from peftlab.execution.ray.task import Order, _Forward
from peftlab.records.lease import FILE as LEASE
from peftlab.records.lease import Holder
from peftlab.records.record import RunError
from peftlab.records.run_folder import CONFIG, METRICS, RESULTS, RunFolder
from peftlab.records.store import ResultsFolder
from peftlab.records.survey import SETTLED_S, left_elsewhere
from tests.execution.clusters import NEEDS_RAY
from tests.execution.targets import configuration

CONFIGURATION = configuration()


def execution(folder: ResultsFolder, options: WorkerOptions, *, share: bool = True, retry_failed: bool = False) -> Execution:
    order = Order(
        config="", folder=folder.path, witness="", share=share, scratch="", options=options, retry_failed=retry_failed,
        target="", preload=(), passport={}, variables={},
    )  # fmt: skip
    machines = Machines(address="127.0.0.1:9", folder=folder.path, patience_s=60.0)
    return Execution(machines, folder, [CONFIGURATION], order, NullListener())


def flight(run: RunFolder) -> Flight:
    return Flight(CONFIGURATION, run, None, ExitStack())


def left_by_another_machine(run: RunFolder) -> None:
    """A lease whose heart beat a moment ago."""
    holder = Holder("elsewhere", 1, "another boot", "2026-01-01T00:00:00Z")
    (run.create(CONFIGURATION).path / LEASE).write_text(json.dumps(dataclasses.asdict(holder)))


@NEEDS_RAY
def test_the_lease_that_a_lost_machine_left_is_waited_for_and_that_of_another_runner_is_not(
    results_folder: ResultsFolder, options: WorkerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_another_machine(results_folder.run(CONFIGURATION))
    lost, other = execution(results_folder, options), execution(results_folder, options)
    lost.losses.machine(key_of(CONFIGURATION), 3)
    for one in (lost, other):
        one.agenda.final = True
        one._begin(CONFIGURATION)
    assert [config for _, config in lost.later] == [CONFIGURATION] and not lost.agenda.endings
    assert [(ending.how, "elsewhere" in ending.detail) for ending in other.agenda.endings] == [
        ("leased", True)
    ] and not other.later
    monkeypatch.setattr(losses, "LEASE_S", 0.0)
    lost._begin(CONFIGURATION)
    assert [ending.how for ending in lost.agenda.endings] == ["leased"], "it beats on: the machine lives"


@NEEDS_RAY
def test_a_machine_that_fails_under_a_run_that_is_tried_again_is_no_result_of_before(
    results_folder: ResultsFolder, options: WorkerOptions
) -> None:
    run = results_folder.run(CONFIGURATION).create(CONFIGURATION)
    run.fail(RunError(run_id=run.run_id, error={"type": "NonFinite", "what": "before", "where": "", "remedy": ""}))
    again, once = execution(results_folder, options, retry_failed=True), execution(results_folder, options)
    again._lost(flight(run), "its node died")
    assert [config for _, config in again.later] == [CONFIGURATION] and not again.agenda.endings
    once._lost(flight(run), "its node died")
    assert [ending.how for ending in once.agenda.endings] == ["failed-before"] and not once.later


@NEEDS_RAY
def test_a_stop_that_was_asked_for_is_not_forgotten_over_a_cluster_that_is_gone(
    results_folder: ResultsFolder, options: WorkerOptions
) -> None:
    import ray

    stopped = execution(results_folder, options)
    stopped.flights = {key_of(CONFIGURATION): flight(results_folder.run(CONFIGURATION))}
    stopped.agenda.stop, began = signal.SIGINT, time.monotonic()
    stopped._come_back(None)
    assert time.monotonic() - began < 30, "the cluster is not waited for"
    assert [ending.how for ending in stopped.agenda.endings] == ["interrupted"] and not stopped.flights
    asked = execution(results_folder, options)
    asked.flights = {key_of(CONFIGURATION): flight(results_folder.run(CONFIGURATION))}
    threading.Timer(0.5, asked.signals.append, [signal.SIGTERM]).start()
    asked._come_back(None)
    assert asked.agenda.stop == signal.SIGTERM and [ending.how for ending in asked.agenda.endings] == ["interrupted"]
    assert not ray.is_initialized()


@NEEDS_RAY
def test_a_damaged_record_of_a_run_that_would_travel_ends_that_run_alone(
    results_folder: ResultsFolder, options: WorkerOptions
) -> None:
    run = results_folder.run(CONFIGURATION).make()
    (run.path / CONFIG).write_text("{ half")
    (run.path / METRICS).touch()
    sent = execution(results_folder, options, share=False)
    sent._begin(CONFIGURATION)
    assert [ending.how for ending in sent.agenda.endings] == ["failed"]
    error = sent.agenda.endings[0].error
    assert error["type"] == "RecordError" and "damaged" in error["what"] and error["where"].endswith(CONFIG)
    assert run.holder() is None and not (run.path / LEASE).exists(), "its lease is let go"


def test_progress_forgives_losses_and_a_cluster_that_is_gone_counts_against_no_run() -> None:
    counted = Losses()
    assert not counted.recent("run")
    assert [counted.machine("run", step) for step in (0, 0, 0, 5, 5, 4)] == [1, 2, 3, 1, 2, 3]
    counted.cluster(["other"])
    assert counted.recent("run") and counted.recent("other") and counted.machine("other", 0) == 1


def test_a_record_that_a_network_disk_shows_late_is_waited_for_though_its_folder_is_not_there(
    results_folder: ResultsFolder,
) -> None:
    run = results_folder.run(CONFIGURATION)

    def appear() -> None:
        (run.make().path / RESULTS).touch()

    timer = threading.Timer(0.5, appear)
    timer.start()
    wait_until_seen(run)
    timer.join()
    assert (run.path / RESULTS).exists()


def test_letters_that_are_there_are_collected_at_once_and_none_is_lost() -> None:
    first, second = ("run", "message", 1), ("run", "message", 2)

    async def talk() -> list[list[Letter]]:
        box = Mailbox()
        await box.post([first])
        now, none = await box.collect(0.0), await box.collect(0.0)
        waiting = asyncio.ensure_future(box.collect(30.0))
        await asyncio.sleep(0.05)
        await box.post([second])
        return [now, none, await waiting, await box.collect(0.05)]

    assert asyncio.run(talk()) == [[first], [], [second], []]


def test_of_steps_the_last_is_kept_while_they_are_being_posted() -> None:
    forward = _Forward(CONFIGURATION, None)
    for step in range(3):
        forward.message(CONFIGURATION, Step(step, 10, 0.5, 1e-3))
    assert [content.step for _, _, content in forward.letters] == [2]

    class Posted(deque[Letter]):
        """Emptied by the thread that posts, just as the last letter is looked at."""

        def __getitem__(self, index: object) -> Letter:  # pyright: ignore
            self.clear()
            return super().__getitem__(index)  # pyright: ignore

    forward.letters = Posted(forward.letters, maxlen=10)
    forward.message(CONFIGURATION, Step(3, 10, 0.5, 1e-3))
    assert [content.step for _, _, content in forward.letters] == [3]


def test_the_witness_of_a_long_execution_is_no_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(the_machines, "_TOUCH_S", 0.05)
    assert the_machines._TOUCH_S < SETTLED_S
    with Machines(folder=tmp_path).witness() as name:
        long_ago = time.time() - 2 * SETTLED_S
        os.utime(tmp_path / name, (long_ago, long_ago))
        until = time.monotonic() + 10
        while list(left_elsewhere(tmp_path, time.time())) and time.monotonic() < until:
            time.sleep(0.05)
        assert not list(left_elsewhere(tmp_path, time.time())) and (tmp_path / name).is_file()
    assert not list(tmp_path.iterdir())
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (long_ago, long_ago))
    assert [left.path.name for left in left_elsewhere(tmp_path, time.time())] == [name], "that of a program that was killed is"
