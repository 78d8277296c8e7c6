"""Trackers beside real runs: the results are what they are without, whatever becomes of the trackers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from peftlab.execution.local import execute
from peftlab.execution.progress import NullListener
from peftlab.execution.protocol import Noted, WorkerOptions
from peftlab.records.record import RunConfig
from peftlab.records.store import verify
from peftlab.registry import components
from tests.contracts.tiny import make
from tests.execution.test_local import Recorder
from tests.execution.test_worker import Killer, config, folder, same_record
from tests.faults import inject
from tests.trackers.records import STEPS, begun, record, results, store, track, train
from tests.trackers.stores import READERS, tensorboard_runs

CANARY = "c0ffee15900d" + "a1b2c3d4" * 4  # formed as a key of W&B


@pytest.fixture(scope="module", autouse=True)
def light_fork_server() -> None:
    """Here the real fork server is wanted, with everything preloaded."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    where = tmp_path_factory.mktemp("tiny-vit")
    make("vit", where)
    return str(where)


def run_notes(results_path: Path, wanted: RunConfig) -> list[str]:
    found = folder(results_path).run(wanted).results()
    assert found is not None
    return [note for note in found.notes if note.startswith("tracker ")]


@pytest.mark.slow
def test_results_are_bit_equal_with_and_without_and_no_key_is_in_them(
    tmp_path: Path, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    plain, shown = folder(tmp_path / "plain"), folder(tmp_path / "shown")
    wanted = config(backbone, {"name": "lora", "dropout": 0.1}, epochs=2)
    options = WorkerOptions(cache=tmp_path / "cache")
    execute(plain, [wanted], jobs=1, options=options, listener=NullListener())
    names = [*components("tracker")]
    options = WorkerOptions(cache=tmp_path / "cache", trackers=tuple({"name": name, "timeout_s": 900.0} for name in names))
    execute(shown, [wanted], jobs=1, options=options, listener=NullListener())
    run = shown.run(wanted)
    same_record(plain.run(wanted), run)
    assert run_notes(shown.path, wanted) == [] and verify(shown) == []
    outcome = run.results()
    assert outcome is not None
    journal = [(line.step, line.loss) for line in run.metrics() if line.split == "train"]
    for name in names:
        (found,) = READERS[name](store(shown.path))
        assert found.points["train/loss"] == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in journal]
        assert found.points["test/accuracy"] == [(outcome.steps, pytest.approx(outcome.metrics["test"]["accuracy"], rel=1e-6))]
        assert found.points["lora_adapters/trainable"] == [(outcome.steps, outcome.parameters["trainable"])]
    left = [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert left == []


@pytest.mark.slow
def test_trackers_that_cannot_write_cost_a_run_two_notes(tmp_path: Path, backbone: str) -> None:
    plain, broken = folder(tmp_path / "plain"), folder(tmp_path / "broken")
    wanted = config(backbone, epochs=1)
    execute(plain, [wanted], jobs=1, options=WorkerOptions(cache=tmp_path / "cache"), listener=NullListener())
    (broken.path / "trackers").write_text("not a folder")
    options = WorkerOptions(cache=tmp_path / "cache", trackers=("tensorboard", "unknown"))
    listener = Recorder()
    ended = execute(broken, [wanted], jobs=1, options=options, listener=listener)
    assert ended.exit_code == 0
    same_record(plain.run(wanted), broken.run(wanted))
    first, second = sorted(run_notes(broken.path, wanted))
    assert sorted(message.what for _, message in listener.messages if isinstance(message, Noted)) == [first, second]
    assert first.startswith("tracker tensorboard: ") and second.startswith("tracker unknown: ")


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_tracked_run(tmp_path: Path, backbone: str) -> None:
    quiet, stormy = folder(tmp_path / "quiet"), folder(tmp_path / "stormy")
    wanted = config(backbone)
    options = WorkerOptions(cache=tmp_path / "cache", checkpoint_every_steps=7)
    execute(quiet, [wanted], jobs=1, options=options, listener=NullListener())
    options = WorkerOptions(cache=tmp_path / "cache", checkpoint_every_steps=7, trackers=("tensorboard",))
    run = stormy.run(wanted)
    for step in (20, 60):
        killer = Killer(run, step)
        execute(stormy, [wanted], jobs=1, options=options, listener=killer, retry_failed=True)
        assert killer.killed
    execute(stormy, [wanted], jobs=1, options=options, listener=NullListener(), retry_failed=True)
    same_record(quiet.run(wanted), run)
    assert run_notes(stormy.path, wanted) == []
    (found,) = tensorboard_runs(store(stormy.path))
    journal = [(line.step, line.loss) for line in run.metrics() if line.split == "train"]
    assert found.points["train/loss"] == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in journal]


