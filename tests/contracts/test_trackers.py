"""Every tracker: a run is there whole, once and under one id, whatever happened on the way; nothing comes back but notes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import MissingExtra, OptionError
from peftlab.registry import component, components, create
from peftlab.trackers import contract
from peftlab.trackers.contract import Tracker
from tests.trackers.records import STEPS, begun, config, left, loss, record, results, store, track, tracked, train
from tests.trackers.stores import BEGUN, READERS

ROOT = Path(__file__).parents[2]
NAMES = sorted(components("tracker"))
each = pytest.mark.parametrize("name", NAMES)


def test_there_are_trackers() -> None:
    assert {"mlflow", "tensorboard", "wandb"} <= set(NAMES)
    assert set(READERS) == set(BEGUN) == set(NAMES), (
        "say in tests/trackers/stores.py how its store is read, and when it has begun"
    )


@each
def test_it_says_what_it_is_and_has_an_extra_of_its_name_if_it_needs_one(name: str) -> None:
    made: Tracker = create("tracker", name)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (name in project["optional-dependencies"]) == bool(made.modules)
    assert made.summary() and made.citation.startswith("@")
    assert made.options()["timeout_s"] == 120.0
    installed = " ".join(project["dependencies"])
    assert not any(re.search(rf"\b{module}\b", installed) for module in made.modules), "no part of the default install"


@each
@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_time_out_is_above_zero(name: str, seconds: float) -> None:
    with pytest.raises(OptionError, match="above 0") as caught:
        create("tracker", {"name": name, "timeout_s": seconds}, where="trackers[0]")
    assert caught.value.where == "trackers[0].timeout_s"


@pytest.mark.parametrize("name", [name for name in NAMES if component("tracker", name).modules])  # pyright: ignore[reportAttributeAccessIssue]
def test_what_is_not_installed_is_told_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = component("tracker", name).modules[0]  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(contract.importlib.util.sys.modules, module, None)  # as Python marks what must not be imported
    with pytest.raises(MissingExtra) as caught:
        create("tracker", name).require("trackers[0]")
    assert module in caught.value.what and f"--editable '.[{name}]'" in caught.value.remedy
    assert caught.value.where == "trackers[0]"


def expected() -> dict[str, list[tuple[int, float]]]:
    """What the journal of ``records.train`` says; the loss of step 2 is not finite and in no store."""
    steps, evaluated = range(1, STEPS + 1), range(2, STEPS + 1, 2)
    return {
        "train/loss": [(step, loss(step)) for step in steps if step != 2],
        "train/learning_rate": [(step, 0.01 * step) for step in steps],
        "train/epoch": [(step, step / 3) for step in steps],
        "validation/accuracy": [(step, step / 10) for step in evaluated],
        "validation/loss": [(step, loss(step)) for step in evaluated],
    }


def assert_whole(name: str, study: Path) -> None:
    (found,) = READERS[name](store(study))
    for metric, points in expected().items():
        assert [step for step, _ in found.points[metric]] == [step for step, _ in points], metric
        assert [value for _, value in found.points[metric]] == pytest.approx([value for _, value in points], rel=1e-6)
    assert found.points["test/accuracy"] == [(STEPS, 0.5)]
    assert found.points["lora_rank/max"] == [(2, 4), (4, 6), (STEPS, 6)]
    assert all(len({step for step, _ in points}) == len(points) for points in found.points.values()), "a step is there twice"
    for group in ("lora_adapters", "lora_rank", "efficiency", "verification", "training_efficiency"):
        assert any(metric.startswith(f"{group}/") for metric in found.points), group


@pytest.mark.slow
@each
def test_a_run_is_there_whole(name: str, tmp_path: Path) -> None:
    run = record(tmp_path)
    tracking = track(run, name)
    train(run, 1, STEPS)
    assert tracking.end("completed", results(run)) == []
    assert_whole(name, tmp_path)


@pytest.mark.slow
@each
def test_a_resumed_run_goes_on_under_its_id_and_no_step_is_there_twice(name: str, tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, 5)
    left(run, name)
    run.truncate_metrics(3)  # back to the checkpoint; what comes again is the same
    tracking = track(run, name)
    train(run, 4, STEPS)
    assert tracking.end("completed", results(run, resumed=1)) == []
    assert_whole(name, tmp_path)
    assert tracked(run, name, resumed=1) == []  # killed between the last word to the tracker and results.json
    assert_whole(name, tmp_path)


@pytest.mark.slow
@each
def test_a_run_whose_process_is_gone_is_there_as_far_as_its_journal(name: str, tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, 4)
    tracking = begun(track(run, name))
    for _, process in tracking.processes:
        assert process.stdin is not None
        process.stdin.close()  # what the system does for a process that was killed
        assert process.wait() == 0
    (found,) = READERS[name](store(tmp_path))
    assert [step for step, _ in found.points["train/epoch"]] == [1, 2, 3, 4]


@pytest.mark.slow
@each
def test_runs_at_the_same_time_have_a_store_in_common(name: str, tmp_path: Path) -> None:
    runs = [record(tmp_path, config(seed)) for seed in (0, 1)]
    followed = [(run, track(run, name)) for run in runs]
    for run, _ in followed:
        train(run, 1, STEPS)
    notes = [tracking.end("completed", results(run)) for run, tracking in followed]
    assert notes == [[], []]
    found = READERS[name](store(tmp_path))
    assert len(found) == len({run.name for run in found}) == 2
    assert all([step for step, _ in run.points["train/epoch"]] == [*range(1, STEPS + 1)] for run in found)


@pytest.mark.slow
@each
def test_what_was_tried_again_in_another_way_is_a_run_of_its_own(name: str, tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, 3)
    assert tracked(run, name, status="failed") == []
    run.truncate_metrics(0)
    train(run, 1, STEPS)
    assert tracked(run, name, attempt="cpu-float32-8") == []
    first, second = READERS[name](store(tmp_path))
    assert [step for step, _ in first.points["train/epoch"]] == [1, 2, 3]
    assert [step for step, _ in second.points["train/epoch"]] == [*range(1, STEPS + 1)]
    assert second.name.endswith("cpu-float32-8")


@pytest.mark.slow
@each
def test_a_store_that_cannot_be_written_is_a_note(name: str, tmp_path: Path) -> None:
    run = record(tmp_path)
    train(run, 1, 2)
    store(tmp_path).write_text("not a folder")
    (note,) = tracked(run, name)
    assert note.startswith(f"tracker {name}: ") and "the run went on without it" in note and "\n" not in note


@each
def test_its_options_are_those_of_the_study(name: str) -> None:
    made: Any = create("tracker", {"name": name, "timeout_s": 5.0})
    assert made.timeout_s == 5.0 and create("tracker", made.spec()) == made
