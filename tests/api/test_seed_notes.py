"""`plan` says whether the study has the seeds that its margin needs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from peftlab.analysis.assess import assess
from peftlab.analysis.frame import load_frame
from peftlab.analysis.seeds import of_frame
from peftlab.api import running
from peftlab.api._seed_notes import with_seed_notes
from peftlab.planning.plan import PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.records.record import RunResults, to_json
from peftlab.records.store import ResultsFolder
from peftlab.study.load import dump, validate_study
from tests.api.planned import plan_of
from tests.report.fixtures import STUDY, Options, write_results

RAW: dict[str, Any] = {
    **{key: value for key, value in STUDY.items() if key != "tune"},
    "arms": {"full": {"adapter": "full"}, "bitfit": {"adapter": "bitfit"}, "lora-all": {"adapter": "lora"}},
}


def asked(margin: float = 0.003, **changes: Any) -> dict[str, Any]:
    return {**RAW, "analysis": {"metric": "accuracy", "baseline": "full", "margin": {"relative": margin}}, **changes}


def notes(folder: Path, raw: dict[str, Any], **changes: Any) -> list[str]:
    made = with_seed_notes(plan_of(raw, **changes), validate_study(raw), ResultsFolder(folder))
    first, *others = made.notes
    assert first == "one of its own"
    return others


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seeds, of a study whose margin was wider than in the one that is planned next."""
    return write_results(tmp_path_factory.mktemp("results"), Options(study=asked(0.03), failed=(), diverged=(), flags={}))


def test_more_seeds_are_needed_than_the_study_has(folder: Path) -> None:
    said, shown = notes(folder, asked(0.003))
    rows = {row.arm: row for row in of_frame(load_frame(folder, study=validate_study(asked(0.003)))).rows}
    needed = rows["lora-all"].non_inferiority
    assert said.startswith(f"more seeds needed: {needed.seeds}, the study has 5; with so many, lora-all ")
    assert "within 0.3 % of full" in said and f"{needed.cautious} at its upper" in said
    assert "standard deviation of 5 pairs" in said and f"`peftlab power {folder}`" in said
    assert "comparisons that need more than 5: 1 of 1" in said
    assert shown == "already shown by the runs that have ended: bitfit not to be within 0.3 % of full"
    said, _ = notes(folder, asked(0.0001))
    assert said.startswith("more seeds needed: more than 1,000, ")


def test_enough_seeds_are_no_reason_for_more(folder: Path) -> None:
    said, shown = notes(folder, asked(0.02))
    assert said.startswith("seeds needed: 3, the study has 5; with so many, bitfit ")
    assert "comparisons that need more than 5: 0 of 1" in said
    assert shown == "already shown by the runs that have ended: lora-all to be within 2 % of full"


def test_what_the_report_shows_stands_and_asks_for_no_seeds(folder: Path) -> None:
    assert notes(folder, asked(0.3)) == [
        "already shown by the runs that have ended: bitfit and lora-all to be within 30 % of full"
    ]
    for margin in (0.003, 0.02, 0.3):
        study = validate_study(asked(margin))
        verdicts = {f.arms[0]: f.verdict for f in assess(load_frame(folder, study=study)).of("non_inferiority")}
        shown = notes(folder, asked(margin))[-1]
        assert {arm: arm in shown for arm in verdicts} == {arm: verdicts[arm] != "not shown" for arm in verdicts}


def test_only_arms_of_the_planned_study_count(folder: Path) -> None:
    arms = {name: RAW["arms"][name] for name in ("full", "lora-all")}
    (said,) = notes(folder, asked(arms=arms))
    assert ", lora-all is shown" in said and " of 1 (`peftlab" in said
    assert notes(folder, asked(arms={"full": RAW["arms"]["full"], "new": RAW["arms"]["bitfit"]})) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"epochs": 5, "batch_size": 64, "learning_rate": 0.1}},
        {"task": {"kind": "image-classification", "data": "other.csv"}},
        {"backbone": "timm/vit_tiny"},
        {"arms": {"full": {"adapter": "full"}, "lora-all": {"adapter": {"name": "lora", "rank": 4}}}},
    ],
)
def test_records_of_another_form_of_the_arms_do_not_count(folder: Path, changes: dict[str, Any]) -> None:
    """Nor do those of seeds that the plan does not have, which it cannot name one by one."""
    (said,) = notes(folder, asked(seeds=[0, 1], **changes))
    assert said.startswith("what 2 seeds can show cannot be known before two of them have run")


