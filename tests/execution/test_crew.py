"""A run in two processes, from the command to the record: as one, killed, continued, and refused where it cannot be had."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from peftlab.api.engines import Where
from peftlab.errors import OptionError, PlanRefused
from peftlab.execution.here import check_processes, check_sharding
from peftlab.execution.local import execute
from peftlab.execution.memory_guard import MemoryGuard
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import WorkerOptions
from peftlab.planning.machine import Machine
from peftlab.planning.plan import Plan, PlannedRun
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import RunFolder
from tests.contracts.tiny import make
from tests.execution.test_worker import config, folder, same_record


@pytest.fixture(scope="module", autouse=True)
def light_fork_server() -> None:
    """Here the real fork server is wanted, with everything preloaded."""


class Killer(NullListener):
    """Kills the run's first process once a checkpoint is there; remembers what the run consisted of."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.family = run, []

    def message(self, config: RunConfig, message: object) -> None:
        holder = self.run.holder()
        if holder is not None and not self.family and any(self.run.checkpoints.glob("*/step-*")):
            self.family = psutil.Process(holder.pid).children(recursive=True)
            os.kill(holder.pid, signal.SIGKILL)


def machine(device: str) -> Machine:
    return Machine(
        device=device, name="", cores=2, total_mb=8e3, available_mb=4e3, process_mb=300.0, product_flops_per_s=1e11,
        bandwidth_bytes_per_s=1e10, overhead_s=1e-5, efficiency=1.0, devices=(device,),
    )  # fmt: skip


def planned(run: RunConfig, trainable: int = 10) -> Plan:
    row = PlannedRun(
        label=run.label, backbone=run.backbone, task="digits", seed=0, fold=0, purpose="evaluation", config=run, steps=9,
        trainable=trainable, total_parameters=100, estimate=None, predicted_s=None,
    )  # fmt: skip
    return Plan(study="tiny", question="", tuning=(), runs=(row,), warnings=(), notes=(), machine={}, higher_is_better=True)


