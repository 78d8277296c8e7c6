"""MLflow's store, read back with MLflow's own client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trackers.records import STEPS, config, record, store, tracked, train
from tests.trackers.stores import mlflow_runs

pytestmark = pytest.mark.slow


def test_an_experiment_a_study_and_a_run_a_run(tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, STEPS)
    assert tracked(run, "mlflow") == []
    (found,) = mlflow_runs(store(tmp_path))
    assert (found.name, found.group, found.status) == ("lora[rank=4]/3", "tracked", "FINISHED")
    assert found.settings["adapter.rank"] == "4" and found.settings["train.learning_rate"] == "0.01"
    assert found.settings["task.data.name"] == "digits" and found.settings["seed"] == "3"
    tags = found.more["tags"]
    assert {key: tags[key] for key in ("label", "run_id", "purpose", "fold", "status")} == {
        "label": "lora[rank=4]", "run_id": run.run_id, "purpose": "evaluation", "fold": "0", "status": "completed",
    }  # fmt: skip
    assert found.more["artifacts"].startswith("file://") and str(tmp_path) in found.more["artifacts"]
    assert not (store(tmp_path) / "mlflow" / "artifacts").exists(), "nothing is uploaded"
    assert not (store(tmp_path) / "mlflow.unfinished").exists()


def test_how_a_run_ended_is_its_status_and_a_renamed_arm_is_no_new_run(tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, 2)
    assert tracked(run, "mlflow", status="failed") == []
    assert [found.status for found in mlflow_runs(store(tmp_path))] == ["FAILED"]
    assert tracked(run, "mlflow", status="interrupted") == []
    assert [found.status for found in mlflow_runs(store(tmp_path))] == ["KILLED"]
    assert tracked(run, "mlflow", status="diverged", metrics={}) == []
    (found,) = mlflow_runs(store(tmp_path))
    assert found.status == "FINISHED" and found.more["tags"]["status"] == "diverged"
    assert [step for step, _ in found.points["train/epoch"]] == [1, 2]


def test_a_store_that_was_deleted_is_made_anew_from_the_journal(tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, STEPS)
    assert tracked(run, "mlflow") == []
    (store(tmp_path) / "mlflow.db").unlink()
    assert tracked(run, "mlflow") == []
    (found,) = mlflow_runs(store(tmp_path))
    assert [step for step, _ in found.points["train/epoch"]] == [*range(1, STEPS + 1)]


def test_what_was_killed_while_it_made_the_store_left_nothing_in_the_way(tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, 2)
    store(tmp_path).mkdir()
    (store(tmp_path) / "mlflow.unfinished").write_bytes(b"SQLite format 3\x00 and no more")
    assert tracked(run, "mlflow") == []
    assert len(mlflow_runs(store(tmp_path))) == 1


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in taken:
            connection.close()


def test_a_server_that_never_answers_is_given_up_after_its_time(tmp_path: Path, silent_server: str) -> None:
    run = record(tmp_path, config(seed=9))
    train(run, 1, 2)
    began = time.monotonic()
    (note,) = tracked(run, {"name": "mlflow", "tracking_uri": silent_server, "timeout_s": 6.0})
    assert note == "tracker mlflow: did not answer within 6 s; the run went on without it"
    assert time.monotonic() - began < 100, "MLflow alone would try for minutes"


def test_a_disk_that_is_full_is_a_note(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs Linux's /dev/full")
    run = record(tmp_path)
    train(run, 1, 2)
    store(tmp_path).mkdir()
    (store(tmp_path) / "mlflow.db").symlink_to(full)
    (note,) = tracked(run, "mlflow")
    assert note.startswith("tracker mlflow: ") and "the run went on without it" in note
