"""What status shows: every run in the order of arms and seeds, its id in one piece, why it failed below."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from peftlab import api
from peftlab.cli import app
from peftlab.errors import RecordError
from peftlab.records.store import ResultsFolder
from tests.report.fixtures import LEVELS, STUDY, Options, write_results


def test_ids_can_be_copied_and_seeds_are_in_order(tmp_path: Path) -> None:
    answer = api.status(write_results(tmp_path))
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(answer.table(), highlight=False)
    shown = capture.get()
    assert max(map(len, shown.splitlines())) <= 80
    rows = [line.split() for line in shown.splitlines() if line.startswith(" ") and len(line.split()) in (4, 5)][1:]
    ids = {row["run_id"] for row in answer.as_dict()["runs"]}
    assert {row[-1] for row in rows} == ids
    declared = [(label, seed) for label in LEVELS for seed in range(5)]  # in the order of the study file
    assert [(row[0], int(row[1])) for row in rows] == declared
    assert "bitfit seed 3: OutOfMemory: the device ran out of memory" in " ".join(shown.split())


def shown(answer: api.Answer) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(answer.table(), highlight=False)
    return capture.get()


def test_what_nobody_has_begun_is_to_do(tmp_path: Path) -> None:
    answer = api.status(write_results(tmp_path, Options(skip=(("full", 1), ("lora-all", 4)), failed=(), diverged=())))
    assert [(run["label"], run["seed"]) for run in answer["to_do"]] == [("full", 1), ("lora-all", 4)]
    text = shown(answer)
    assert "33 finished, 2 to do" in text and "goes on with it" in text
    assert [line.split() for line in text.splitlines() if " to do" in line][:2] == [
        ["full", "1", "to", "do"],
        ["lora-all", "4", "to", "do"],
    ]


def test_an_empty_study_is_all_to_do(tmp_path: Path) -> None:
    every = tuple((label, seed) for label in LEVELS for seed in range(5))
    answer = api.status(write_results(tmp_path, Options(skip=every)))
    assert len(answer["to_do"]) == 35 and answer["runs"] == []


def test_a_whole_study_has_nothing_to_do(tmp_path: Path) -> None:
    text = shown(api.status(write_results(tmp_path, Options(failed=(), diverged=()))))
    assert text.rstrip().endswith("35 finished")


def test_runs_of_an_earlier_form_are_told(tmp_path: Path) -> None:
    folder = write_results(tmp_path, Options(study={k: v for k, v in STUDY.items() if k != "tune"}, failed=(), diverged=()))
    study = folder / "study.yaml"
    study.write_text(study.read_text(encoding="utf-8").replace("epochs: 5", "epochs: 6"), encoding="utf-8")
    (folder / "plan.json").unlink()
    answer = api.status(folder)
    assert len(answer["to_do"]) == 35
    assert all(run["status"] == "finished" for run in answer.as_dict()["runs"])
    table = shown(answer)
    assert sum("earlier form" in line and "of an" not in line for line in table.splitlines()) == 35
    assert table.rstrip().endswith("35 to do, 35 of an earlier form; the command that ran the study goes on with it")
    text = " ".join(table.split())
    assert "35 runs of an earlier form" in text and "epochs 5, now 6" in text


@pytest.mark.parametrize("verb", ["status", "analyze", "report", "choose", "verify", "gc", "bundle", "power"])
def test_the_folder_above_names_the_studies_in_it(tmp_path: Path, verb: str) -> None:
    folder = write_results(tmp_path)
    for wrong, what in ((tmp_path, "no results folder"), (tmp_path / "fixtrue", "no such results folder")):
        with pytest.raises(RecordError, match=what) as caught:
            getattr(api, verb)(wrong)
        assert str(folder) in caught.value.remedy, verb


def test_tuning_runs_say_what_they_try_and_how_many_are_to_do(tmp_path: Path) -> None:
    """In the order of the trials, though ids are hashes; a trial of a later rung has no id before the first has ended."""
    folder = write_results(tmp_path, Options(failed=(), diverged=()))
    begun: list[str] = []
    for rate in (3e-4, 1e-3, 3e-2):
        config = next(ResultsFolder(folder).runs("evaluation")).config()
        train = {**config.train, "learning_rate": rate, "max_steps": 11}
        values = {"purpose": "tuning", "tuned": {"learning_rate": rate, "weight_decay": 0.1}, "train": train, "seed": 100}
        config = config.model_copy(update=values)
        ResultsFolder(folder).run(config).create(config)
        begun.append(config.run_id)
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    ids = [*begun, "0123456789abcdef", "0123456789abcdef", None, None]  # one trial repeats another
    plan["runs"] += [{"purpose": "tuning", "label": "full", "run_id": run_id, "refusal": None} for run_id in ids]
    plan["runs"] += [{"purpose": "tuning", "label": "lora", "run_id": None, "refusal": "too large"}]
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")

    answer = api.status(folder)
    assert answer["tuning_to_do"] == 3
    text = shown(answer)
    assert "3 to do (3 of them tuning)" in text and "goes on with it" in text
    assert ["tuning:", "full", "3", "of", "6", "to", "do"] in [line.split() for line in text.splitlines()]
    rates = [line.split()[3] for line in text.splitlines() if "tuning:" in line and "learning_rate" in line]
    assert rates == ["0.0003", "0.001", "0.03"] and begun != sorted(begun)
    assert text.count("weight_decay 0.1") == 3


def test_the_help_says_of_which_form_of_the_study() -> None:
    """What was added to the study's file since is not known to its folder."""
    shown = CliRunner().invoke(app, ["status", "--help"]).stdout
    assert "of the study as it was last run" in " ".join(shown.split())
