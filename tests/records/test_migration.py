"""Records of older and newer schemas; `oldest/` was written by the first version of peftlab that could run a study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from peftlab import api
from peftlab.errors import RecordError
from peftlab.records.migration import STEPS, lifted
from peftlab.records.record import SCHEMA_VERSION, RunConfig, RunResults
from peftlab.records.store import ResultsFolder, verify
from tests.records.examples import configuration, results

OLDEST = Path(__file__).parent / "oldest"


@pytest.fixture
def oldest(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLDEST, tmp_path / "oldest"))


def test_the_oldest_records_are_whole_and_keep_their_ids(oldest: Path) -> None:
    assert verify(oldest) == []
    configs = [run.config() for run in ResultsFolder(oldest).runs()]
    assert [config.run_id for config in configs] == ["98f921e188d3c775", "8bbb6454d0bb287b"]
    raw = json.loads((OLDEST / "runs/probe/98f921e188d3c775/config.json").read_text())
    assert "quantize" not in raw and "predicted" not in raw, "the fixture is from before these fields"


def test_the_oldest_records_are_analysed(oldest: Path) -> None:
    api.analyze(oldest)
    raw = json.loads((OLDEST / "runs/probe/98f921e188d3c775/results.json").read_text())
    arm = json.loads((oldest / "analysis/findings.json").read_text())["arms"][0]
    assert arm["mean"] == pytest.approx(raw["metrics"]["test"]["accuracy"])


def test_every_older_schema_has_its_step() -> None:
    assert {len(steps) for steps in STEPS.values()} == {SCHEMA_VERSION - 1}


def test_steps_are_taken_in_order_from_where_a_record_stands() -> None:
    """Three schemas that never were: a renamed field, then another unit."""

    def renamed(raw: dict) -> dict:
        return {**{k: v for k, v in raw.items() if k != "rounds"}, "steps": raw["rounds"]}

    def in_thousands(raw: dict) -> dict:
        return {**raw, "steps": raw["steps"] * 1000}

    steps = {RunResults: (renamed, in_thousands)}
    assert lifted({"rounds": 2}, RunResults, steps=steps) == {"steps": 2000, "schema_version": 3}
    assert lifted({"schema_version": 2, "steps": 2}, RunResults, steps=steps) == {"steps": 2000, "schema_version": 3}
    today = {"schema_version": 3, "steps": 2}
    assert lifted(today, RunResults, steps=steps) == today
    with pytest.raises(RecordError, match="schema 4, this program knows up to 3"):
        lifted({"schema_version": 4}, RunResults, steps=steps)


@pytest.mark.parametrize("version", [0, -1, True, "1", None, 1.5, [1]])
def test_no_version_at_all_is_damage(version: object) -> None:
    with pytest.raises(RecordError, match="no version of the schema"):
        lifted({"schema_version": version}, RunConfig)


def test_a_newer_record_is_refused_by_every_reader(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "first").open_or_create("study: first\n")
    run = folder.run(configuration()).create(configuration())
    run.finish(results(run.run_id))
    path = run.path / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(RecordError) as caught:
        run.results()
    assert "a newer peftlab wrote it" in caught.value.what and "update peftlab" in caught.value.remedy
    assert "newer peftlab" in verify(folder)[0]


def test_the_id_of_a_run_does_not_hang_on_the_schema() -> None:
    config = configuration()
    assert config.model_copy(update={"schema_version": 7}).run_id == config.run_id