@pytest.mark.slow
def test_a_run_in_two_processes_gives_the_record_of_one_and_survives_a_kill(tmp_path: Path) -> None:
    wanted = config(str(make("vit", tmp_path / "vit")), epochs=3)
    one = WorkerOptions(cache=tmp_path / "cache", checkpoint_every_steps=3, prefix_cache_mb=0.0)
    two = dataclasses.replace(one, processes=2)
    alone, quiet, killed = (folder(tmp_path / name) for name in ("alone", "quiet", "killed"))
    for results, options in ((alone, one), (quiet, two)):
        outcome = execute(results, [wanted], jobs=1, options=options, listener=NullListener())
        assert [ending.how for ending in outcome.endings] == ["finished"], outcome.endings

    run = killed.run(wanted)
    killer = Killer(run)
    outcome = execute(killed, [wanted], jobs=1, options=two, listener=killer)
    assert [ending.how for ending in outcome.endings] == ["failed"] and killer.family
    until = time.monotonic() + 60
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in killer.family):
        assert time.monotonic() < until, "a process of the run outlived the first"
        time.sleep(0.1)
    outcome = execute(killed, [wanted], jobs=1, options=two, listener=NullListener(), retry_failed=True)
    assert [ending.how for ending in outcome.endings] == ["finished"], outcome.endings
    record = run.results()
    assert record is not None and record.resumed == 1
    same_record(quiet.run(wanted), run)

    first, second = (results.run(wanted) for results in (alone, quiet))
    losses = [[line.model_dump()["loss"] for line in made.metrics()] for made in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    weights = [load_file(next(made.adapter.glob("*.safetensors"))) for made in (first, second)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-3)
    assert json.loads((second.path / "environment.json").read_text())["processes"] == 2
    told = second.results()
    assert told is not None and told.time["processes"] == 2 and told.parameters == first.results().parameters  # pyright: ignore


@pytest.mark.slow
def test_a_run_whose_frozen_weights_are_shared_gives_the_same_record(tmp_path: Path) -> None:
    wanted = config(str(make("vit", tmp_path / "vit")), epochs=1)
    options = WorkerOptions(cache=tmp_path / "cache", processes=2)
    whole, shared = folder(tmp_path / "whole"), folder(tmp_path / "shared")
    for results, given in ((whole, options), (shared, dataclasses.replace(options, shard=True))):
        outcome = execute(results, [wanted], jobs=1, options=given, listener=NullListener())
        assert [ending.how for ending in outcome.endings] == ["finished"], outcome.endings
    same_record(whole.run(wanted), shared.run(wanted))
    record = shared.run(wanted).results()
    assert record is not None and record.time["sharded"]["blocks"] == 2
    assert any(note.startswith("not with sharded weights: ") for note in record.notes)
    full = config(wanted.backbone, "full", epochs=1)
    outcome = execute(shared, [full], jobs=1, options=dataclasses.replace(options, shard=True), listener=NullListener())
    assert "no frozen weights in blocks to shard" in outcome.endings[0].error["what"]


@pytest.mark.slow
def test_continued_in_another_number_of_processes_is_said(tmp_path: Path) -> None:
    wanted = config(str(make("vit", tmp_path / "vit")), epochs=3)
    one = WorkerOptions(cache=tmp_path / "cache", checkpoint_every_steps=3, prefix_cache_mb=0.0)
    results = folder(tmp_path / "results")
    run = results.run(wanted)
    execute(results, [wanted], jobs=1, options=one, listener=Killer(run))
    execute(results, [wanted], jobs=1, options=dataclasses.replace(one, processes=2), listener=NullListener(), retry_failed=True)
    record = run.results()
    assert record is not None and "continued with another number of processes: 1 -> 2" in record.flags


def test_what_cannot_have_several_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="one process"):
        Where(engine="ray", processes=2).make(tmp_path, tmp_path)
    tiny = planned(config("tiny"))
    for device, processes, there in (("mps", 2, "1"), ("cpu", 3, "2"), ("cuda", 2, "0")):
        with pytest.raises(PlanRefused, match=f"{processes} processes need a .* each, and there (is|are) {there}"):
            check_processes(processes, machine(device), tiny)
    check_processes(2, machine("cpu"), tiny)
    vit = config(str(make("vit", tmp_path / "vit")), {"name": "svd", "rank": 4})
    alone = vit.model_copy(update={"allocator": {"name": "increlora", "budget": {"ranks": 6}}})
    with pytest.raises(PlanRefused, match="increlora looks at single examples"):
        check_processes(2, machine("cpu"), planned(alone))
    with pytest.raises(PlanRefused, match="batch normalisation that trains looks at whole batches"):
        check_processes(2, machine("cpu"), planned(vit.model_copy(update={"predicted": {"moving": True}})))
    dora = vit.model_copy(update={"adapter": {"name": "lora", "dora": True}})
    with pytest.raises(PlanRefused, match="reads frozen weights when it is saved"):
        check_sharding(2, planned(dora))
    check_sharding(2, planned(config("tiny")))
    with pytest.raises(PlanRefused, match="nobody to share with"):
        check_sharding(1, planned(config("tiny")))
    with pytest.raises(PlanRefused, match="full trains all weights"):
        check_sharding(2, planned(config("tiny", "full"), trainable=100))
    quantized = config("tiny").model_copy(update={"quantizer": {"name": "groupwise"}, "backbone": vit.backbone})
    with pytest.raises(PlanRefused, match="lora has quantized weights"):
        check_sharding(2, planned(quantized))


def test_memory_is_needed_for_each_process_of_a_run_on_the_cpu() -> None:
    needy = config("tiny").model_copy(update={"predicted": {"peak_mb": 300.0, "parts_mb": {"process": 100.0}}})
    assert MemoryGuard("cpu", 1.0, 2).needed_mb(needy) == 500.0  # the second has its own libraries
    assert MemoryGuard("cpu", 1.0).needed_mb(needy) == 200.0


class Terminator(NullListener):
    """SIGTERM to every process of the run, as schedulers and `systemctl stop` send it."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.sent = run, False

    def message(self, config: RunConfig, message: object) -> None:
        holder = self.run.holder()
        if holder is not None and not self.sent and any(self.run.checkpoints.glob("*/step-*")):
            self.sent = True
            os.killpg(os.getpgid(holder.pid), signal.SIGTERM)


@pytest.mark.slow
def test_asked_to_stop_all_at_once_it_saves_and_goes_on(tmp_path: Path) -> None:
    wanted = config(str(make("vit", tmp_path / "vit")), epochs=3)
    options = WorkerOptions(cache=tmp_path / "cache", checkpoint_every_steps=3, processes=2)
    results = folder(tmp_path / "results")
    run = results.run(wanted)
    outcome = execute(results, [wanted], jobs=1, options=options, listener=Terminator(run))
    assert [ending.how for ending in outcome.endings] == ["interrupted"], outcome.endings
    assert run.error() is None
    outcome = execute(results, [wanted], jobs=1, options=options, listener=NullListener())
    record = run.results()
    assert record is not None and record.resumed == 1
