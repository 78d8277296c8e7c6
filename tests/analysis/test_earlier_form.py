"""A study that was changed and run again in the same folder: its earlier runs are no runs of what it asks now."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from peftlab.analysis.earlier_form import Asked, sentence
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.still_to_do import still_to_do
from peftlab.records.record import RunConfig
from peftlab.study.expand import cells
from peftlab.study.load import validate_study
from peftlab.study.task_key import task_key
from tests.report.fixtures import LEVELS, STUDY, Options, config_of, write_results

PLAIN: dict[str, Any] = {key: value for key, value in STUDY.items() if key != "tune"}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The plain study with one key changed."""
    study = copy.deepcopy(PLAIN)
    *way, last = path.split(".")
    node = study
    for key in way:
        node = node[key]
    node[last] = value
    return study


def gone_on(root: Path, study: dict[str, Any], done: set[tuple[str, int]]) -> Path:
    """A folder in which every run of the plain study ended, and of the changed one those that are ``done``."""
    before = write_results(root / "before", Options(study=PLAIN, failed=(), diverged=()))
    skip = tuple((label, seed) for label in LEVELS for seed in PLAIN["seeds"] if (label, seed) not in done)
    after = write_results(root / "after", Options(study=study, failed=(), diverged=(), skip=skip))
    shutil.copytree(after, before, dirs_exist_ok=True)
    return before


def counted(frame: Frame) -> dict[str, int]:
    return frame.primary().groupby("label").size().to_dict()


def test_the_same_form_is_whole_whether_or_not_its_plan_is_there(tmp_path: Path) -> None:
    folder = write_results(tmp_path, Options(study=PLAIN, failed=(), diverged=()))
    wanted = dict.fromkeys(LEVELS, 5)
    assert counted(load_frame(folder)) == wanted
    (folder / "plan.json").unlink()
    frame = load_frame(folder)
    assert counted(frame) == wanted and not any("earlier form" in warning for warning in frame.warnings)


def test_a_tuned_study_is_whole(tmp_path: Path) -> None:
    folder = write_results(tmp_path, Options(failed=(), diverged=()))
    (folder / "plan.json").unlink()
    assert counted(load_frame(folder)) == dict.fromkeys(LEVELS, 5)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("train.epochs", 7, "epochs 5, now 7"),
        ("train.max_steps", 40, "max_steps null, now 40"),
        ("task.train_size", 100, "train_size null, now 100"),
        ("task.data", "cifar10", "data digits, now cifar10"),
        ("backbone", "timm/vit_tiny", "the study has no backbone 'bundled:vit-nano' any more"),
    ],
)
def test_no_mean_is_taken_over_two_forms(tmp_path: Path, key: str, value: Any, told: str) -> None:
    frame = load_frame(gone_on(tmp_path, changed(key, value), {("full", 0), ("full", 1), ("bitfit", 0)}))
    assert counted(frame) == {"full": 2, "bitfit": 1}
    assert {(p.label, p.seed) for p in frame.problems if p.kind == "missing"} >= {("full", 2), ("bitfit", 1)}
    (warning,) = [warning for warning in frame.warnings if "earlier form" in warning]
    assert warning.startswith("35 runs of an earlier form of the study are left out") and told in warning


def test_another_rank_under_the_same_name_is_another_arm(tmp_path: Path) -> None:
    study = changed("arms.lora-all", {"adapter": {"name": "lora", "rank": 4, "targets": "all-linear"}})
    done = {
        (label, seed) for label in LEVELS for seed in PLAIN["seeds"] if (label, seed) not in {("lora-all", 3), ("lora-all", 4)}
    }
    frame = load_frame(gone_on(tmp_path, study, done))
    assert counted(frame) == {**dict.fromkeys(LEVELS, 5), "lora-all": 3}
    assert any("lora-all: the arm is another one now" in warning for warning in frame.warnings)


def test_a_run_that_the_plan_replaced_does_not_stand_in_for_it(tmp_path: Path) -> None:
    """The data were changed: the plan names another run, which has not ended yet."""
    folder = write_results(tmp_path, Options(study=PLAIN, failed=(), diverged=()))
    plan = json.loads((folder / "plan.json").read_text())
    (run,) = [run for run in plan["runs"] if (run["label"], run["seed"]) == ("full", 2)]
    run |= {"run_id": "f" * 16, "fold": 0, "task": "image-classification:digits", "purpose": "evaluation"}
    (folder / "plan.json").write_text(json.dumps(plan))
    frame = load_frame(folder)
    assert counted(frame) == {**dict.fromkeys(LEVELS, 5), "full": 4}
    assert any("asks for another run of this arm and seed" in warning for warning in frame.warnings)