def test_records_of_other_data_under_the_same_name_do_not_count(folder: Path) -> None:
    assert notes(folder, asked(), data_fingerprint="ef" * 32) == [] and len(notes(folder, asked())) == 2


def test_a_plan_without_its_baseline_compares_nothing(folder: Path) -> None:
    study, made = validate_study(asked(seeds=[0, 1])), plan_of(asked(seeds=[0, 1]))
    for only in ({"bitfit"}, {"full"}):
        narrowed = dataclasses.replace(made, runs=tuple(run for run in made.runs if run.label in only))
        assert with_seed_notes(narrowed, study, ResultsFolder(folder)) is narrowed


def test_without_records_few_seeds_are_told_that_power_is_unknown(tmp_path: Path) -> None:
    (said,) = notes(tmp_path / "fixture", asked(seeds=[0, 1]))
    assert said.startswith("what 2 seeds can show cannot be known") and "`peftlab power FOLDER`" in said
    assert notes(tmp_path / "fixture", asked()) == []
    assert notes(tmp_path / "fixture", asked(seeds=[0, 1], analysis={"baseline": "full"})) == []  # no margin of its own


def test_where_nothing_is_compared_or_a_race_decides_nothing_is_said(folder: Path) -> None:
    assert notes(folder, asked(analysis={"metric": "accuracy", "margin": {"relative": 0.003}})) == []
    assert notes(folder, asked(search={"method": "racing"})) == []


def test_one_seed_and_damaged_records_are_no_pilot(tmp_path: Path) -> None:
    options = Options(study=asked(seeds=[0]), failed=(), diverged=(), flags={})
    (said,) = notes(one := write_results(tmp_path, options), asked(seeds=[0, 1]))
    assert said.startswith("what 2 seeds")
    for path in one.glob("runs/*/*/results.json"):
        path.write_text("{")
    (said,) = notes(one, asked(seeds=[0, 1]))
    assert said.startswith("what 2 seeds")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file, and beside it finished runs of every arm and seed as the planner has them."""
    root = tmp_path_factory.mktemp("done")
    study = validate_study(asked())
    with (root / "study.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(asked(), stream)
    results = ResultsFolder(root / study.study).open_or_create(dump(study))
    generator = np.random.default_rng(0)
    for run in make_plan(study, PlanOptions(cache=root / "cache", predict=False)).runs:
        assert run.config is not None
        accuracy = 0.9 + 0.01 * float(generator.normal())
        outcome = RunResults(
            run_id=run.config.run_id, metrics={"test": {"accuracy": accuracy}}, higher_is_better={"accuracy": True}, steps=1,
            epochs=1.0, parameters={}, memory={}, time={},
        )  # fmt: skip
        folder = results.run(run.config).create(run.config)
        (folder.path / "results.json").write_text(to_json(outcome), encoding="utf-8")
    return root


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_plan_and_dry_run_say_it(
    done: Path, tmp_path: Path, verb: str, measured: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTLAB_CACHE", str(measured(tmp_path / "cache")))
    path = done / "study.yaml"

    def said(*overrides: str) -> list[str]:
        ask = running.plan if verb == "plan" else functools.partial(running.run, dry_run=True)
        notes = ask(path, overrides=overrides, output=done).as_dict()["notes"]
        return [note for note in notes if "seeds needed" in note or "already shown" in note]

    assert said()[0].startswith("more seeds needed: ") and said("train.learning_rate=3e-3") == []
