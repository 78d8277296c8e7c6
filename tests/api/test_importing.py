"""Outside arms become records that verify, appear in the analysis, and say what they are."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from peftlab import api
from peftlab.analysis.analyze import analyze
from peftlab.analysis.frame import load_frame
from peftlab.api._outside import Arm, find_place
from peftlab.errors import DataError, PeftlabError, RecordError, StudyError
from peftlab.records.store import ResultsFolder
from peftlab.study.expand import cells
from peftlab.study.load import validate_study
from peftlab.study.task_key import task_key
from tests.api.conftest import Trained
from tests.report.fixtures import STUDY, Options, config_of, write_results

pytestmark = pytest.mark.usefixtures("in_cache")


def test_adapter_of_a_run_scores_as_the_run_did(study: Trained) -> None:
    """The same numbers on both splits: one record, flagged, counted, verified, and in the analysis."""
    run = study.run("lora", 0)
    original = run.results()
    assert original is not None
    answer = api.import_results(run.adapter, study.folder, label="theirs")
    (record,) = answer["records"]
    assert record["seed"] == 0
    for split in ("validation", "test"):
        assert record["metrics"][split]["accuracy"] == original.metrics[split]["accuracy"]
        assert record["metrics"][split]["loss"] == pytest.approx(original.metrics[split]["loss"], rel=1e-5)
    assert api.verify(study.folder).exit_code == 0
    outcome = study.run("theirs").results()
    assert outcome is not None
    for key in ("trainable", "adapter", "head", "total", "full"):
        assert outcome.parameters[key] == original.parameters[key], key
    assert (outcome.steps, outcome.flags) == (0, ["imported, not trained here"])
    assert "measured_peak_mb" not in outcome.memory and "train_s" not in outcome.time
    frame = load_frame(study.folder)
    assert frame.arms == ["probe", "lora", "theirs"]
    rows = frame.primary()
    assert rows[rows["label"] == "theirs"]["flags"].tolist() == ["imported, not trained here"]
    findings = analyze(study.folder).model_dump(mode="json")
    assert "theirs" in json.dumps(findings)


def test_importing_twice_adds_nothing(study: Trained) -> None:
    adapter = study.run("lora", 1).adapter
    first = api.import_results(adapter, study.folder, label="theirs")
    again = api.import_results(adapter, study.folder, label="theirs")
    assert first["records"] == again["records"]
    assert len(list((study.folder / "runs" / "theirs").iterdir())) == 1
    with pytest.raises(RecordError, match="other results for seed 0"):
        api.import_results(study.run("lora", 0).adapter, study.folder, label="theirs")


def test_adapter_without_head_needs_one(study: Trained, tmp_path: Path) -> None:
    """The head may lie beside the adapter; without any there is nothing to evaluate."""
    original = study.run("lora", 0)
    shutil.copytree(original.adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(path)
    head = {name.rpartition(".")[2]: state.pop(name) for name in [key for key in state if ".classifier." in key]}
    assert set(head) == {"weight", "bias"}
    save_file(state, path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": None}))
    with pytest.raises(DataError, match="no classification head 'classifier'"):
        api.import_results(tmp_path / "adapter", study.folder, label="theirs")
    assert not (study.folder / "runs" / "theirs").exists()
    save_file({"weight": head["weight"][:3].clone(), "bias": head["bias"][:3].clone()}, tmp_path / "adapter" / "head.safetensors")
    with pytest.raises(RecordError, match="head does not fit"):
        api.import_results(tmp_path / "adapter", study.folder, label="theirs")
    save_file(head, tmp_path / "adapter" / "head.safetensors")
    (record,) = api.import_results(tmp_path / "adapter", study.folder, label="theirs")["records"]
    results, outcome = original.results(), study.run("theirs").results()
    assert results is not None and outcome is not None
    assert record["metrics"]["test"]["accuracy"] == results.metrics["test"]["accuracy"]
    assert outcome.parameters["trainable"] == results.parameters["trainable"]


def test_foreign_adapter_is_refused(study: Trained, trained_timm: Trained, tmp_path: Path) -> None:
    with pytest.raises(PeftlabError):
        api.import_results(trained_timm.run("lora").adapter, study.folder, label="theirs")
    with pytest.raises(DataError, match=r"no adapter_config\.json"):
        api.import_results(tmp_path, study.folder, label="theirs")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_config.json").write_text("{}")
    torch.save({}, tmp_path / "pickled" / "adapter_model.bin")
    with pytest.raises(DataError, match="its weights are pickled"):
        api.import_results(tmp_path / "pickled", study.folder, label="theirs")
    shutil.copytree(study.run("lora").adapter, tmp_path / "broken")
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(DataError, match="not readable as a PEFT adapter"):
        api.import_results(tmp_path / "broken", study.folder, label="theirs")
    assert not (study.folder / "runs" / "theirs").exists()


@pytest.mark.parametrize("form", ["csv", "json"])
def test_outside_numbers_become_records(form: str, study: Trained, tmp_path: Path) -> None:
    rows = [
        {"seed": 0, "accuracy": 0.875, "trainable": 1234, "peak_memory_mb": 55.5, "train_s": 12.0},
        {"seed": 1, "accuracy": 0.9, "trainable": 1234, "peak_memory_mb": 56, "train_s": 11.5},
    ]
    path = tmp_path / f"theirs.{form}"
    if form == "csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n")
    else:
        path.write_text(json.dumps(rows))
    answer = api.import_results(path, study.folder, label="paper")
    assert [record["metrics"]["test"] for record in answer["records"]] == [{"accuracy": 0.875}, {"accuracy": 0.9}]
    assert api.verify(study.folder).exit_code == 0
    table = load_frame(study.folder).primary()
    theirs = table[table["label"] == "paper"].sort_values("seed")
    assert theirs["value"].tolist() == [0.875, 0.9]
    assert theirs["task"].unique().tolist() == table["task"].unique().tolist()  # the same setting as the study's own arms
    assert set(theirs["flags"]) == {"outside results: not measured here"}
    assert (theirs["trainable"].iloc[0], theirs["measured_peak_mb"].iloc[0], theirs["train_s"].iloc[0]) == (1234, 55.5, 12.0)
    analyze(study.folder)
    assert api.import_results(path, study.folder, label="paper")["records"] == answer["records"]
    with pytest.raises(RecordError, match="imported"):
        api.export(study.folder, answer["records"][0]["run_id"], tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("seed,acuracy\n0,0.9\n", "unknown column 'acuracy'", ":2"),
        ("seed,accuracy\n0,0.9\n7,0.9\n", "seed 7 is none of the study", ":3"),
        ("seed,accuracy\n0,0.9\n0,0.8\n", "comes twice", ":3"),
        ("seed,accuracy\n0.5,0.9\n", "no whole number", ":2"),
        ("seed,accuracy\n,0.9\n", "seed is missing", ":2"),
        ("seed,accuracy\n0,93.5\n", "accuracy is 93.5", ":2"),
        ("seed,accuracy\n0,nan\n", "not a finite number", ":2"),
        ("seed,accuracy\n0,\n", "'accuracy' is missing", ":2"),
        ("seed,accuracy\n0,0.9,3\n", "more or fewer cells", ":2"),
        ("seed,accuracy\n", "no row", ".csv"),
        ("seed,accuracy,trainable\n0,0.9,1.5\n", "trainable is 1.5", ":2"),
        ("seed,accuracy,backbone\n0,0.9,other/model\n", "no backbone 'other/model'", "backbone"),
        ("seed,accuracy,accuracy\n0,0.9,0.9\n", "comes twice", ".csv"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(text: str, message: str, place: str, study: Trained, tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    with pytest.raises((DataError, StudyError), match=message) as caught:
        api.import_results(path, study.folder, label="paper")
    assert place in caught.value.where
    assert caught.value.remedy
    assert not (study.folder / "runs" / "paper").exists()


@pytest.mark.parametrize(
    "text", ["{", '{"seed": 0}', "[1, 2]", '[{"seed": true, "accuracy": 0.9}]', '[{"seed": 0, "accuracy": [1]}]']
)
def test_bad_json(text: str, study: Trained, tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_text(text)
    with pytest.raises(DataError):
        api.import_results(tmp_path / "theirs.json", study.folder, label="paper")


def test_label_must_be_free(study: Trained, tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text("seed,accuracy\n0,0.9\n")
    for label in ("lora", "no/name"):
        with pytest.raises(StudyError):
            api.import_results(tmp_path / "theirs.csv", study.folder, label=label)
    with pytest.raises(DataError, match="no such file"):
        api.import_results(tmp_path / "absent.csv", study.folder, label="paper")
    with pytest.raises(RecordError, match=r"no study\.yaml"):
        api.import_results(tmp_path / "theirs.csv", tmp_path, label="paper")


def test_numbers_before_the_first_run(trained: Trained, tmp_path: Path) -> None:
    """A study that has not run yet: the task itself is asked for its metrics and levels."""
    (tmp_path / "new").mkdir()
    shutil.copy(trained.folder / "study.yaml", tmp_path / "new" / "study.yaml")
    (tmp_path / "theirs.csv").write_text("seed,accuracy,loss\n1,0.5,1.25\n")
    api.import_results(tmp_path / "theirs.csv", tmp_path / "new", label="paper")
    run, other = Trained(tmp_path / "new", trained.backbone).run("paper", 1), trained.run("lora", 1)
    assert (run.config().task, run.config().data_fingerprint) == (other.config().task, other.config().data_fingerprint)
    mine, theirs = run.results(), other.results()
    assert mine is not None and theirs is not None
    assert (mine.chance, mine.higher_is_better) == (theirs.chance, theirs.higher_is_better)


def test_a_run_of_an_earlier_form_does_not_say_what_the_task_is(tmp_path: Path) -> None:
    """The images had 64 pixels, and have their own size now."""
    before = copy.deepcopy(STUDY)
    before["task"]["image_size"] = 64
    folder = write_results(tmp_path, Options(study=before))
    with (folder / "study.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(STUDY, stream)
    study = validate_study(copy.deepcopy(STUDY))
    planned = [(cell, config_of(study, cell, seed)) for cell in cells(study) for seed in study.seeds]
    rows = [
        {**config.model_dump(include={"label", "backbone", "seed", "fold"}), "task": task_key(cell.task), "run_id": config.run_id}
        for cell, config in planned
    ]
    (folder / "plan.json").write_text(json.dumps({"runs": rows}))
    place = find_place(Arm(study, ResultsFolder(folder), "paper"))
    assert place.task["image_size"] is None
