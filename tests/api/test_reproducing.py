"""A real tiny study on the digits, run again from its folder and from its bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peftlab.analysis.reproduction import prediction_interval
from peftlab.api.bundling import bundle
from peftlab.api.reproducing import EXIT_DIFFERENT, _expected, reproduce
from peftlab.errors import PlanRefused, RecordError, StudyError
from peftlab.records.record import RunConfig, RunError, to_json
from tests.api.conftest import Trained


@pytest.fixture
def again(tmp_path: Path, in_cache: None) -> Path:
    return tmp_path / "again"


def test_a_bundle_reproduces_to_the_bit_and_its_folder_as_well(
    trained: Trained, tmp_path: Path, again: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recorded runs lie in a folder with a new name and no weights: all that is needed is in the bundle."""
    packed = bundle(trained.folder, output=tmp_path / "tiny.zip")["bundle"].path
    answer = reproduce(packed, only=["lora"], seeds=[1], output=again)
    found = answer.as_dict()
    assert "1 run that took " in capsys.readouterr().err  # before the libraries are loaded, which may take a while
    assert answer.exit_code == 0 and found["counts"]["bit-equal"] == 1 == len(found["runs"])
    (run,) = found["runs"]
    assert (run["arm"], run["seed"], run["weights_equal"]) == ("lora", 1, True)
    assert run["recorded"] == run["found"] and "bit-equal" in run["sentence"]
    assert "packages.torch" not in found["environment"]
    written = json.loads((again / "tiny" / "reproduction.json").read_text())
    assert written["runs"] == found["runs"]
    with pytest.raises(RecordError, match="holds such a run already"):
        reproduce(packed, only=["lora"], output=again)


def edited(trained: Trained, tmp_path: Path, value: float, *, third: float | None = None, **changes: Any) -> tuple[Path, str]:
    """The folder with another test accuracy on record for one run; ``third``: that of a further seed, its record a copy."""
    folder = Path(shutil.copytree(trained.folder, tmp_path / "edited"))
    run = trained.run("lora", 0)
    path = folder / "runs" / run.path.parent.name / run.run_id
    if third is not None:
        further = RunConfig.model_validate({**run.config().model_dump(), "seed": 2})
        copied = Path(shutil.copytree(path, path.with_name(further.run_id)))
        (copied / "config.json").write_text(to_json(further))
        rewrite(copied, third, run_id=further.run_id, **changes)
    rewrite(path, value)
    environment = path / "environment.json"
    environment.write_text(json.dumps({**json.loads(environment.read_text()), "cpu": "another", "threads": {"intra_op": 1}}))
    return folder, run.run_id


def rewrite(path: Path, accuracy: float, **changes: Any) -> None:
    record = json.loads((path / "results.json").read_text()) | changes
    record["metrics"]["test"]["accuracy"] = accuracy
    (path / "results.json").write_text(json.dumps(record))


def accuracy(trained: Trained, seed: int) -> float:
    return trained.run("lora", seed).results().metrics["test"]["accuracy"]  # pyright: ignore


def test_what_differs_is_told_with_its_interval_and_the_machine(trained: Trained, tmp_path: Path, again: Path) -> None:
    value = accuracy(trained, 1)
    folder, run = edited(trained, tmp_path, value, third=value)  # three equal seeds: the interval is a point
    answer = reproduce(folder, runs=[run[:8]], output=again)
    (found,) = answer["runs"]
    assert answer.exit_code == EXIT_DIFFERENT == 10
    assert found["verdict"] == "different" and found["seeds"] == 3 and "outside the interval" in found["sentence"]
    assert found["environment"]["cpu"][0] == "another"


