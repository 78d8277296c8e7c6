from __future__ import annotations

from pathlib import Path

from tests.trackers.records import STEPS, config, left, record, results, store, track, tracked, train
from tests.trackers.stores import tensorboard_runs


def test_a_log_directory_a_run_with_its_settings(tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, STEPS)
    assert tracked(run, "tensorboard") == []
    (found,) = tensorboard_runs(store(tmp_path))
    assert found.name == f"lora.rank-4/seed-3-{run.run_id[:8]}"
    assert found.more["plugin"] == "hparams"
    assert found.settings["adapter"] == {"name": "lora", "rank": 4} and found.settings["label"] == "lora[rank=4]"
    assert [step for step, _ in found.points["train/epoch"]] == [*range(1, STEPS + 1)]


def test_a_record_cut_in_half_is_written_again(tmp_path: Path) -> None:
    """What a crash of the machine leaves at the end of an event file."""
    run = record(tmp_path)
    train(run, 1, 4)
    left(run, "tensorboard")
    assert tracked(run, "tensorboard", status="failed") == []  # waits for the one before
    files = sorted((store(tmp_path) / "tensorboard").rglob("events*"), key=lambda path: -path.stat().st_size)
    files[0].write_bytes(files[0].read_bytes()[:-5])
    tracking = track(run, "tensorboard")
    train(run, 5, STEPS)
    assert tracking.end("completed", results(run)) == []
    written = {}
    for file in files[0].parent.iterdir():
        for step, _ in _points(file):
            written[step] = written.get(step, 0) + 1
    assert written == dict.fromkeys(range(2, STEPS + 1, 2), 1)


def _points(file: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    values = [(event.step, value) for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    return [(step, value.tensor.float_val[0]) for step, value in values if value.tag == "validation/accuracy"]


def test_two_seeds_are_two_directories(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = record(tmp_path, config(seed))
        train(run, 1, 2)
        assert tracked(run, "tensorboard") == []
    assert [run.name.split("-")[2] for run in tensorboard_runs(store(tmp_path))] == ["0", "1"]
