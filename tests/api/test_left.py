"""How much of a plan is left to run, told at the end of the plan and to a script."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from peftlab.api import running
from peftlab.api._left import Left, left_of
from peftlab.records.store import ResultsFolder
from peftlab.study.load import validate_study
from tests.api.planned import plan_of
from tests.report.fixtures import STUDY, Options, write_results

RAW: dict[str, Any] = {
    **{key: value for key, value in STUDY.items() if key != "tune"},
    "arms": {"full": {"adapter": "full"}, "bitfit": {"adapter": "bitfit"}},
    "seeds": [0, 1, 2],
}


def asked(**changes: Any) -> dict[str, Any]:
    return {**RAW, **changes}


def left(folder: Path, raw: dict[str, Any] | None = None) -> Left:
    raw = raw or RAW
    return left_of(plan_of(raw), validate_study(raw), ResultsFolder(folder))


def made(root: Path, **options: Any) -> Path:
    return write_results(root, Options(**{"study": RAW, "failed": (), "diverged": (), "flags": {}, **options}))


def test_without_a_results_folder_all_is_to_do_and_nothing_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResultsFolder, "run", None)
    found = left(tmp_path / "fixture")
    assert found == Left(runs=6, done=0, failed=0, spared=0, seconds=12.0)
    assert found.words() == "6 runs, 12 s on one core (predicted, not measured)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ", all of them done"),
        ({"diverged": (("bitfit", 1),)}, ", all of them done"),  # an outcome
        (
            {"skip": (("bitfit", 1), ("full", 2))},
            ", of which 4 are done; 4 s on one core for the rest (predicted, not measured)",
        ),
        (
            {"failed": (("bitfit", 1),)},
            ", of which 5 are done and 1 failed (tried again with --retry-failed); none is left to do",
        ),
    ],
)
def test_what_is_done_and_what_failed_is_told(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    assert left(made(tmp_path, **options)).words() == f"6 runs{words}"


def test_one_run_is_one_run(tmp_path: Path) -> None:
    folder, plan = made(tmp_path), plan_of(RAW)
    one = dataclasses.replace(plan, runs=plan.runs[:1])
    assert left_of(one, validate_study(RAW), ResultsFolder(folder)).words() == "1 run, which is done"


def test_runs_of_another_form_are_not_done(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert left(folder, asked(train={"epochs": 6, "batch_size": 64})).done == 0
    found = left(folder, asked(seeds=[2, 3, 4]))
    assert (found.done, found.to_do, found.seconds) == (2, 4, 8.0)


def test_refused_runs_and_runs_without_an_id_are_never_done(tmp_path: Path) -> None:
    plan = plan_of(RAW)
    first, second, *others = plan.runs
    runs = (dataclasses.replace(first, refusal="too large"), dataclasses.replace(second, config=None), *others)
    found = left_of(dataclasses.replace(plan, runs=runs), validate_study(RAW), ResultsFolder(made(tmp_path)))
    assert (found.runs, found.done, found.to_do) == (5, 4, 1)


def test_a_damaged_folder_does_not_stop_a_plan(tmp_path: Path) -> None:
    folder = made(tmp_path / "results")
    outside = tmp_path / "elsewhere"
    shutil.move(folder / "runs" / "full", outside)
    (folder / "runs" / "full").symlink_to(outside)  # a link that leads out
    for path in folder.glob("runs/bitfit/*/config.json"):
        path.write_text("{")
    found = left(folder)
    assert (found.done, found.to_do) == (3, 3)
    shutil.rmtree(folder)
    folder.write_text("no folder")
    assert left(folder).done == 0


def test_what_a_race_was_decided_without_is_not_to_do(tmp_path: Path) -> None:
    raced = asked(search={"method": "racing"}, seeds=[0, 1, 2, 3])
    folder = made(tmp_path, study=raced, skip=(("bitfit", 2), ("bitfit", 3)))
    arms = [{"label": "full", "seeds": 4, "left": None}, {"label": "bitfit", "seeds": 2, "left": "worse"}]
    heat = {
        "task": "image-classification digits", "task_spec": {**STUDY["task"], "image_size": None},
        "backbone": STUDY["backbone"], "seeds": [0, 1, 2, 3], "arms": arms, "left": [], "over": False,
    }  # fmt: skip
    (folder / "racing.json").write_text(json.dumps({"heats": [heat]}))
    assert left(folder, raced).words() == "8 runs, of which 6 are done and 2 are spared by the race; none is left to do"
    other = left(folder, {**raced, "train": {"epochs": 6, "batch_size": 64}})  # nobody raced these
    assert (other.spared, other.to_do) == (0, 8)


def test_plan_says_it_and_so_does_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = validate_study(RAW)
    progress = type("Progress", (), {"plan": plan_of(RAW)})
    folder = ResultsFolder(made(tmp_path, skip=(("full", 0),)))
    monkeypatch.setattr(running, "_planned", lambda *_: (folder, study, None, progress))
    shown = running.plan("study.yaml")
    told = {key: shown[key] for key in ("runs_done", "runs_failed", "runs_spared", "runs_to_do")}
    assert told == {"runs_done": 5, "runs_failed": 0, "runs_spared": 0, "runs_to_do": 1}
    assert (shown["predicted_left_s"], shown["predicted_total_s"]) == (2.0, 12.0)
    assert "6 runs, of which 5 are done; 2 s on one core for the rest" in rendered(shown)


def rendered(shown: Any) -> str:
    from rich.console import Console

    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(shown.table())
    return capture.get()
