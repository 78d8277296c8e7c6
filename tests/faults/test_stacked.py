"""Runs that share a process: whatever becomes of one, or of the process, each ends as one that was left alone, to the bit."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from peftlab.execution.outcome import Outcome
from peftlab.planning.stacking import Stacking
from peftlab.records.record import RunConfig
from peftlab.records.store import verify
from peftlab.training.spent import ALONE
from tests.faults.conftest import Ground, saved

KINDS = ("lora", "adalora", "lora", "lora")


def configs(ground: Ground) -> list[RunConfig]:
    return [ground.config(kind, seed) for seed, kind in enumerate(KINDS, start=10)]  # of no other test, which may change more


def stacked(ground: Ground, runs: list[RunConfig], **more: Any) -> Outcome:
    return ground.run(*runs, stacking=Stacking(9), stack_target="tests.faults.inject:stack_main", **more)


def shared(ground: Ground, config: RunConfig) -> dict[str, Any]:
    results = ground.here.run(config).results()
    assert results is not None
    return results.time.get("stacked", {})


def all_well(ground: Ground, runs: list[RunConfig]) -> None:
    for config in runs:
        ground.same(config)
    assert verify(ground.here) == []


def test_every_run_ends_as_if_left_alone(ground: Ground) -> None:
    runs = configs(ground)
    assert stacked(ground, runs).counts == {"finished": 4}
    all_well(ground, runs)
    for config in runs:
        about = shared(ground, config)
        assert about["runs"] == 4 and about["joint_passes"] == about["passes"] == 32, "16 steps of two micro-batches"
        results = ground.here.run(config).results()
        assert results is not None and "train_s" not in results.time and "measured_peak_mb" not in results.memory
        assert results.time["shared"]["train_s"] > 0 and "memory and time are those of all" in " ".join(results.notes)


def went_on_alone(ground: Ground, runs: list[RunConfig]) -> None:
    """What they took until then was taken together, so that nothing of it is one run's own."""
    for config in runs:
        assert shared(ground, config)["why_alone"] == ALONE and shared(ground, config)["runs"] == len(runs)
        results = ground.here.run(config).results()
        assert results is not None and "measured_peak_mb" not in results.memory
        assert not {"train_s", "total_s", "cpu_s", "samples_per_s"} & set(results.time)
        took = results.time["shared"]
        assert 0 < took["part_s"] < took["total_s"] and took["train_s"] > 0
        assert any(note.startswith("computed together") and note.endswith(ALONE) for note in results.notes)
        assert ground.here.run(config).read_json("efficiency.json") == {"stacked": results.time["stacked"]}


SLOW = pytest.mark.slow


@pytest.mark.parametrize("step", [pytest.param(1, marks=SLOW), 7, pytest.param(16, marks=SLOW)])
def test_01_sigkill_and_the_others_go_on_unstacked(ground: Ground, step: int) -> None:
    runs = configs(ground)
    outcome = stacked(ground, runs, fault={"fault": "kill", "step": step})
    assert outcome.counts == {"finished": 4}, "nobody is lost, and nobody is to be started again by hand"
    all_well(ground, runs)
    resumed = [ground.here.run(config).results().resumed for config in runs]  # pyright: ignore
    assert resumed == [0 if step == 1 else 1] * 4, "from its own checkpoint"
    if step == 1:
        assert not any(shared(ground, config) for config in runs), "nothing of what it took is in any record"
    else:
        went_on_alone(ground, runs)


@SLOW
def test_02_sigkill_while_a_checkpoint_is_written(ground: Ground) -> None:
    runs = configs(ground)
    assert stacked(ground, runs, fault={"fault": "kill_in_weights", "number": 6}).counts == {"finished": 4}
    all_well(ground, runs)


def test_30_a_power_cut_loses_no_line_that_a_checkpoint_relies_on(ground: Ground) -> None:
    runs = configs(ground)
    assert stacked(ground, runs, fault={"fault": "power_cut", "step": 8}).counts == {"finished": 4}
    all_well(ground, runs)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=SLOW)])
def test_asked_to_stop_all_save_and_go_on_later(ground: Ground, number: int) -> None:
    runs = configs(ground)
    fault = {"fault": "ask_to_stop", "step": 5, "number": int(number), "starter": os.getpid()}
    outcome = stacked(ground, runs, fault=fault)
    assert outcome.counts == {"interrupted": 4} and outcome.interrupted
    assert all(saved(ground.here.run(config))[-1] in (4, 5) for config in runs)
    assert stacked(ground, runs).counts == {"finished": 4}
    all_well(ground, runs)


def test_a_process_that_is_ended_from_outside_is_not_started_again(ground: Ground) -> None:
    runs = configs(ground)[:2]
    outcome = stacked(ground, runs, fault={"fault": "end_from_outside", "step": 5})
    assert outcome.counts == {"interrupted": 2}, "as a run is that has its process for itself"
    assert stacked(ground, runs).counts == {"finished": 2}
    all_well(ground, runs)


@SLOW
def test_a_hang_ends_the_process_and_the_runs_go_on_unstacked(ground: Ground) -> None:
    """Nobody can say whose fault it was; one that hangs by itself is ended by its own limit (test_shared.py)."""
    runs = [
        ground.config("lora", seed, on_hang="fail", hang_limit_s=20.0) for seed in (20, 21)
    ]  # of no other test: it is in no run id
    assert stacked(ground, runs, fault={"fault": "hang", "step": 7, "seconds": 600.0}).counts == {"finished": 2}
    all_well(ground, runs)
    went_on_alone(ground, runs)


def test_22_one_run_diverges_and_the_others_do_not_notice(ground: Ground) -> None:
    runs = [ground.config("lora", 10), ground.config("lora", 11, learning_rate=1e30, clip_norm=None), ground.config("lora", 12)]
    assert stacked(ground, runs).counts == {"finished": 2, "diverged": 1}
    all_well(ground, [runs[0], runs[2]])
    assert shared(ground, runs[0])["joint_passes"] == 32
    diverged = ground.here.run(runs[1]).results()
    assert diverged is not None and diverged.status == "diverged" and not diverged.metrics


def test_memory_runs_out_in_a_joint_pass(ground: Ground) -> None:
    runs = configs(ground)
    assert stacked(ground, runs, fault={"fault": "joint_pass_fails", "number": 9}).counts == {"finished": 4}
    all_well(ground, runs)
    went_on_alone(ground, runs)


@SLOW
def test_a_run_that_cannot_be_computed_with_the_others_is_computed_beside_them(ground: Ground) -> None:
    """PiSSA moves a part of the frozen weights; a plan says so, and an engine that is not told finds out."""
    runs = [ground.config("lora", 10), ground.config("pissa", 10), ground.config("lora", 11)]
    assert [bool(Stacking(9).why_not(config)) for config in runs] == [False, True, False]
    told = Stacking(9, known={config.run_id: "" for config in runs})
    outcome = ground.run(*runs, stacking=told, stack_target="tests.faults.inject:stack_main")
    assert outcome.counts == {"finished": 3}
    all_well(ground, runs)
    assert "frozen weights differ" in shared(ground, runs[1])["why_alone"]
    assert shared(ground, runs[2])["joint_passes"] == 32
