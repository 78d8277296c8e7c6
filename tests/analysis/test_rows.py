"""A row per run, split and metric; runs that diverged and runs that failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftlab.analysis.analyze import analyze
from peftlab.analysis.frame import load_frame
from peftlab.analysis.planned import task_names
from peftlab.analysis.reading import read_runs
from peftlab.analysis.rows import BUSY_FLAG, COLUMNS, tidy_rows
from tests.report.fixtures import write_results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path)


def one_run(folder: Path, slug: str = "full") -> Path:
    return sorted((folder / "runs" / slug).iterdir())[0]


def test_a_row_per_run_split_and_metric(folder: Path) -> None:
    frame = load_frame(folder)
    assert list(frame.rows.columns) == [*COLUMNS, "factor.rank"]
    keys = ["label", "task", "backbone", "seed", "fold", "split", "metric"]
    assert not frame.rows.duplicated(keys).any()
    full = frame.rows[frame.rows["label"] == "full"]
    assert len(full) == 5 * (3 + 2)  # seeds x (test metrics + validation metrics)
    raw = json.loads((one_run(folder) / "results.json").read_text())
    row = frame.primary().set_index("run_id").loc[raw["run_id"]]
    assert row["value"] == raw["metrics"]["test"]["accuracy"]
    assert row["trainable"] == raw["parameters"]["trainable"]
    assert frame.arms == ["full", "linear-probe", "bitfit", "lora[rank=2]", "lora[rank=8]", "lora[rank=32]", "lora-all"]


def test_a_diverged_run_is_an_outcome_at_chance(folder: Path) -> None:
    frame = load_frame(folder)
    rows = frame.primary()
    rows = rows[rows["label"] == "lora[rank=32]"]
    assert len(rows) == 5
    broken = rows[rows["imputed"]]
    assert list(broken["seed"]) == [4] and list(broken["value"]) == [0.1] and list(broken["status"]) == ["diverged"]
    assert [(p.label, p.seed) for p in frame.problems if p.kind == "diverged"] == [("lora[rank=32]", 4)]


def test_a_non_finite_error_is_a_divergence_too(folder: Path) -> None:
    run = one_run(folder)
    (run / "results.json").unlink()
    about = {"type": "NonFinite", "what": "the loss became NaN in step 3", "where": "", "remedy": ""}
    (run / "error.json").write_text(json.dumps({"run_id": run.name, "error": about}))
    row = load_frame(folder).primary().set_index("run_id").loc[run.name]
    assert row["imputed"] and row["value"] == 0.1


def test_failed_runs_are_listed_and_not_imputed(folder: Path) -> None:
    frame = load_frame(folder)
    failed = [p for p in frame.problems if p.kind == "failed"]
    assert [(p.label, p.seed, p.remedy) for p in failed] == [("bitfit", 3, "halve batch_size")]
    assert 3 not in set(frame.primary().query("label == 'bitfit'")["seed"])


def test_where_no_record_states_chance_the_worst_value_seen_stands_in(folder: Path) -> None:
    for path in folder.glob("runs/*/*/results.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "chance": {}}))
    records, _, _ = read_runs(folder)
    table, problems, warnings = tidy_rows(records, task_names(r.config.task for r in records), "accuracy")
    values = [v["accuracy"] for r in records if r.results and not r.diverged for v in r.results.metrics.values()]
    imputed = table[table["imputed"]]
    assert set(imputed["split"]) == {"test", "validation"} and set(imputed["value"]) == {min(values)}
    assert imputed["chance"].isna().all()
    assert sorted(p.kind for p in problems) == ["diverged", "failed"]
    assert len(warnings) == 1 and warnings[0].startswith("lora[rank=32] seed 4 diverged and no record of the task states")


@pytest.mark.parametrize(
    ("time", "flagged"),
    [
        ({"cpu_s": 7.9}, True),
        ({"cpu_s": 8.0}, False),
        ({"cpu_s": 15.0, "threads": 2}, False),
        ({"cpu_s": 1.0, "total_s": 2.0}, True),
        ({"cpu_s": 1.0, "total_s": 1.9}, False),  # most of it is reading files
        ({"cpu_s": 1.0, "device": "cuda:0"}, False),  # the process waits for its GPU
        ({"cpu_s": 1.0, "processes": 2}, False),  # for the others
        ({"cpu_s": 1.0, "prefix": {"used": True}}, False),  # for the run that computes what they share
        ({"cpu_s": 7.0, "given_up": {"total_s": 5.0, "cpu_s": 2.5}}, False),  # the first attempt waited, for a GPU that failed
        ({"cpu_s": 7.0, "given_up": {"total_s": 5.0, "cpu_s": 5.0}}, True),
        ({"cpu_s": None, "total_s": None}, False),  # begun by an earlier version
        ({}, False),  # a record of before, or of a stack, whose time is that of all its runs
    ],
)
def test_a_run_that_was_kept_waiting_says_that_its_time_is_of_a_busy_machine(folder: Path, time: dict, flagged: bool) -> None:
    run = one_run(folder)
    raw = json.loads((run / "results.json").read_text())
    raw["time"] = {"train_s": 5.0, "total_s": 10.0, "device": "cpu", **time}
    (run / "results.json").write_text(json.dumps(raw))
    rows = load_frame(folder).primary().set_index("run_id")
    assert (rows.loc[run.name, "flags"] == BUSY_FLAG) == flagged
    assert BUSY_FLAG not in "".join(rows.drop(index=run.name)["flags"])
    if flagged:
        (arm,) = [arm for arm in analyze(folder).arms if arm.label == "full"]
        assert arm.flags == [BUSY_FLAG], "so it stands in every table"


def test_what_was_not_trained_has_no_time_to_doubt(folder: Path) -> None:
    run = one_run(folder)
    raw = json.loads((run / "results.json").read_text())
    raw |= {"steps": 0, "time": {"total_s": 10.0, "cpu_s": 1.0, "device": "cpu"}}
    (run / "results.json").write_text(json.dumps(raw))
    assert load_frame(folder).primary().set_index("run_id").loc[run.name, "flags"] == ""


def test_without_records_the_table_has_its_columns() -> None:
    table, problems, warnings = tidy_rows([], {}, "accuracy")
    assert list(table.columns) == COLUMNS and table.empty and not problems and not warnings
