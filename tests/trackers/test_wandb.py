"""W&B offline: what its files hold, and what leaves no trace in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.trackers.records import STEPS, left, record, results, store, track, tracked, train
from tests.trackers.stores import wandb_messages, wandb_runs

pytestmark = pytest.mark.slow
CANARY = "c0ffee15900d" + "a1b2c3d4" * 4  # formed as a key


@pytest.fixture(autouse=True)
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))


def files_with(text: str, folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_without_a_key_it_is_offline_and_grouped_by_study(tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, STEPS)
    assert tracked(run, "wandb") == []
    (found,) = wandb_runs(store(tmp_path))
    assert (found.name, found.group, found.status) == ("lora[rank=4]-3", "tracked", "0")
    assert found.more["project"] == "peftlab" and found.more["job"] == "evaluation"
    assert found.settings["adapter"] == {"name": "lora", "rank": 4} and found.settings["run_id"] == run.run_id
    listed = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", *map(str, (store(tmp_path) / "wandb").glob("offline-run-*"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Would sync 1 run" in listed.stdout + listed.stderr


def test_a_resumed_run_is_two_files_of_one_run(tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, 3)
    left(run, "wandb")
    tracking = track(run, {"name": "wandb", "project": "digits"})
    train(run, 4, STEPS)
    assert tracking.end("completed", results(run)) == []
    (found,) = wandb_runs(store(tmp_path))
    assert found.more["files"] == 2 and found.more["project"] == "digits"


def test_a_failed_run_ends_as_failed(tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, 2)
    assert tracked(run, "wandb", status="failed") == []
    assert [found.status for found in wandb_runs(store(tmp_path))] == ["1"]


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_mode_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_MODE", mode)
    run = record(tmp_path)
    train(run, 1, 2)
    assert tracked(run, "wandb") == []
    assert len(wandb_runs(store(tmp_path))) == (mode == "offline")
    assert files_with(CANARY, tmp_path) == []


def test_with_a_key_and_no_server_it_is_a_note_and_the_key_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # discard: nobody listens
    run = record(tmp_path)
    train(run, 1, 2)
    (note,) = tracked(run, {"name": "wandb", "timeout_s": 15.0})
    assert note.startswith("tracker wandb: ") and CANARY not in note
    assert files_with(CANARY, tmp_path) == []


def test_only_settings_and_metrics_are_written(tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, 2)
    assert tracked(run, "wandb") == []
    (file,) = (store(tmp_path) / "wandb").glob("offline-run-*/*.wandb")
    kinds = {message.WhichOneof("record_type") for message in wandb_messages(file)}
    assert {"run", "history", "exit"} <= kinds
    assert kinds.isdisjoint({"environment", "output", "output_raw", "stats", "artifact"})
    assert not any((file.parent / "files").glob("*")), "no requirements, no code, no metadata"