@pytest.mark.slow
def test_an_interrupted_run_does_not_wait_for_its_trackers(tmp_path: Path, backbone: str) -> None:
    cut = folder(tmp_path / "cut")
    wanted = config(backbone)
    options = WorkerOptions(cache=tmp_path / "cache", trackers=({"name": "tensorboard"},))
    fault = {"fault": "ask_to_stop", "step": 10, "number": int(signal.SIGINT), "starter": os.getpid()}
    inject.order(cut.path).write_text(json.dumps(fault))
    assert execute(cut, [wanted], jobs=1, options=options, listener=NullListener(), target="tests.faults.inject:main").interrupted
    assert not execute(cut, [wanted], jobs=1, options=options, listener=NullListener()).failed
    (found,) = tensorboard_runs(store(cut.path))
    steps = [step for step, _ in found.points["train/epoch"]]
    assert steps == [line.step for line in cut.run(wanted).metrics() if line.split == "train"]


def test_a_tracker_that_is_killed_is_a_note(tmp_path: Path) -> None:
    run = record(tmp_path)
    tracking = track(run, "tensorboard")
    ((_, process),) = begun(tracking).processes
    os.kill(process.pid, signal.SIGKILL)
    train(run, 1, STEPS)
    assert tracking.end("completed", results(run)) == [
        "tracker tensorboard: its process ended with code -9; the run went on without it"
    ]


def test_a_signal_to_all_processes_of_a_run_leaves_the_tracker_at_work(tmp_path: Path) -> None:
    run = record(tmp_path)
    tracking = track(run, "tensorboard")
    ((_, process),) = begun(tracking).processes
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    train(run, 1, STEPS)
    assert tracking.end("completed", results(run)) == []
    (found,) = tensorboard_runs(store(tmp_path))
    assert [step for step, _ in found.points["train/epoch"]] == [*range(1, STEPS + 1)]


def test_a_tracker_that_hangs_where_no_alarm_reaches_it_is_ended(tmp_path: Path) -> None:
    run = record(tmp_path)
    tracking = track(run, {"name": "tensorboard", "timeout_s": 0.5})
    ((_, process),) = tracking.processes
    os.kill(process.pid, signal.SIGSTOP)
    (note,) = tracking.end("completed", results(run))
    assert note == "tracker tensorboard: did not answer within 0.5 s; the run went on without it"
    assert process.returncode == -signal.SIGKILL


def test_one_that_comes_late_undoes_nothing(tmp_path: Path) -> None:
    """A run that was stopped before its tracker was at work: the process may be slow and come after that of the resumed run."""
    run = record(tmp_path)
    train(run, 1, STEPS)
    late = track(run, "tensorboard")
    ((_, process),) = late.processes
    os.kill(process.pid, signal.SIGSTOP)
    late.leave("interrupted")
    assert track(run, "tensorboard").end("completed", results(run)) == []
    before = sorted(store(tmp_path).rglob("events.*"))
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait() == 0
    assert sorted(store(tmp_path).rglob("events.*")) == before


def test_one_that_fails_does_not_keep_the_others(tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, STEPS)
    (note,) = track(run, {"name": "mlflow", "timeout_s": 0.01}, "tensorboard").end("completed", results(run))
    assert note.startswith("tracker mlflow: ")
    (found,) = tensorboard_runs(store(tmp_path))
    assert found.points["test/accuracy"] == [(STEPS, 0.5)]


def test_a_damaged_journal_is_a_note_of_the_tracker(tmp_path: Path) -> None:
    run = record(tmp_path)
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "epoch": 1.0, "split": "train"}\n')
    (note,) = track(run, "tensorboard").end("completed", results(run))
    assert "the line is damaged" in note
