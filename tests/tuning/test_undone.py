"""A tuned study with real runs, one of which another runner has, and later damaged records: told, and no end of the study."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from peftlab.api import running
from peftlab.records.run_folder import RunFolder
from peftlab.records.store import ResultsFolder
from tests.tuning import studies


@pytest.mark.slow
def test_what_nobody_has_done_is_told_by_the_exit_code_and_damage_stops_nothing(
    backbone: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PEFTLAB_CACHE", str(cache))
    study = studies.study(
        backbone, tune={"learning_rate": [1e-3, 1e-2], "seeds": [100]}, train={"max_steps": 2, "batch_size": 16}
    )
    file, folder = tmp_path / "tuned.yaml", ResultsFolder(tmp_path / "tuned")
    with file.open("w") as stream:
        YAML().dump(study.model_dump(mode="json", exclude_none=True), stream)
    plan = running._planned(file, (), tmp_path, {})[-1].plan
    config = next(run.config for run in plan.tuning if run.label == "lora")
    with folder.run(config).make().lease():
        answer = running.run(file, output=tmp_path, jobs=1)
    assert answer.exit_code == 6 and answer.as_dict()["runs"] == {"leased": 1, "finished": 1}
    told = " ".join(capsys.readouterr().err.split())
    assert "tuning: 4 runs, 1 at a time" in told and "3 finished, 1 left to another process" in told
    assert "1 run left to another process; the same command takes up what becomes of it there" in told
    assert "lora: nothing was chosen." in answer.as_dict()["tuning"]
    answer = running.run(file, output=tmp_path, jobs=1)
    assert answer.exit_code == 0 and answer.as_dict()["runs"] == {"finished": 1, "reused": 1}

    def damage(run: RunFolder) -> None:
        (run.path / "results.json").write_text("{ half")

    damage(folder.run(config))
    assert running.run(file, output=tmp_path, jobs=1).exit_code == 1, "a trial without a value, as one that failed"
    for run in folder.runs("evaluation"):
        damage(run)
        assert running.run(file, output=tmp_path, jobs=1).exit_code == 1
    assert all(run.status() == "finished" for run in folder.runs("evaluation"))