def test_within_the_interval_of_the_seeds(trained: Trained, tmp_path: Path, again: Path) -> None:
    """That of one arm and no wider for the other runs that are compared; two seeds give none."""
    folder, run = edited(trained, tmp_path / "three", 0.01, third=0.5)  # far apart, so that the interval is wide
    answer = reproduce(folder, only=["lora", "probe"], seeds=[0], output=again / "three")
    found = {r["arm"]: r for r in answer["runs"]}["lora"]
    assert answer.exit_code == 0 and found["verdict"] == "within interval" and found["run_id"] == run
    assert found["interval"] == pytest.approx(prediction_interval([0.01, accuracy(trained, 1), 0.5]))
    folder, run = edited(trained, tmp_path / "two", 0.01)
    (found,) = reproduce(folder, runs=[run], output=again / "two")["runs"]
    assert found["verdict"] == "different" and found["interval"] is None and "it takes 3" in found["sentence"]


def test_stand_ins_for_diverged_runs_give_no_interval(trained: Trained, tmp_path: Path, again: Path) -> None:
    """Two finished runs and one that diverged, which counts at chance: with it the interval would hold nearly anything."""
    folder, run = edited(trained, tmp_path, 0.01, third=0.5, status="diverged")
    (found,) = reproduce(folder, runs=[run], output=again)["runs"]
    assert found["seeds"] == 2 and found["interval"] is None and found["verdict"] == "different"


def test_another_outcome_is_different_and_what_failed_is_named(trained: Trained, tmp_path: Path, again: Path) -> None:
    folder, run = edited(trained, tmp_path, accuracy(trained, 0))
    path = folder / "runs" / trained.run("lora", 0).path.parent.name / run
    rewrite(path, accuracy(trained, 0), status="diverged")
    other = folder / "runs" / path.parent.name / trained.run("lora", 1).run_id
    (other / "results.json").unlink()
    about = {"type": "OutOfMemory", "what": "the device ran out of memory in step 7", "where": "train", "remedy": ""}
    (other / "error.json").write_text(to_json(RunError(run_id=other.name, error=about)))
    answer = reproduce(folder, only=["lora"], output=again)
    (found,) = answer["runs"]
    assert found["verdict"] == "different" and "diverged on record, finished now" in found["sentence"]
    assert answer.exit_code == EXIT_DIFFERENT
    assert answer["skipped"] == [
        "lora seed 1 failed on record, so that nothing can be laid beside it: the device ran out of memory in step 7"
    ]


def test_nothing_is_run_when_nothing_can_come_of_it(trained: Trained, tmp_path: Path, again: Path) -> None:
    with pytest.raises(StudyError, match="no finished run is of the arm 'loar'"):
        reproduce(trained.folder, only=["loar"], output=again)
    with pytest.raises(StudyError, match="seed 7"):
        reproduce(trained.folder, seeds=[7], output=again)
    with pytest.raises(StudyError, match="begins with 'zz'"):
        reproduce(trained.folder, runs=["zz"], output=again)
    with pytest.raises(RecordError, match="no such folder or bundle"):
        reproduce(tmp_path / "absent.zip", output=again)
    assert not again.exists()


def test_other_weights_are_refused(trained: Trained, again: Path) -> None:
    weights = trained.backbone / "model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(PlanRefused, match="the backbone on this machine are not those of the record"):
            reproduce(trained.folder, only=["probe"], output=again)
    finally:
        weights.write_bytes(kept)
    assert not again.exists()


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (
            [{"total_s": 60.0}, {"stacked": {"runs": 2}, "shared": {"total_s": 120.0, "part_s": 60.0}}],
            "2 runs that took 2 min on record,",
        ),
        ([{"total_s": 60.0}, {}], "2 runs that took 60 s on record (without 1, which do not say),"),
        ([{}, {}], "2 runs of none of which it is on record how long it took,"),
    ],
)
def test_what_runs_took_is_said_of_those_that_say_it(times: list[dict[str, Any]], said: str) -> None:
    chosen = [SimpleNamespace(results=SimpleNamespace(time=time)) for time in times]
    assert _expected(chosen, 1).startswith(said), _expected(chosen, 1)
