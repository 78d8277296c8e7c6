"""Runs on a real Ray cluster of several nodes: the same runs and results as here, whatever happens to a node."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import LeaseHeld, OptionError, PlanRefused
from peftlab.execution.local import execute
from peftlab.execution.progress import NullListener, Outcome
from peftlab.execution.protocol import Message, Moved, Started, Step, WorkerOptions
from peftlab.execution.ray.cluster import connect, disconnect
from peftlab.execution.ray.engine import RayEngine
from peftlab.execution.ray.machines import Machines
from peftlab.execution.ray.place import Place
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder, RunFolder, verify
from tests.execution.clusters import NEEDS_RAY, Cluster, variables
from tests.execution.targets import configuration

pytestmark = [pytest.mark.slow, NEEDS_RAY]
WORK = "tests.execution.targets:work"


class Recorder(NullListener):
    def __init__(self, act: Callable[[RunConfig, Message], None] | None = None) -> None:
        self.messages: list[tuple[int, Message]] = []
        self.act = act

    def message(self, config: RunConfig, message: Message) -> None:
        self.messages.append((config.seed, message))
        if self.act is not None:
            self.act(config, message)


class Interrupter:
    """Ctrl-C, once a run is that far."""

    def __init__(self, step: int) -> None:
        self.step, self.sent = step, False

    def __call__(self, config: RunConfig, message: Message) -> None:
        if isinstance(message, Step) and message.step >= self.step and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with variables():
        made = Cluster()
        try:
            made.add(one=1)
            made.wait()
            made.add(two=1)
            made.wait()
            yield made
        finally:
            made.close()


@pytest.fixture
def engine(cluster: Cluster, results_folder: ResultsFolder, options: WorkerOptions) -> RayEngine:
    return RayEngine(machines=Machines(address=cluster.address, folder=results_folder.path), cache=options.cache, target=WORK)


def run(engine: RayEngine, configs: list[RunConfig], listener: Any = None, retry_failed: bool = False) -> Outcome:
    engine.open()
    try:
        options = WorkerOptions(cache=engine.cache)
        folder = ResultsFolder(engine.machines.folder)
        return engine.execute(folder, configs, None, options, listener or NullListener(), retry_failed=retry_failed)
    finally:
        engine.close()


def steps(run: RunFolder) -> list[int]:
    return [line.step for line in run.metrics()]


def starts(*folders: Path) -> dict[str, int]:
    """Run id -> how often it was begun."""
    lines = [line for folder in folders for path in folder.rglob("starts.txt") for line in path.read_text().splitlines()]
    return {run_id: sum(line.startswith(run_id) for line in lines) for run_id in {line.split()[0] for line in lines}}


@pytest.mark.parametrize("share", [True, False], ids=["one disk", "sent back"])
def test_runs_are_done_once_failures_are_not_retried_and_all_is_reused(
    engine: RayEngine, results_folder: ResultsFolder, share: bool, tmp_path: Path
) -> None:
    engine = dataclasses.replace(engine, share=share)
    configs = [*(configuration(seed) for seed in range(4)), configuration(9, raise_at=2)]
    recorder = Recorder()
    outcome = run(engine, configs, recorder)
    assert outcome.counts == {"finished": 4, "failed": 1} and outcome.exit_code == 1
    assert outcome.failed[0].error["type"] == "NonFinite", "a typed failure of the run is its result"
    assert set(starts(tmp_path).values()) == {1} and len(starts(tmp_path)) == 5
    assert not [message for _, message in recorder.messages if isinstance(message, Moved)]
    said = [message for seed, message in recorder.messages if seed == 2]
    assert isinstance(said[0], Started) and Step(3, 3, 1 / 3, 1e-3) in said
    assert verify(results_folder) == []
    assert not list((tmp_path / "cache").rglob("results.json")), "no copies are left on the nodes"
    again = execute(
        results_folder, configs, jobs=2, options=WorkerOptions(cache=tmp_path / "cache"), listener=NullListener(), target=WORK
    )
    assert again.counts == {"reused": 4, "failed-before": 1}
    assert run(engine, configs).counts == {"reused": 4, "failed-before": 1}


@pytest.mark.parametrize("share", [True, False], ids=["one disk", "sent back"])
def test_a_run_stopped_on_one_engine_goes_on_on_the_other(
    engine: RayEngine, results_folder: ResultsFolder, options: WorkerOptions, share: bool, tmp_path: Path
) -> None:
    engine = dataclasses.replace(engine, share=share)
    configs = [configuration(seed, steps=40, step_s=0.1) for seed in range(2)]

    for at, here in ((5, True), (12, False), (20, True)):
        recorder = Recorder(Interrupter(at))
        if here:
            ended = execute(results_folder, configs, jobs=2, options=options, listener=recorder, target=WORK)
        else:
            ended = run(engine, configs, recorder)
        assert ended.interrupted and ended.exit_code == 130
        assert {results_folder.run(config).status() for config in configs} == {"interrupted"}
    recorder = Recorder()
    assert run(engine, configs, recorder).counts == {"finished": 2}
    begun = [message.step for _, message in recorder.messages if isinstance(message, Started)]
    assert begun and min(begun) >= 5
    assert all(steps(results_folder.run(config)) == list(range(1, 41)) for config in configs), "no step lost, none twice"
    assert verify(results_folder) == []


@pytest.mark.parametrize("share", [True, False], ids=["one disk", "sent back"])
def test_a_node_that_dies_takes_no_run_with_it(
    cluster: Cluster, engine: RayEngine, results_folder: ResultsFolder, share: bool, tmp_path: Path
) -> None:
    engine = dataclasses.replace(engine, share=share)
    node = cluster.add(doomed=1)
    cluster.wait()
    configs = [configuration(seed, steps=80, step_s=0.1) for seed in range(3)]
    killed: list[int] = []
    begun: set[int] = set()

    def kill(config: RunConfig, message: Message) -> None:
        if isinstance(message, Step) and message.step >= 5:
            begun.add(config.seed)
        if len(begun) == 3 and not killed:
            killed.extend(node.pids())
            node.kill()

    recorder = Recorder(kill)
    outcome = run(dataclasses.replace(engine, jobs=3), configs, recorder)
    assert killed and outcome.counts == {"finished": 3}, outcome.failed
    moved = [seed for seed, message in recorder.messages if isinstance(message, Moved)]
    assert len(moved) == 1
    assert all(steps(results_folder.run(config)) == list(range(1, 81)) for config in configs)
    assert verify(results_folder) == []
    assert sum(starts(tmp_path).values()) == 4, "the run that was on that node was begun again, and no other"


def test_runs_go_where_they_are_pinned(engine: RayEngine, results_folder: ResultsFolder) -> None:
    asked = [("left", "one"), ("right", "two")]
    configs = [
        configuration(seed).model_copy(update={"arm": arm, "label": arm, "slug": arm}) for arm, _ in asked for seed in range(3)
    ]
    rules = Place.parse([f"{arm}={resource}" for arm, resource in asked])
    engine = dataclasses.replace(
        engine, machines=dataclasses.replace(engine.machines, place=rules), target="tests.execution.targets:tell_the_node"
    )
    assert run(engine, configs).counts == {"finished": 6}
    nodes: dict[str, set[str]] = {"left": set(), "right": set()}
    for config in configs:
        nodes[config.arm].add(str(results_folder.run(config).read_json("node.json")["node"]))
    assert len(nodes["left"]) == len(nodes["right"]) == 1 and nodes["left"] != nodes["right"]


def test_with_a_gpu_every_run_gets_a_process_of_its_own(
    cluster: Cluster, engine: RayEngine, results_folder: ResultsFolder
) -> None:
    """Ray lends the next run another GPU; what the process before had of the first one goes with it."""
    node = cluster.add(gpus=1)
    cluster.wait()
    try:
        engine = dataclasses.replace(
            engine,
            machines=dataclasses.replace(engine.machines, gpus=1.0),
            jobs=1,
            target="tests.execution.targets:tell_the_node",
        )
        configs = [configuration(seed) for seed in range(3)]
        assert run(engine, configs).counts == {"finished": 3}
        found = [results_folder.run(config).read_json("node.json") for config in configs]
        assert len({one["node"] for one in found}) == 1 and len({one["process"] for one in found}) == 3
    finally:
        node.kill()
        cluster.wait()


def test_a_run_that_its_node_has_no_memory_for_is_told_at_once_and_leaves_nothing(
    engine: RayEngine, results_folder: ResultsFolder, options: WorkerOptions
) -> None:
    """Ray, which keeps books on the whole of it, had room."""
    hungry = configuration(0).model_copy(update={"predicted": {"peak_mb": 1.0, "parts_mb": {"process": -1e9}}})
    impatient = dataclasses.replace(options, memory_patience_s=0.5)
    engine.open()
    try:
        began = time.monotonic()
        outcome = engine.execute(results_folder, [hungry, configuration(1)], None, impatient, NullListener(), retry_failed=False)
    finally:
        engine.close()
    assert {ending.config.seed: ending.how for ending in outcome.endings} == {0: "failed", 1: "finished"}
    assert outcome.failed[0].error["type"] == "PlanRefused" and time.monotonic() - began < 80, "no record is waited for"
    assert not results_folder.run(hungry).path.exists()


def test_what_the_cluster_cannot_do_is_refused_before_anything_starts(engine: RayEngine) -> None:
    big = configuration(0).model_copy(update={"predicted": {"peak_mb": 1e9}})
    engine.open()
    try:
        machines = engine.machines
        needs = machines.needs(big)
        assert needs["memory"] == pytest.approx(1e15 / 0.9) and machines.room(needs) == 0
        with pytest.raises(OptionError, match="no node has the resource 'thre'") as caught:
            Place.parse(["arm=thre"]).check([big], [name for node in machines.nodes for name in node.resources])
        assert "two" in caught.value.remedy
        assert machines.room(machines.needs(configuration(0))) == 2, "the head has no CPU for runs"
    finally:
        engine.close()


def test_from_outside_the_cluster(cluster: Cluster, engine: RayEngine, results_folder: ResultsFolder) -> None:
    outside = dataclasses.replace(
        engine, machines=dataclasses.replace(engine.machines, address=f"ray://127.0.0.1:{cluster.client_port}"), share=False
    )
    configs = [*(configuration(seed) for seed in range(3)), configuration(9, raise_at=2)]
    recorder = Recorder()
    assert run(outside, configs, recorder).counts == {"finished": 3, "failed": 1}
    assert any(isinstance(message, Step) for _, message in recorder.messages)
    assert verify(results_folder) == []


def test_a_head_whose_server_for_us_dies_is_asked_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    init, died = ray.init, []

    def dies_once(**options: Any) -> Any:  # as seen: the server's port was taken, and Ray looked at it when it was a zombie
        if died:
            return init(**options)
        died.append(options["address"])
        told = "Traceback (most recent call last):\n  File ...\npsutil.ZombieProcess: PID still exists but it's a zombie\n"
        raise ConnectionAbortedError(f"Initialization failure from server:\n{told}")

    monkeypatch.setattr(ray, "init", dies_once)
    ray.shutdown()
    try:
        assert connect(f"ray://127.0.0.1:{cluster.client_port}") and len(died) == 1
        assert sum(node["Alive"] for node in ray.nodes()) == 3
    finally:
        disconnect()


def test_a_program_without_the_token_is_not_let_in(engine: RayEngine) -> None:
    code = (
        "from peftlab.execution.ray.cluster import connect\nfrom peftlab.errors import PlanRefused\n"
        f"try:\n    connect({engine.machines.address!r})\nexcept PlanRefused as error:\n    print('refused', error.what)\n"
    )
    environment = {**os.environ, "RAY_AUTH_TOKEN": "another-token-0123456789abcdef0123456789"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.stdout.startswith("refused"), done.stderr[-2000:]


def test_the_lease_of_a_run_that_is_worked_on_as_a_copy_stays_here(
    cluster: Cluster, engine: RayEngine, results_folder: ResultsFolder
) -> None:
    engine = dataclasses.replace(engine, share=False)
    config = configuration(0, steps=20, step_s=0.1)
    seen: list[str] = []

    def look(_: RunConfig, message: Message) -> None:
        if isinstance(message, Step) and not seen:
            seen.append(results_folder.run(config).status())
            with pytest.raises(LeaseHeld):
                _lease_elsewhere(results_folder.run(config))

    assert run(engine, [config], Recorder(look)).counts == {"finished": 1}
    assert seen == ["running"]
    assert results_folder.run(config).holder() is None


def _lease_elsewhere(run: RunFolder) -> None:
    """As another thread does; the lease is re-entrant only within one."""
    caught: list[BaseException] = []

    def take() -> None:
        try:
            with run.lease():
                pass
        except LeaseHeld as error:
            caught.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]


def test_nobody_at_the_address_is_told_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(PlanRefused, match="nobody answers"):
        Machines(address="127.0.0.1:9", folder=tmp_path).open()
    assert time.monotonic() - began < 60
