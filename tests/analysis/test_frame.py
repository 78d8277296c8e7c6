"""The tidy frame, from good folders and from bad ones."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from peftlab.analysis.frame import configurations, load_frame
from peftlab.analysis.planned import covers, task_names
from peftlab.errors import RecordError
from peftlab.study.task_key import task_key
from tests.report.fixtures import STUDY, Options, write_results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path)


def one_run(folder: Path, slug: str = "full") -> Path:
    return sorted((folder / "runs" / slug).iterdir())[0]


def test_planned_runs_without_a_trace_are_missing(tmp_path: Path) -> None:
    frame = load_frame(write_results(tmp_path, Options(skip=(("full", 1), ("lora-all", 0)), failed=(), diverged=())))
    assert [(p.kind, p.label, p.seed) for p in frame.problems] == [("missing", "full", 1), ("missing", "lora-all", 0)]


def test_a_refused_arm_is_not_called_missing(folder: Path) -> None:
    shutil.rmtree(folder / "runs" / "bitfit")
    about = {"label": "bitfit", "backbone": "bundled:vit-nano", "task": task_key(STUDY["task"]), "purpose": "evaluation"}
    entry = {**about, "refusal": "needs 90 GB"}
    (folder / "plan.json").write_text(json.dumps({"runs": [entry]}))
    kinds = [(p.kind, p.what) for p in load_frame(folder).problems if p.label == "bitfit"]
    assert kinds == [("refused", "needs 90 GB")]


def test_what_is_refused_or_unfinished_on_one_task_says_nothing_of_another(tmp_path: Path) -> None:
    """Full fine-tuning may fit at 32 pixels and not at 64, and a run that was stopped there is no trace of the one here."""
    small, large = ({**STUDY["task"], "image_size": size} for size in (32, 64))
    study = {**STUDY, "matrix": {"task": [small, large]}}
    folder = write_results(tmp_path, Options(study=study, failed=(), diverged=()))
    of = {
        (config["task"]["image_size"], config["label"], config["seed"]): path.parent
        for path in folder.glob("runs/*/*/config.json")
        if (config := json.loads(path.read_text()))
    }
    entry = {
        "label": "full",
        "backbone": "bundled:vit-nano",
        "task": task_key(large),
        "purpose": "evaluation",
        "refusal": "90 GB",
    }
    (folder / "plan.json").write_text(json.dumps({"runs": [entry]}))
    (of[32, "bitfit", 2] / "results.json").unlink()
    for key in [(32, "full", 4), (64, "bitfit", 2), *((64, "full", seed) for seed in range(5))]:
        shutil.rmtree(of[key])
    problems = load_frame(folder).problems
    assert sorted((p.kind, p.label, p.seed, p.task.rpartition("image_size=")[2]) for p in problems if p.kind != "refused") == [
        ("missing", "bitfit", 2, "64]"), ("missing", "full", 4, "32]"), ("unfinished", "bitfit", 2, ""),
    ]  # fmt: skip
    assert [(p.label, p.task.rpartition("image_size=")[2]) for p in problems if p.kind == "refused"] == [("full", "64]")]


def test_a_fold_that_is_unfinished_hides_no_other(tmp_path: Path) -> None:
    task = {"kind": "image-classification", "data": "digits", "folds": 5}
    folder = write_results(tmp_path, Options(study={**STUDY, "task": task, "seeds": [0]}, failed=(), diverged=(), folds=5))
    runs = sorted((folder / "runs" / "full").iterdir())
    (runs[0] / "results.json").unlink()
    shutil.rmtree(runs[1])
    said = [(p.kind, p.what) for p in load_frame(folder).problems if p.label == "full"]
    assert [kind for kind, _ in said] == ["unfinished", "missing"] and said[1][1] == "1 of 5 folds were never run"


def test_half_written_records_are_problems_not_crashes(folder: Path) -> None:
    runs = sorted((folder / "runs" / "full").iterdir())
    (runs[0] / "results.json").write_text('{"run_id": "abc", "metr')
    (runs[1] / "results.json").unlink()
    (runs[2] / "config.json").write_text("")
    (folder / "runs" / "full" / "stray.txt").write_text("x")
    (folder / "runs" / "empty").mkdir()
    frame = load_frame(folder)
    kinds = sorted(p.kind for p in frame.problems if p.where.startswith("runs/full"))
    assert kinds == ["unfinished", "unreadable", "unreadable"]
    assert len(frame.primary().query("label == 'full'")) == 2


def test_what_is_wrong_with_the_data_is_a_warning_said_once(folder: Path) -> None:
    said = "3 of 360 test images are also in train, pixel by pixel: accuracy is flattered"
    for path in (folder / "runs").glob("*/*/results.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "data_warnings": [said], "notes": ["read from a cache"]}))
    frame = load_frame(folder)
    assert [warning for warning in frame.warnings if "flattered" in warning] == [f"Data: {said}."]
    assert frame.notes == ("read from a cache",)


def test_a_record_of_a_newer_schema_is_refused_and_says_what_to_do(folder: Path) -> None:
    path = one_run(folder) / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2, "new_field": 1}))
    problem = next(p for p in load_frame(folder).problems if p.kind == "unreadable")
    assert "a newer peftlab wrote it" in problem.what and "update peftlab" in problem.remedy


def test_runs_made_with_different_versions_are_named(folder: Path) -> None:
    assert not any("different versions" in w for w in load_frame(folder).warnings)
    path = one_run(folder) / "environment.json"
    environment = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**environment, "python": "3.99.0"}))
    other = next(p for p in sorted((folder / "runs").glob("*/*")) if p != path.parent) / "environment.json"
    other.write_text(json.dumps({**environment, "python": "3.98.0"}))
    assert any("different versions of python: " in w and "3.98.0 (1 run)" in w for w in load_frame(folder).warnings)


def test_older_records_of_the_same_seed_are_left_out_and_named(folder: Path) -> None:
    run = one_run(folder)
    copy = run.with_name("0" * 16)
    shutil.copytree(run, copy)
    os.utime(copy, ns=(1, 1))
    frame = load_frame(folder)
    assert "0" * 16 not in set(frame.rows["run_id"])  # the planned one is kept
    assert any("left out" in w and "0" * 16 in w for w in frame.warnings)


def test_tuning_runs_are_never_results(folder: Path) -> None:
    path = one_run(folder) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "purpose": "tuning"}))
    assert len(load_frame(folder).primary().query("label == 'full'")) == 4


def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    shutil.move(one_run(folder), outside)
    (folder / "runs" / "full" / "link").symlink_to(outside)
    assert len(load_frame(folder).primary().query("label == 'full'")) == 4


def test_a_metric_that_nobody_recorded_is_named(tmp_path: Path) -> None:
    study = {**STUDY, "analysis": {**STUDY["analysis"], "metric": "acuracy"}}
    frame = load_frame(write_results(tmp_path, Options(study=study, diverged=())))
    assert any("'acuracy'" in w and "'accuracy'" in w for w in frame.warnings)


@pytest.mark.parametrize("content", [None, "study: [", "study: x\n"])
def test_without_a_study_there_is_no_plan_to_follow(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(RecordError) as caught:
        load_frame(tmp_path)
    assert caught.value.remedy


def test_written_files_hold_the_frame(folder: Path, tmp_path: Path) -> None:
    frame = load_frame(folder)
    rows = frame.rows.copy()
    rows.loc[0, "label"] = "=HYPERLINK(1)"
    dataclasses.replace(frame, rows=rows).write(tmp_path / "out")
    back = pd.read_parquet(tmp_path / "out" / "results.parquet")
    pd.testing.assert_frame_equal(back, rows)
    with (tmp_path / "out" / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(rows) and lines[0]["label"] == "'=HYPERLINK(1)"


def test_tasks_that_share_a_name_are_told_apart() -> None:
    small, large = ({"kind": "image-classification", "data": "digits", "image_size": s} for s in (32, 96))
    assert list(task_names([small, large]).values()) == [f"image-classification digits[image_size={s}]" for s in (32, 96)]


def test_a_full_specification_covers_the_short_one() -> None:
    done = {"kind": "image-classification", "data": {"name": "npz", "path": "a.npz", "crop": 1.0}, "image_size": 32}
    assert covers({"kind": "image-classification", "data": {"name": "npz", "path": "a.npz"}}, done)
    assert covers({"kind": "image-classification", "data": "npz"}, done)
    assert covers({"kind": "image-classification", "data": "a.npz"}, done)
    assert not covers({"kind": "image-classification", "data": "b.npz"}, done)
    assert not covers({"kind": "image-classification", "data": {"name": "npz", "path": "b.npz"}}, done)


def test_an_arm_that_is_trained_for_longer_than_the_baseline_is_a_confound(tmp_path: Path) -> None:
    assert not any("confound" in warning for warning in load_frame(write_results(tmp_path / "alike")).warnings)
    arms = {**STUDY["arms"], "bitfit": {"adapter": "bitfit", "epochs": 20, "batch_size": 16}}
    frame = load_frame(write_results(tmp_path / "unlike", Options(study={**STUDY, "arms": arms})))
    assert [warning for warning in frame.warnings if "confound" in warning] == [
        "A confound: arms differ in effective batch size: 16 for bitfit, where the baseline full has 64.",
        "A confound: arms differ in length of training: 20 epochs for bitfit, where the baseline full has 5 epochs.",
    ]


def declared_otherwise(folder: Path, **changes: Any) -> list[str]:
    """Warnings on what is in the folder and not in its study file, once that was changed."""
    with (folder / "study.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump({**STUDY, **changes}, stream)
    (folder / "plan.json").unlink(missing_ok=True)
    lead = "Not in the study file, but in its folder, and analysed with the rest: "
    return [warning.removeprefix(lead) for warning in load_frame(folder).warnings if warning.startswith(lead)]


def test_what_is_not_in_the_study_file_any_more_is_named(folder: Path) -> None:
    assert declared_otherwise(folder) == []
    assert declared_otherwise(folder, seeds=[0, 1, 2]) == ["seeds 3, 4."]
    assert declared_otherwise(folder, seeds=[0, 1, 2, 3, 7]) == ["seed 4."]
    fewer = {name: arm for name, arm in STUDY["arms"].items() if name not in ("bitfit", "lora-all")}
    assert declared_otherwise(folder, seeds=[0, 1, 2, 3], arms=fewer) == ["bitfit, lora-all.", "seed 4."]


def test_folds_that_nobody_declares_any_more_are_named(tmp_path: Path) -> None:
    folder = write_results(tmp_path, Options(study={**STUDY, "task": {**STUDY["task"], "folds": 3}}, folds=3, failed=()))
    assert declared_otherwise(folder, task={**STUDY["task"], "folds": 3}) == []
    assert declared_otherwise(folder) == ["folds 1, 2."]


def test_how_an_arm_was_run_is_told_from_every_fold(tmp_path: Path) -> None:
    options = Options(study={**STUDY, "task": {**STUDY["task"], "folds": 2}}, folds=2, failed=(), diverged=())
    folder = write_results(tmp_path, options)
    for path in (folder / "runs" / "full").glob("*/config.json"):
        form = json.loads(path.read_text())
        form["train"]["learning_rate"] = form["tuned"]["learning_rate"] = 4e-3 if form["fold"] else 1e-3
        path.write_text(json.dumps(form))
    found = {
        label: [config["train"]["learning_rate"] for config in configs]
        for (label, _, _), (_, configs) in configurations(load_frame(folder)).items()
    }
    assert found["full"] == [1e-3, 4e-3] and len({*found["bitfit"]}) == 1
