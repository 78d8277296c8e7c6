"""Run folders and results folders."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from peftlab.errors import RecordError
from peftlab.records.commit import commit_folder
from peftlab.records.record import to_json
from peftlab.records.store import ResultsFolder, RunFolder, require_study, verify
from tests.records.disk import Told
from tests.records.examples import configuration, failure, results

STUDY = "study: first\nquestion: Is it so?\n"


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "first").open_or_create(STUDY)


@pytest.fixture
def run(folder: ResultsFolder) -> RunFolder:
    config = configuration()
    return folder.run(config).create(config)


def test_a_run_from_new_to_finished(folder: ResultsFolder) -> None:
    config = configuration()
    run = folder.run(config)
    assert run.path == folder.path / "runs" / "lora.rank-8" / config.run_id
    assert run.status() == "new" and not run.path.exists()
    assert run.create(config).status() == "new"
    assert run.config() == config
    with run.lease():
        run.append_metrics([{"step": 1, "epoch": 0.5, "split": "train", "loss": math.nan}])
        assert run.status() == "running"
    assert run.status() == "interrupted"
    with run.lease():
        run.write_json("memory.json", {"peak_memory_mb": math.inf})
        run.finish(results(run.run_id, metrics={"test": {"accuracy": None}}))
        assert run.status() == "finished"
    assert run.metrics()[0].loss is None
    assert run.read_json("memory.json") == {"peak_memory_mb": None}
    found = run.results()
    assert found is not None and found.steps == 3
    assert verify(folder) == []


def test_a_record_is_on_the_disk_before_its_results_say_so(run: RunFolder, monkeypatch) -> None:
    run.append_metrics([{"step": 1, "epoch": 0.5, "split": "train", "loss": 1.0}], durable=False)
    run.write_json("memory.json", {"peak_memory_mb": 1.0})
    told = Told(monkeypatch)
    run.finish(results(run.run_id))
    visible = max(at for at, event in enumerate(told.events) if event[0] == "rename")
    for name in ("metrics.jsonl", "memory.json", "config.json", "MANIFEST.json", "results.json"):
        assert told.flushed(run.path / name, visible), name
    assert told.events[-1][:2] == ("flush", run.path.stat().st_ino)


def test_metrics_last_unless_they_need_not(run: RunFolder, monkeypatch) -> None:
    told = Told(monkeypatch)
    run.append_metrics([{"step": 1, "epoch": 0.5, "split": "train"}], durable=False)
    assert told.events == []
    run.append_metrics([{"step": 2, "epoch": 0.5, "split": "train"}])
    assert told.flushed(run.path / "metrics.jsonl")


def test_a_record_stays_as_it_was_read_and_says_what_it_leaves_out(run: RunFolder) -> None:
    config = run.config()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert config.evaluate_test, "what is no tuning run is tested"
    run.append_metrics([{"step": 1, "epoch": 0.5, "split": "train"}])
    assert run.metrics()[0].time_s == 0.0 and results(run.run_id).resumed == 0


def test_arrays_come_back_as_they_were_written_and_a_refusal_is_typed(run: RunFolder, tmp_path: Path) -> None:
    arrays = {"label": np.array([0, 2]), "probability": np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)}
    run.write_arrays("predictions.npz", arrays)
    with np.load(run.path / "predictions.npz") as found:
        assert sorted(found.files) == sorted(arrays)
        assert all((found[name] == value).all() and found[name].dtype == value.dtype for name, value in arrays.items())
    with pytest.raises(RecordError) as caught:
        RunFolder(tmp_path / "absent").write_arrays("predictions.npz", arrays)
    assert caught.value.where == str(tmp_path / "absent" / "predictions.npz") and caught.value.remedy


def test_tuning_runs_live_apart(folder: ResultsFolder) -> None:
    config = configuration(purpose="tuning", evaluate_test=False)
    folder.run(config).create(config)
    folder.run(configuration()).create(configuration())
    assert [run.path.parts[-3] for run in folder.runs()] == ["runs", "tuning"]
    assert [run.run_id for run in folder.runs("tuning")] == [config.run_id]


def test_results_are_never_changed(run: RunFolder) -> None:
    run.write_json("memory.json", {"a": 1})
    run.finish(results(run.run_id))
    run.finish(results(run.run_id))
    run.write_json("memory.json", {"a": 1})
    for change in (
        lambda: run.finish(results(run.run_id, steps=4)),
        lambda: run.write_json("memory.json", {"a": 2}),
        lambda: run.write_json("later.json", {}),
        lambda: run.fail(failure(run.run_id)),
        lambda: run.finish(results("0123456789abcdef")),
    ):
        with pytest.raises(RecordError):
            change()
    assert run.verify() == []


@pytest.mark.parametrize("name", ["config.json", "results.json", "../x.json", "a/b.json", "x.txt", "lease.json", ".json"])
def test_write_json_refuses_other_names(run: RunFolder, name: str) -> None:
    with pytest.raises(RecordError):
        run.write_json(name, {})


def test_errors_are_kept_over_retries(run: RunFolder) -> None:
    for what in ("first", "second", "third"):
        run.fail(failure(run.run_id, what))
        assert run.status() == "failed"
    assert run.clear_error() and not run.clear_error()
    assert [json.loads((run.path / f"error-{n}.json").read_text())["error"]["what"] for n in (1, 2, 3)] == [
        "first",
        "second",
        "third",
    ]
    run.fail(failure(run.run_id, "fourth"))
    run.finish(results(run.run_id))
    assert run.status() == "finished" and run.verify() == []
    assert run.error() is None and "fourth" in (run.path / "error-4.json").read_text()


def test_an_error_that_is_kept_is_kept_over_a_power_cut(run: RunFolder, monkeypatch) -> None:
    run.fail(failure(run.run_id))
    told = Told(monkeypatch)
    run.clear_error()
    folder = run.path.stat().st_ino
    assert [event[:2] for event in told.events] == [("rename", folder), ("flush", folder)]


def test_truncating_at_resume(run: RunFolder) -> None:
    run.append_metrics({"step": step, "epoch": 0, "split": "train", "loss": 1.0} for step in range(1, 6))
    assert run.truncate_metrics(3) == 2
    assert [line.step for line in run.metrics()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: (p / "metrics.jsonl").write_text(""), "metrics.jsonl: 0 bytes"),
        (lambda p: (p / "ranks.json").unlink(), "ranks.json: missing"),
        (lambda p: (p / "adapter" / "w.bin").write_bytes(b"\1"), "adapter/w.bin: content changed"),
        (
            lambda p: (p / "results.json").write_text((p / "results.json").read_text().replace("0.5", "0.6")),
            "results.json: content",
        ),
        (lambda p: (p / "results.json").write_text("{"), "results.json: damaged"),
        (lambda p: (p / "config.json").write_text((p / "config.json").read_text().replace('"seed": 0', '"seed": 1')), "changed"),
        (lambda p: (p / "MANIFEST.json").unlink(), "MANIFEST.json is missing"),
        (lambda p: (p / "extra.json").write_text("{}"), "extra.json: added after"),
        (lambda p: (p / "adapter" / "w.bin").unlink() or (p / "adapter" / "w.bin").symlink_to("/dev/zero"), "leads out"),
        (lambda p: (p / "config.json").unlink(), "nothing says what this is"),
        (lambda p: p.rename(p.with_name("0123456789abcdef")), "changed"),
        (lambda p: p.parent.rename(p.parent.with_name("other")), "belongs in runs/lora.rank-8"),
        (lambda p: p.parent.joinpath("stray").write_text(""), "does not belong"),
        (lambda p: p.parent.joinpath("link").symlink_to("/etc"), "a link leads out"),
    ],
)
def test_verify_names_every_kind_of_damage(folder: ResultsFolder, run: RunFolder, damage, said: str) -> None:
    run.append_metrics([{"step": 1, "epoch": 1, "split": "train"}])
    run.write_json("ranks.json", {"a": 1})
    run.adapter.mkdir()
    (run.adapter / "w.bin").write_bytes(b"\0")
    run.checkpoints.mkdir()
    (run.checkpoints / "step-1").write_text("")
    run.finish(results(run.run_id))
    (run.checkpoints / "step-1").unlink()  # checkpoints are no part of the record
    assert verify(folder) == []
    damage(run.path)
    problems = verify(folder)
    assert len(problems) == 1 and said in problems[0], problems


def test_verify_reads_the_metrics_of_a_run_that_is_not_finished(folder: ResultsFolder, run: RunFolder) -> None:
    (run.path / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "split": "train"}\n{}\n')
    assert verify(folder) == [f"runs/lora.rank-8/{run.run_id}/metrics.jsonl:2: the line is damaged"]


def test_the_same_record_is_the_same_text(run: RunFolder) -> None:
    run.write_json("memory.json", {"b": 1, "a": {"d": "\u00e9", "c": 2}})
    assert (run.path / "memory.json").read_text() == '{\n "a": {\n  "c": 2,\n  "d": "\u00e9"\n },\n "b": 1\n}\n'
    written = (run.path / "config.json").read_text()
    assert written == json.dumps(configuration().model_dump(), indent=1, sort_keys=True) + "\n"
    assert '"backbone": "bundled:\u00e9"' in to_json(configuration(backbone="bundled:\u00e9"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"loss": math.nan})


def test_verify_reads_the_error_of_a_failed_run(folder: ResultsFolder, run: RunFolder) -> None:
    run.fail(failure(run.run_id, "too warm"))
    assert verify(folder) == []
    (run.path / "error.json").write_text("{")
    problems = verify(folder)
    assert len(problems) == 1 and "error.json: damaged" in problems[0]


def test_finishing_is_all_or_nothing_when_killed(tmp_path: Path) -> None:
    code = """