def test_an_interrupted_run_of_an_earlier_form_is_no_unfinished_run(tmp_path: Path) -> None:
    folder = gone_on(tmp_path, changed("train.epochs", 7), {("full", 0)})
    for config in (folder / "runs" / "bitfit").glob("*/config.json"):
        (config.parent / "results.json").unlink()
    frame = load_frame(folder)
    assert not [problem for problem in frame.problems if problem.kind == "unfinished"]
    assert ("bitfit", 0) in {(p.label, p.seed) for p in frame.problems if p.kind == "missing"}


def test_arms_that_the_study_does_not_name_are_judged_by_task_and_backbone_alone(tmp_path: Path) -> None:
    folder = write_results(tmp_path, Options(study=PLAIN, failed=(), diverged=()))
    fewer = copy.deepcopy(PLAIN)
    del fewer["arms"]["bitfit"]
    with (folder / "study.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(fewer, stream)
    assert counted(load_frame(folder))["bitfit"] == 5
    fewer["task"]["test_size"] = 100
    with (folder / "study.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(fewer, stream)
    (folder / "plan.json").unlink()
    assert "bitfit" not in counted(load_frame(folder))


def test_the_sentence_counts() -> None:
    assert sentence([]) == ""
    assert sentence([("a", "why")]).startswith("1 run of an earlier form of the study is left out")
    assert "2 runs" in sentence([("a", "why"), ("a", "why")]) and "a: why." in sentence([("a", "why"), ("a", "why")])


PIXELS = {**PLAIN["task"], "image_size": 64}
ARMS = {label: PLAIN["arms"][label] for label in ("full", "linear-probe", "bitfit")}


def twice(root: Path) -> Path:
    """A whole study of a task, and of the same one with an option."""
    study = copy.deepcopy({**PLAIN, "arms": ARMS, "matrix": {"task": [{**PLAIN["task"]}, PIXELS]}})
    return write_results(root, Options(study=study, failed=(), diverged=(), flags={}))


def runs_of(folder: Path, image_size: int | None) -> dict[str, RunConfig]:
    found = [RunConfig(**json.loads(path.read_text())) for path in sorted(folder.glob("runs/*/*/config.json"))]
    return {config.run_id: config for config in found if config.task["image_size"] == image_size}


@pytest.mark.parametrize("lost", [None, 64])
@pytest.mark.parametrize("planned", [True, False])
def test_runs_of_a_task_with_an_option_do_not_count_for_the_one_without(tmp_path: Path, lost: int | None, planned: bool) -> None:
    folder = twice(tmp_path)
    for run_id, config in runs_of(folder, lost).items():
        if config.label == "bitfit":
            shutil.rmtree(folder / "runs" / "bitfit" / run_id)
    if not planned:
        (folder / "plan.json").unlink()
    frame = load_frame(folder)
    assert [(p.kind, p.label, p.seed) for p in frame.problems] == [("missing", "bitfit", seed) for seed in range(5)]
    assert len(still_to_do(folder).lacking) == 5


def test_a_plan_of_one_task_leaves_no_run_of_the_other_out(tmp_path: Path) -> None:
    """As `run --max-runs` writes it."""
    folder = twice(tmp_path)
    key = task_key(PLAIN["task"])
    rows = [{**c.model_dump(include={"label", "backbone", "seed", "fold"}), "task": key} for c in runs_of(folder, None).values()]
    ids = runs_of(folder, None)
    plan = {"runs": [{**row, "run_id": run_id} for row, run_id in zip(rows, ids, strict=True)]}
    (folder / "plan.json").write_text(json.dumps(plan))
    frame = load_frame(folder)
    assert counted(frame) == dict.fromkeys(ARMS, 10) and frame.warnings == ()


def test_the_plan_tells_which_of_two_tasks_a_run_is_of_where_their_options_do_not() -> None:
    """``crop: 1.0`` is what the other task has by default."""
    tasks = [{**PLAIN["task"], "crop": 1.0}, PIXELS]
    study = validate_study({**PLAIN, "arms": {"full": ARMS["full"]}, "matrix": {"task": tasks}})
    config = config_of(study, cells(study)[1], seed=0)
    config = config.model_copy(update={"task": {**config.task, "crop": 1.0}})
    place = {"label": "full", "backbone": config.backbone, "seed": 0, "fold": 0}
    for task in tasks:
        plan = {"runs": [{**place, "task": task_key(task), "run_id": config.run_id}]}
        found = Asked.of(study, plan, []).cell(config.run_id, config)
        assert found is not None and found.task == task
