from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import MissingExtra, OptionError, StudyError
from peftlab.trackers.contract import Notebook, TrackedRun, alone, flat, trackers_of
from tests.trackers.records import config


@pytest.mark.parametrize(
    ("specs", "what", "where"),
    [
        (["tensorbord"], "unknown tracker 'tensorbord'", "trackers[0]"),
        (["tensorboard", {"name": "mlflow", "uri": "x"}], "no option 'uri'", "trackers[1].uri"),
        ([{"name": "wandb", "project": "a/b"}], "no project name", "trackers[0].project"),
        ([{"name": "mlflow", "tracking_uri": 5}], "must be text", "trackers[0].tracking_uri"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(specs: list[Any], what: str, where: str) -> None:
    with pytest.raises(OptionError) as caught:
        trackers_of(specs)
    assert what in str(caught.value) and caught.value.where == where and caught.value.remedy


def test_a_tracker_is_named_once() -> None:
    with pytest.raises(StudyError, match="named twice"):
        trackers_of(["mlflow", {"name": "mlflow", "tracking_uri": "http://127.0.0.1:5000"}])


def test_a_plan_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """With the package blocked as if it were not there; torch is not even imported."""
    study = tmp_path / "study.yaml"
    arms = "arms: {lora: {adapter: lora}}"
    study.write_text(f"study: s\nbackbone: nowhere\ntask: {{kind: none}}\nseeds: [0]\n{arms}\ntrackers: [tensorboard, wandb]\n")
    code = (
        "import sys; sys.modules['wandb'] = None\nimport peftlab\nfrom peftlab.errors import MissingExtra\n"
        f"try: peftlab.plan({str(study)!r})\n"
        "except MissingExtra as e: print(e.where, '|', e.remedy, '|', e.exit_code, '|', 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    where, remedy, *rest = done.stdout.split(" | ")
    assert (where, *rest) == ("trackers[1]", "8", "False\n") and "--editable '.[wandb]'" in remedy, done.stderr


def test_the_error_of_a_missing_extra_has_its_exit_code() -> None:
    assert MissingExtra("x").exit_code == 8


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    def name(**changes: Any) -> str:
        return TrackedRun(config=config(**changes), folder=tmp_path).name("/")

    assert name() == "lora[rank=4]/3"
    assert name(fold=2) == "lora[rank=4]/3/fold2"
    assert name(purpose="tuning", tuned={"learning_rate": 0.1}) == "lora[rank=4]/3/learning_rate=0.1"
    assert name(tuned={"learning_rate": 0.1}) == "lora[rank=4]/3"  # chosen for all: it tells nothing apart


def test_settings_are_what_the_id_is_made_of(tmp_path: Path) -> None:
    run = TrackedRun(config=config(predicted={"peak_mb": 3.0}), folder=tmp_path)
    assert run.settings() == run.config.identity() and "predicted" not in run.settings()
    assert run.id == run.config.run_id
    assert TrackedRun(config=run.config, folder=tmp_path, attempt="cpu").id == f"{run.id}-cpu"


def test_flat_settings() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [1, "x"]}, "e": None}
    assert flat(nested) == {"a.b.c": 1, "a.d": '[1, "x"]', "e": None}


def test_a_notebook_that_is_damaged_is_empty(tmp_path: Path) -> None:
    notebook = Notebook(TrackedRun(config=config(), folder=tmp_path), "wandb")
    assert notebook.read() == {}
    notebook.write({"id": "x"})
    assert notebook.read() == {"id": "x"}
    notebook.path.write_text('{"id"')
    assert notebook.read() == {}


def _count(path: Path, times: int) -> None:
    for _ in range(times):
        with alone(path.with_suffix(".lock")):
            path.write_text(json.dumps(json.loads(path.read_text()) + 1))


def test_alone_is_alone(tmp_path: Path) -> None:
    path = tmp_path / "count.json"
    path.write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(path, 200)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert json.loads(path.read_text()) == 600
