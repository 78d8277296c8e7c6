"""Successive halving: who goes on, with how many steps, and that every arm gets as much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import StudyError
from peftlab.records.store import ResultsFolder
from peftlab.study.load import validate_study
from peftlab.study.schema import Study, Tune
from peftlab.tuning import choice
from peftlab.tuning.halving import next_rung
from peftlab.tuning.search import follow
from tests.tuning import studies

RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
TUNE: dict[str, Any] = {"sampler": "halving", "seeds": [100, 101], "learning_rate": RATES}


def tune(number: int, **changes: Any) -> Tune:
    rates = [10.0**-i for i in range(number)]
    return Tune.model_validate({"sampler": "halving", "seeds": [9], "learning_rate": rates, **changes})


def study(backbone: str, **changes: Any) -> Study:
    return studies.study(backbone, tune={**TUNE, **changes}, train={"max_steps": 12, "epochs": 100, "batch_size": 32})


@pytest.mark.parametrize(
    ("asked", "rungs"),
    [
        (tune(9), [(9, 1 / 3), (3, 1)]),
        (tune(27), [(27, 1 / 9), (9, 1 / 3), (3, 1)]),
        (tune(5), [(5, 1 / 3), (2, 1)]),
        (tune(8, reduction=2), [(8, 1 / 4), (4, 1 / 2), (2, 1)]),
        (tune(4, reduction=3), [(4, 1 / 3), (2, 1)]),
    ],
)
def test_rungs(asked: Tune, rungs: list[tuple[int, float]]) -> None:
    assert asked.rungs == [(number, pytest.approx(share)) for number, share in rungs]
    assert asked.number == sum(number for number, _ in rungs)
    shares = [asked.rung_of(i)[2] for i in range(asked.number)]
    assert shares == [share for number, share in asked.rungs for _ in range(number)]


def test_the_best_go_on_in_their_order_and_ties_go_to_the_earlier() -> None:
    asked, space = tune(5), {"learning_rate": [1, 2, 3, 4, 5]}
    first = next_rung(asked, space, [], [], True)
    assert [values["learning_rate"] for values in first] == [1, 2, 3, 4, 5]
    assert next_rung(asked, space, first, [0.1, 0.9, 0.2, 0.8, 0.8], True) == [{"learning_rate": 2}, {"learning_rate": 4}]
    assert next_rung(asked, space, first, [0.1, float("-inf"), 0.2, 0.0, 0.2], True) == [first[2], first[4]]
    assert next_rung(asked, space, first, [0.3, 0.9, 0.2, 0.8, 0.8], False) == [first[0], first[2]]


def test_rungs_follow_one_another_to_a_choice(backbone: str, cache: Path, tmp_path: Path) -> None:
    asked, folder = study(backbone), ResultsFolder(tmp_path / "tuned")
    planner, steps = studies.planner(asked, cache), []
    while runs := studies.outstanding(folder, (progress := follow(folder, asked, planner)).plan):
        steps.append({(run.label, run.train["max_steps"]) for run in runs})
        assert all(run.tuned == {"learning_rate": run.train["learning_rate"]} for run in runs)
        for run in runs:
            studies.finish(folder, run)
    assert steps == [{("full", 4), ("lora", 4)}, {("full", 12), ("lora", 12)}], "a third of 12 steps, then all"
    assert {c.label: c.values["learning_rate"] for c in progress.chosen} == {"full": 1e-3, "lora": 1e-2}
    assert {(c.trials, c.different, c.runs, c.lost) for c in progress.chosen} == {(10, 10, 20, 0)}
    assert all(run.config is not None and run.config.train["max_steps"] == 12 for run in progress.plan.runs)
    written = choice.save(folder, asked, progress.plan.searches, progress.found, progress.chosen)
    assert written["rungs"] == [(7, pytest.approx(1 / 3)), (3, 1.0)]
    spent = {label: sum(t["steps"] for t in written["trials"] if t["label"] == label) for label in ("full", "lora")}
    assert spent["full"] == spent["lora"] == 2 * (7 * 4 + 3 * 12), "the same budget for every arm"
    assert json.loads((folder.path / "tuning.json").read_text())["trials"][0]["share"] == pytest.approx(1 / 3)


def test_a_value_that_diverges_does_not_go_on(backbone: str, cache: Path, tmp_path: Path) -> None:
    asked, folder = study(backbone), ResultsFolder(tmp_path / "tuned")
    planner = studies.planner(asked, cache)
    best = {"full": 1e-3, "lora": 1e-2}
    while runs := studies.outstanding(folder, (progress := follow(folder, asked, planner)).plan):
        for run in runs:
            lost = run.train["learning_rate"] == best[run.label] and run.seed == 101
            studies.finish(folder, run, (lambda _: None) if lost else studies.accuracy)
    assert {c.label: c.lost for c in progress.chosen} == {"full": 1, "lora": 1}
    assert all(c.values["learning_rate"] != best[c.label] for c in progress.chosen)
    again = follow(folder, asked, studies.planner(asked, cache))
    assert again.chosen == progress.chosen


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"trials": 9}, "leave trials out"),
        ({"learning_rate": [1e-3, 1e-2, 1e-1]}, "more than 3 values"),
        ({"learning_rate": {"low": 1e-4, "high": 1e-1}}, "a halving needs a list"),
        ({"epochs": [1, 2, 3, 4]}, "epochs cannot be tried"),
        ({"sampler": "grid", "reduction": 2}, "reduction belongs to sampler: halving"),
        ({"reduction": 1}, "2 or more"),
    ],
)
def test_refused(changes: dict[str, Any], what: str) -> None:
    raw = {
        "study": "s", "backbone": "b", "task": {"kind": "image-classification", "data": "digits"}, "seeds": [0],
        "arms": {"full": {"adapter": "full"}}, "tune": {**TUNE, **changes},
    }  # fmt: skip
    with pytest.raises(StudyError, match=what):
        validate_study(raw)


def test_refused_where_a_rung_would_have_no_steps_or_an_arm_fewer_trials(backbone: str, cache: Path) -> None:
    short = studies.study(backbone, tune=TUNE, train={"max_steps": 3, "batch_size": 32})
    with pytest.raises(StudyError, match="too few to tell values apart"):
        studies.planner(short, cache).plan()
    with pytest.raises(StudyError, match="fewer trials than the others"):
        studies.planner(study(backbone, **{"adapter.rank": [2, 4]}), cache)
