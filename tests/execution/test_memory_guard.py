"""Memory looked at before each start: the order of the plan, the largest that fits where it is short, an end to waiting."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.execution.local import execute
from peftlab.execution.memory_guard import InProgress, MemoryGuard, Shortage, own_mb
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import Message, Started, WorkerOptions
from peftlab.nn import memory
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder
from tests.execution.conftest import light_fork_server, options, results_folder  # noqa: F401
from tests.execution.targets import configuration

WORK = "tests.execution.targets:work"
LIBRARIES_MB = 500.0


def needing(own: float, seed: int = 0, **asked: object) -> RunConfig:
    predicted = {"peak_mb": LIBRARIES_MB + own, "parts_mb": {"process": LIBRARIES_MB, "activations": own}}
    return configuration(seed, **asked).model_copy(update={"predicted": predicted})


@pytest.fixture
def free_mb(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is free, as this test says: its first entry."""
    free = [1000.0]
    monkeypatch.setattr(memory, "memory_mb", lambda device: (4000.0, free[0]))
    return free


def test_pages_of_libraries_are_shared_and_an_unknown_need_holds_nothing_back(free_mb: list[float]) -> None:
    assert own_mb(needing(70.0)) == 70.0 and own_mb(configuration()) == 0.0
    free_mb[0] = 0.0
    assert MemoryGuard("cpu", 1.0).pick([configuration()], [], own_mb) is not None


@given(st.lists(st.floats(1.0, 2000.0), min_size=1, max_size=8), st.floats(0.0, 2000.0))
def test_the_next_or_else_the_largest_that_fits(needs: list[float], free: float) -> None:
    queue = [needing(mb, seed) for seed, mb in enumerate(needs)]
    guard = MemoryGuard("cpu", 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "memory_mb", lambda device: (4000.0, free))
        picked = guard.pick(queue, [], own_mb)
    wanted = None
    for config in queue:
        if own_mb(config) <= 0.9 * free:
            if config is queue[0]:
                wanted = config
                break
            if wanted is None or own_mb(config) > own_mb(wanted):
                wanted = config
    assert picked is wanted
    assert (guard.short is None) == (picked is not None)


def test_what_runs_in_progress_will_still_take_is_kept_for_them(free_mb: list[float]) -> None:
    held = psutil.Process().memory_full_info().uss / 1e6
    guard, queue = MemoryGuard("cpu", 1.0), [needing(100.0)]
    growing = InProgress((needing(held + 850.0),), os.getpid(), False)  # 0.9 * (1000 + held) - (held + 850) < 100
    assert guard.pick(queue, [growing], own_mb) is None
    guard.look_again()
    assert guard.pick(queue, [InProgress((needing(held),), os.getpid(), False)], own_mb) is queue[0] or held > 8000
    accelerator = MemoryGuard("cpu", 1.0)
    assert accelerator.room_mb([]) == pytest.approx(900.0)


def test_memory_that_comes_back_ends_the_wait(free_mb: list[float]) -> None:
    free_mb[0] = 50.0
    guard, queue = MemoryGuard("cpu", 0.2), [needing(100.0)]
    assert guard.pick(queue, [], own_mb) is None and guard.short == Shortage(queue[0], 100.0, 45.0)
    assert guard.given_up([]) is None
    time.sleep(0.25)
    free_mb[0] = 1000.0
    assert guard.pick(queue, [], own_mb) is None, "not looked at again at once"
    guard.look_again()
    assert guard.pick(queue, [], own_mb) is queue[0] and guard.given_up([]) is None


def test_patience_is_for_others_only(free_mb: list[float]) -> None:
    """However long our own runs take: the wait that can be in vain begins when none is left."""
    free_mb[0] = 50.0
    ours = [InProgress((needing(1.0),), os.getpid(), True)]
    guard, queue = MemoryGuard("cpu", 0.2), [needing(1e6)]
    assert guard.pick(queue, ours, own_mb) is None
    time.sleep(0.15)
    guard.look_again()
    assert guard.pick(queue, ours, own_mb) is None
    time.sleep(0.1)
    assert guard.given_up(ours) is None and guard.given_up([]) is None
    time.sleep(0.15)
    assert guard.given_up([]) == guard.short


class Order(NullListener):
    def __init__(self) -> None:
        self.started: list[int] = []
        self.active = self.most = 0
        self.shortages: list[Shortage] = []

    def message(self, config: RunConfig, message: Message) -> None:
        if isinstance(message, Started):
            self.started.append(config.seed)

    def waiting(self, shortage: Shortage) -> None:
        self.shortages.append(shortage)


def test_two_that_do_not_fit_together_run_one_after_the_other_and_a_smaller_one_beside(
    results_folder: ResultsFolder,  # noqa: F811
    options: WorkerOptions,  # noqa: F811
) -> None:
    """On the memory that this machine really has free."""
    most = 0.6 * memory.memory_mb("cpu")[1]
    configs = [needing(most, 0, steps=10, step_s=0.1), needing(most, 1), needing(1.0, 2), needing(2.0, 3)]
    order = Order()
    outcome = execute(results_folder, configs, jobs=2, options=options, listener=order, target=WORK)
    assert outcome.counts == {"finished": 4}
    assert {*order.started[:2]} == {0, 3}, "the larger of the small ones beside it (either may be the first to say so)"
    assert order.started[2:] == [2, 1], "then the other, the large one once there is room"


def test_a_run_that_never_fits_is_left_for_another_time_and_the_others_are_done(
    results_folder: ResultsFolder,  # noqa: F811
    options: WorkerOptions,  # noqa: F811
) -> None:
    too_large, small, as_large = needing(1e9, 0), needing(1.0, 1), needing(2e9, 2)
    order = Order()
    impatient = dataclasses.replace(options, memory_patience_s=0.5)
    outcome = execute(results_folder, [too_large, small, as_large], jobs=2, options=impatient, listener=order, target=WORK)
    assert {ending.config.seed: ending.how for ending in outcome.endings} == {0: "failed", 1: "finished", 2: "failed"}
    error = outcome.failed[0].error
    assert error["type"] == "PlanRefused" and "1,000,000,000 MB" in error["what"] and "batch_size" in error["remedy"]
    assert outcome.exit_code == 1 and [shortage.config.seed for shortage in order.shortages] == [0]
    run = results_folder.run(too_large)
    assert run.status() == "new" and run.error() is None, "nothing was started, so nothing is recorded"
    assert not Path(run.path / "error.json").exists()
