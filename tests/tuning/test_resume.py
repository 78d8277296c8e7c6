"""Tuning with real runs, killed and run again: the same trials, the same choice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from ruamel.yaml import YAML

from tests.tuning import studies


@pytest.fixture
def file(backbone: str, tmp_path: Path) -> Path:
    tune = {**studies.TUNE, "trials": 4, "seeds": [100], "adapter.rank": {"low": 1, "high": 4}}
    study = studies.study(backbone, tune=tune, train={"max_steps": 2, "batch_size": 16})
    path = tmp_path / "tuned.yaml"
    with path.open("w") as stream:
        YAML().dump(study.model_dump(mode="json", exclude_none=True), stream)
    return path


def start(file: Path, output: Path, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "peftlab", "run", str(file), "--output", str(output), "--jobs", "2"]
    environment = {**os.environ, "PEFTLAB_CACHE": str(cache)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def tuned(folder: Path) -> Any:
    """``tuning.json`` without times."""
    form = json.loads((folder / "tuned" / "tuning.json").read_text())
    for entry in (*form["trials"], *form["chosen"]):
        del entry["time_s"]
    return form


@pytest.mark.slow
def test_killed_and_run_again_the_tuning_ends_the_same(file: Path, cache: Path, tmp_path: Path) -> None:
    whole = start(file, tmp_path / "whole", cache)
    _, said = whole.communicate()
    assert whole.returncode == 0, said
    assert "tuning, lora: learning_rate = " in said and "full: has no adapter.rank; its trials were over learning_rate." in said
    for ended in (1, 5):  # in the first round, and in the second
        process = start(file, tmp_path / "cut", cache)
        while len(list((tmp_path / "cut").glob("tuned/tuning/*/*/results.json"))) < ended:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        for child in family:
            if child.is_running():
                child.kill()
        process.communicate()
    last = start(file, tmp_path / "cut", cache)
    assert last.communicate() and last.returncode == 0
    assert tuned(tmp_path / "cut") == tuned(tmp_path / "whole")
    assert {key: len([run for run in tuned(tmp_path / "cut")["trials"] if run["label"] == key]) for key in ("full", "lora")} == {
        "full": 4,
        "lora": 4,
    }
    url = f"sqlite:///{tmp_path / 'cut' / 'tuned' / 'tuning' / 'optuna.db'}"
    for name in optuna.get_all_study_names(url):
        kept = optuna.load_study(study_name=name, storage=url)
        runs = [run for run in tuned(tmp_path / "cut")["trials"] if run["label"] == kept.user_attrs["label"]]
        assert [(trial.params, trial.value) for trial in kept.trials] == [(run["values"], run["value"]) for run in runs]
    page = (tmp_path / "cut" / "tuned" / "report" / "index.html").read_text()
    assert "drawn by the tree-structured Parzen estimator" in page and "has no adapter.rank" in page


@pytest.mark.slow
def test_a_study_changed_while_it_runs_loses_nothing_and_ends_as_the_changed_one(file: Path, cache: Path, tmp_path: Path) -> None:
    output = tmp_path / "results"
    first = start(file, output, cache)
    while not list(output.glob("tuned/tuning/*/*/metrics.jsonl")):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.02)
    family = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in family:  # held up, so that it is the first that ends last
        process.suspend()
    study = YAML().load(file.read_text())
    del study["arms"]["full"]
    study["arms"]["lora"]["adapter"] = {"name": "lora", "rank": 2}
    study["analysis"]["baseline"] = "lora"
    del study["tune"]
    with file.open("w") as stream:
        YAML().dump(study, stream)
    second = start(file, output, cache)
    said = [second.communicate()[1]]
    for process in reversed(family):
        with suppress(psutil.NoSuchProcess):
            process.resume()
    said.append(first.communicate()[1])
    assert (second.returncode, first.returncode) == (0, 0), said
    assert "another process has changed the study" in said[1] and "another process" not in said[0]
    plan = json.loads((output / "tuned" / "plan.json").read_text())
    assert {row["label"] for row in plan["runs"]} == {"lora"} and not (output / "tuned" / "tuning.json").exists()
    assert len(list(output.glob("tuned/runs/*/*/results.json"))) == 3, "two arms of the first, one of the second"
    shown = subprocess.run([sys.executable, "-m", "peftlab", "verify", str(output / "tuned")], capture_output=True, text=True)
    assert shown.returncode == 0 and "the study has no arm 'full' any more" in shown.stdout, shown.stdout
