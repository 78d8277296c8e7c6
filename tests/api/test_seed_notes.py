"""`plan` says whether the study has the seeds that its margin needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from peftlab.analysis.seeds import from_records
from peftlab.api import running
from peftlab.api._seed_notes import with_seed_notes
from peftlab.planning.plan import Plan
from peftlab.records.store import ResultsFolder
from peftlab.study.load import validate_study
from tests.report.fixtures import STUDY, Options, write_results

RAW: dict[str, Any] = {
    **{key: value for key, value in STUDY.items() if key != "tune"},
    "arms": {"full": {"adapter": "full"}, "bitfit": {"adapter": "bitfit"}, "lora-all": {"adapter": "lora"}},
}
PLAN = Plan(
    study="fixture", question="", tuning=(), runs=(), warnings=(), notes=("one of its own",), machine={}, higher_is_better=True
)  # fmt: skip


def asked(margin: float = 0.003, **changes: Any) -> dict[str, Any]:
    return {**RAW, "analysis": {"metric": "accuracy", "baseline": "full", "margin": {"relative": margin}}, **changes}


def notes(folder: Path, raw: dict[str, Any]) -> list[str]:
    first, *others = with_seed_notes(PLAN, validate_study(raw), ResultsFolder(folder)).notes
    assert first == "one of its own"
    return others


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seeds, of a study whose margin was wider than in the one that is planned next."""
    return write_results(tmp_path_factory.mktemp("results"), Options(study=asked(0.03), failed=(), diverged=(), flags={}))


def test_more_seeds_are_needed_than_the_study_has(folder: Path) -> None:
    (said,) = notes(folder, asked(0.003))
    rows = from_records(folder, study=validate_study(asked(0.003))).rows
    most = max(rows, key=lambda row: row.non_inferiority.seeds or 1001)
    assert said.startswith(f"more seeds needed: {most.non_inferiority.seeds}, the study has 5; with so many, {most.arm} ")
    assert "within 0.3 % of full" in said and f"{most.non_inferiority.cautious} at its upper" in said
    assert "standard deviation of 5 pairs" in said and f"`peftlab power {folder}`" in said


def test_enough_seeds_are_no_reason_for_more(folder: Path) -> None:
    (said,) = notes(folder, asked(0.3))
    assert said.startswith("seeds needed: 2, the study has 5;") and "comparisons that need more than 5: 0 of 2" in said
    (said,) = notes(folder, asked(0.0001))
    assert said.startswith("more seeds needed: more than 1,000, ")


def test_only_arms_of_the_planned_study_count(folder: Path) -> None:
    arms = {name: RAW["arms"][name] for name in ("full", "bitfit")}
    (said,) = notes(folder, asked(arms=arms))
    assert ", bitfit is shown" in said and " of 1 (`peftlab" in said
    assert notes(folder, asked(arms={"full": RAW["arms"]["full"], "new": RAW["arms"]["bitfit"]})) == []


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


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_plan_and_dry_run_say_it(
    folder: Path, tmp_path: Path, verb: str, measured: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTLAB_CACHE", str(measured(tmp_path / "cache")))
    path = tmp_path / "study.yaml"
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(asked(), stream)
    shown = running.plan(path, output=folder.parent) if verb == "plan" else running.run(path, output=folder.parent, dry_run=True)
    assert any(note.startswith("more seeds needed: ") for note in shown.as_dict()["notes"])