import os, signal, sys
fatal, calls = int(sys.argv[2]), 0
def deadly(function):
    def wrapper(*args, **kwargs):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper
for name in "fsync rename replace unlink".split():
    setattr(os, name, deadly(getattr(os, name)))
from peftlab.records.store import RunFolder
from tests.records.examples import results
run = RunFolder(sys.argv[1])
with run.lease():
    run.sweep()
    run.write_json("ranks.json", {"a": 1})
    run.finish(results(run.run_id))
print(calls)
"""
    config, fatal = configuration(), 0
    path = ResultsFolder(tmp_path / "first").open_or_create(STUDY).run(config).create(config).path
    while True:
        fatal += 1
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), str(fatal)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        run = RunFolder(path)
        assert run.status() in ("interrupted", "finished")
        assert run.verify() == []
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
    assert fatal > 5 and run.status() == "finished" and verify(tmp_path / "first") == []


def test_what_a_crash_left_half_written_is_swept_away(run: RunFolder) -> None:
    left = [run.path / ".results.json.tmp-01234567", run.checkpoints / "float32" / ".step-8.tmp-01234567"]
    whole = run.checkpoints / "float32" / "step-4"
    for path in (*left, whole):
        path.mkdir(parents=True)
    (run.checkpoints / "notes").write_text("of somebody")
    assert sorted(run.sweep()) == sorted(path.name for path in left)
    assert whole.exists() and not any(path.exists() for path in left)


def test_a_run_that_is_there_is_left_as_it_is(run: RunFolder) -> None:
    written = (run.path / "config.json").stat().st_ino
    assert run.create(configuration()).config() == configuration()
    pair = configuration(task={"kind": "image-classification", "data": ("a", "b")})
    again = RunFolder(run.path.with_name(pair.run_id)).create(pair).create(pair)
    assert again.config().task["data"] == ["a", "b"], "which is the same in JSON"
    assert (run.path / "config.json").stat().st_ino == written
    (run.path / "config.json").write_text("{")
    with pytest.raises(RecordError, match="damaged"):
        run.create(configuration())


def test_another_run_in_the_folder_is_refused(folder: ResultsFolder, run: RunFolder) -> None:
    with pytest.raises(RecordError, match="another run"):
        run.create(configuration(seed=1))
    (run.path / "config.json").write_text("{")
    with pytest.raises(RecordError, match="damaged"):
        run.config()
    rows = folder.status_table()
    assert len(rows) == 1 and "damaged" in rows[0].detail
    assert (rows[0].label, rows[0].seed, rows[0].fold) == ("lora.rank-8", -1, 0), "what a damaged record cannot say"


def test_a_changed_study_keeps_the_earlier_text(folder: ResultsFolder) -> None:
    changed = STUDY + "seeds: [0, 1]\n"
    folder.open_or_create(STUDY)
    assert sorted(p.name for p in folder.path.iterdir()) == ["study.yaml"]
    folder.open_or_create(changed)
    assert folder.study_text() == changed
    kept = [p for p in folder.path.iterdir() if p.name != "study.yaml"]
    assert len(kept) == 1 and kept[0].read_text() == STUDY
    folder.open_or_create(STUDY)
    folder.open_or_create(changed)
    assert len(list(folder.path.iterdir())) == 3


def test_what_follows_from_a_study_is_not_written_over_that_of_a_changed_one(folder: ResultsFolder) -> None:
    """Two processes on one folder: the second has a changed study, and the first ends last."""
    assert not folder.superseded
    folder.write_state("plan.json", "first")
    second = ResultsFolder(folder.path).open_or_create(STUDY + "seeds: [0, 1]\n")
    second.write_state("plan.json", "second")
    assert folder.superseded and not second.superseded and not ResultsFolder(folder.path).superseded
    folder.write_state("plan.json", "first again")
    assert (folder.path / "plan.json").read_text() == "second"


def test_the_same_study_given_otherwise_is_no_other(folder: ResultsFolder) -> None:
    """Once with ``--set``, which is said in comments, and once from a file that has the value."""
    ResultsFolder(folder.path).open_or_create("# overridden on the command line: train.epochs=1\n" + STUDY)
    assert not folder.superseded


def test_another_study_is_refused(folder: ResultsFolder) -> None:
    with pytest.raises(RecordError, match="'first', not 'second'"):
        folder.open_or_create("study: 'second'\n")
    assert folder.study_text() == STUDY


def test_secrets_do_not_get_in(tmp_path: Path, folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "c" * 34
    config = configuration(backbone=f"https://user:{token}@example.org/model")
    with pytest.raises(RecordError, match="secret"):
        folder.run(config).create(config)
    with pytest.raises(RecordError, match="secret"):
        ResultsFolder(tmp_path / "other").open_or_create(f"study: other\nsource: {token}\n")
    monkeypatch.setenv("MY_SERVICE_TOKEN", "canary-7f3a9b2c")
    run = folder.run(configuration()).create(configuration())
    run.write_json("notes.json", {"note": ["the canary-7f3a9b2c sang"]})
    run.fail(failure(run.run_id, f"no access with {token}"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert token not in path.read_text() and "canary-7f3a9b2c" not in path.read_text()


def test_links_and_unsafe_names_are_refused(tmp_path: Path, folder: ResultsFolder) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder.path / "runs").symlink_to(outside)
    with pytest.raises(RecordError, match="link"):
        folder.run(configuration())
    with pytest.raises(RecordError, match="no safe folder name"):
        folder.run(configuration(slug="../../outside"))


def test_find_by_the_beginning_of_an_id(folder: ResultsFolder) -> None:
    made = [folder.run(c).create(c).run_id for c in (configuration(seed=s) for s in range(40))]
    assert folder.find(made[3]).run_id == made[3]
    assert folder.find(made[3][:12]).run_id == made[3]
    several = next(a for a in "0123456789abcdef" if sum(m.startswith(a) for m in made) > 1)
    number = sum(name.startswith(several) for name in made)
    for wrong, said in (
        ("zzz", "there is no run 'zzz'"),
        ("", "there is no run ''"),
        (several, f"{number} runs begin with '{several}'"),
    ):
        with pytest.raises(RecordError) as caught:
            folder.find(wrong)
        assert caught.value.what == said


def test_status_table_reads_the_folders_alone(folder: ResultsFolder) -> None:
    configs = [configuration(seed=seed) for seed in range(3)]
    runs = [folder.run(config).create(config) for config in configs]
    runs[0].finish(results(runs[0].run_id))
    runs[1].fail(failure(runs[1].run_id, "too warm"))
    runs[2].append_metrics([{"step": 7, "epoch": 1, "split": "train"}])
    rows = {row.seed: row for row in ResultsFolder(folder.path).status_table()}
    assert [rows[seed].status for seed in range(3)] == ["finished", "failed", "interrupted"]
    assert rows[1].detail == "TrainingError: too warm" and rows[2].step == 7
    assert rows[0].label == "lora[rank=8]"


def test_the_status_table_says_who_works_on_a_run(folder: ResultsFolder, run: RunFolder) -> None:
    with run.lease():
        (row,) = folder.status_table()
        assert row.status == "running" and row.step is None
        assert row.detail == str(run.holder()) and f"process {os.getpid()} on " in row.detail
    (row,) = folder.status_table()
    assert (row.status, row.detail) == ("new", "")


def test_a_read_only_place_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError) as caught:
        ResultsFolder(tmp_path / "file" / "first").open_or_create(STUDY)
    assert caught.value.remedy
    with pytest.raises(RecordError, match=r"no study\.yaml"):
        verify(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_a_typed_error(folder: ResultsFolder) -> None:
    folder.path.chmod(0o500)
    try:
        with pytest.raises(RecordError, match=r"(?i)permission"):
            folder.run(configuration()).create(configuration())
    finally:
        folder.path.chmod(0o700)


def test_records_do_not_import_torch() -> None:
    code = (
        "import sys, peftlab.records.store, peftlab.records.environment as e; e.environment(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_study_that_is_no_text_is_a_typed_error(folder: ResultsFolder) -> None:
    (folder.path / "study.yaml").write_bytes(b"study: \xff\n")
    with pytest.raises(RecordError, match=r"study\.yaml cannot be read") as caught:
        folder.study_text()
    assert caught.value.where == str(folder.path) and "restore study.yaml" in (caught.value.remedy or "")


def refusal(path: Path) -> RecordError:
    with pytest.raises(RecordError) as caught:
        require_study(path)
    return caught.value


def test_a_folder_of_folders_of_results_names_what_is_in_it(folder: ResultsFolder, tmp_path: Path) -> None:
    require_study(folder.path)
    near = f"; there is {folder.path}"
    assert (refusal(tmp_path).remedy or "").endswith(f"results/<study>{near}")
    assert (refusal(tmp_path / "frist").remedy or "").endswith(f"makes it{near}")
    assert "did you mean" in (refusal(tmp_path / "frist").remedy or "").lower()
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tmp_path / "file").what
    assert (refusal(tmp_path / "file").remedy or "").endswith(near)


def test_where_no_results_are_near_none_are_named(tmp_path: Path) -> None:
    assert (refusal(tmp_path).remedy or "").endswith("results/<study>")
    for absent in (tmp_path / "first", tmp_path / "no" / "first"):
        assert refusal(absent).what == "there is no such results folder"
        assert refusal(absent).remedy == "`peftlab run STUDY` makes it"


@pytest.mark.parametrize("count", [8, 9])
def test_at_most_eight_folders_of_results_are_named(tmp_path: Path, count: int) -> None:
    made = [ResultsFolder(tmp_path / f"study-{number}").open_or_create(STUDY).path for number in range(count)]
    remedy = refusal(tmp_path).remedy or ""
    assert remedy.endswith(", ".join(map(str, made[:8])) + (", ..." if count > 8 else ""))


def test_the_folders_above_results_are_made_too(tmp_path: Path) -> None:
    assert ResultsFolder(tmp_path / "results" / "of" / "first").open_or_create(STUDY).study_text() == STUDY


def test_a_damaged_checkpoint_matters_while_a_run_may_go_on_from_it(folder: ResultsFolder, run: RunFolder) -> None:
    saved = run.checkpoints / "float32" / "step-4"
    commit_folder(saved, lambda path: (path / "weights.bin").write_text("x"))
    assert verify(folder) == []
    (saved / "weights.bin").write_text("y")
    (problem,) = verify(folder)
    assert problem.endswith("no checkpoint is whole, the run begins again")
    run.finish(results(run.run_id))
    assert verify(folder) == []


def test_a_link_to_an_arm_is_one_problem_and_not_followed(folder: ResultsFolder, run: RunFolder) -> None:
    arm = run.path.parent
    arm.with_name("alias").symlink_to(arm)
    (arm / "0123456789abcdef").symlink_to(run.path)
    assert [problem.partition(", ")[0].partition("; ")[0] for problem in verify(folder)] == [
        "runs/alias: is a link",
        f"runs/{arm.name}/0123456789abcdef: is a link",
    ]


def test_a_study_behind_a_link_is_not_one(folder: ResultsFolder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "study.yaml").symlink_to(folder.path / "study.yaml")
    assert refusal(other).what == "this is no results folder: it has no study.yaml"


def test_what_a_crash_left_is_no_problem_and_hides_none(folder: ResultsFolder, run: RunFolder) -> None:
    arm = run.path.parent
    (arm / ".0123456789abcdef.tmp-01234567").mkdir()
    (arm / "0000000000000000").mkdir()
    (arm / "0000000000000000" / "lease.json").write_text("")
    (arm / "lease.json").write_text("")
    assert verify(folder) == []
    (run.path / "config.json").write_text("{")
    (arm / "0000000000000000" / "metrics.jsonl").write_text("")
    problems = verify(folder)
    assert [problem.partition(": ")[0] for problem in problems] == [
        "runs/lora.rank-8/0000000000000000",
        f"runs/lora.rank-8/{run.run_id}/config.json",
    ]


def test_earlier_studies_and_runs_keep_their_names(folder: ResultsFolder, run: RunFolder) -> None:
    """The names that stand in folders and papers of earlier versions."""
    assert run.run_id == "ed25e4a85251d809"
    assert configuration(backbone="bundled:\u00e9").run_id == "df6235d3e6f5ae6b"
    folder.open_or_create(STUDY + "seeds: [0, 1]\n")
    digest = hashlib.sha256(STUDY.encode()).hexdigest()
    assert sorted(path.name for path in folder.path.glob("*.yaml")) == [f"study-{digest[:8]}.yaml", "study.yaml"]


def test_a_damaged_record_is_told_with_the_place_of_the_damage(run: RunFolder) -> None:
    (run.path / "config.json").write_text(json.dumps({**configuration().model_dump(), "seed": "many", "fold": "few"}))
    with pytest.raises(RecordError, match="damaged: seed must be a whole number, not 'many'"):
        run.config()
    (run.path / "config.json").unlink()
    with pytest.raises(RecordError, match="No such file") as caught:
        run.config()
    assert caught.value.where == str(run.path / "config.json")
