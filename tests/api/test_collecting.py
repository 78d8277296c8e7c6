"""gc and verify on a results folder with everything that crashes, finished runs and changed studies leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from peftlab import api
from peftlab.api import collecting
from peftlab.errors import RecordError
from peftlab.records.commit import commit_folder
from peftlab.records.lease import Lease
from peftlab.records.store import ResultsFolder, RunFolder
from peftlab.study.load import parse_yaml, validate_study
from peftlab.tuning import choice
from tests.records.examples import configuration, failure, results

STUDY = """study: tests
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits}
seeds: [0, 1, 2]
train: {epochs: 1}
tune: {learning_rate: [1e-3, 1e-2], seeds: [100]}
arms:
  lora: {adapter: {name: lora, rank: [4, 8]}}
"""


def checkpoint(run: RunFolder, step: int, attempt: str = "float32") -> Path:
    target = run.checkpoints / attempt / f"step-{step:08d}"
    commit_folder(target, lambda folder: (folder / "state.json").write_text(json.dumps({"step": step})))
    return target


def damage(checkpoint: Path) -> Path:
    (checkpoint / "state.json").write_text("{}")
    return checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "tests").open_or_create(STUDY)


@pytest.fixture
def finished(folder: ResultsFolder) -> RunFolder:
    config = configuration()
    run = folder.run(config).create(config)
    run.finish(results(run.run_id))
    return run


@pytest.fixture
def unfinished(folder: ResultsFolder) -> RunFolder:
    config = configuration(seed=1)
    return folder.run(config).create(config)


def everything(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_may_go_goes_and_the_rest_stays(folder: ResultsFolder, finished: RunFolder, unfinished: RunFolder) -> None:
    keep = everything(folder.path)
    checkpoint(finished, 4)
    (finished.path / ".memory.json.tmp-01234567").write_text("half")
    old = checkpoint(unfinished, 1)
    kept = [checkpoint(unfinished, 2), checkpoint(unfinished, 3)]
    damaged = damage(checkpoint(unfinished, 4))
    half = unfinished.checkpoints / "float32" / ".step-00000005.tmp-01234567"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"x" * 1000)
    (unfinished.path / "lease.json").write_text("{}")
    aged = folder.path / ".plan.json.tmp-01234567"
    aged.write_text("old")
    os.utime(aged, (1, 1))
    (folder.path / ".plan.json.tmp-76543210").write_text("somebody may be writing this")

    before = everything(folder.path)
    dry = api.gc(folder.path)
    assert everything(folder.path) == before, "dry by default"
    named = {row["path"].split("/", 2)[-1] for row in dry["left"]}
    run = unfinished.run_id
    assert named == {
        f"{finished.run_id}/checkpoints", f"{finished.run_id}/.memory.json.tmp-01234567",
        f"{run}/checkpoints/float32/{old.name}", f"{run}/checkpoints/float32/{damaged.name}",
        f"{run}/checkpoints/float32/{half.name}", f"{run}/lease.json", ".plan.json.tmp-01234567",
    }  # fmt: skip
    assert dry["bytes"] == sum(row["bytes"] for row in dry["left"]) > 1000

    done = api.gc(folder.path, delete=True)
    assert done["bytes"] == dry["bytes"] and done.exit_code == 0
    after = everything(folder.path)
    assert {name: after.get(name) for name in keep} == keep, "no record was touched"
    assert all(path.is_dir() for path in kept) and not any(path.exists() for path in (old, damaged, half, aged))
    assert (folder.path / ".plan.json.tmp-76543210").exists()
    assert api.gc(folder.path)["left"] == []
    assert api.verify(folder.path)["ok"]


def test_the_only_checkpoints_of_an_unfinished_run_stay_even_damaged(folder: ResultsFolder, unfinished: RunFolder) -> None:
    """That none is whole must be noticed by the run that begins again."""
    path = damage(checkpoint(unfinished, 4))
    assert api.gc(folder.path, delete=True)["left"] == [] and path.exists()
    (problem,) = api.verify(folder.path)["problems"]
    assert "no checkpoint is whole" in problem and path.name in problem
    checkpoint(unfinished, 5)
    assert api.verify(folder.path)["ok"]


def test_a_failed_run_keeps_what_a_retry_continues_from(folder: ResultsFolder, unfinished: RunFolder) -> None:
    paths = [checkpoint(unfinished, step) for step in (1, 2)]
    unfinished.fail(failure(unfinished.run_id))
    assert api.gc(folder.path, delete=True)["left"] == []
    assert all(path.exists() for path in paths) and unfinished.error() is not None


def test_the_old_form_of_a_folder_whose_replacement_was_cut_short_stays(folder: ResultsFolder, unfinished: RunFolder) -> None:
    path = checkpoint(unfinished, 4)
    aside = path.rename(path.with_name(f".{path.name}.old-01234567"))
    assert api.gc(folder.path, delete=True)["left"] == [] and aside.exists()
    unfinished.sweep()
    assert path.exists()


def test_nothing_of_a_run_that_is_worked_on(folder: ResultsFolder, unfinished: RunFolder) -> None:
    code = "import sys, time, pathlib; from peftlab.records.lease import Lease\n"
    code += "with Lease(pathlib.Path(sys.argv[1])):\n    print(flush=True); time.sleep(60)"
    half = unfinished.path / ".results.json.tmp-01234567"
    half.write_text("being written")
    command = [sys.executable, "-c", code, str(unfinished.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            assert api.gc(folder.path, delete=True)["left"] == [] and half.exists()
            notes = api.verify(folder.path)["notes"]
            assert any(f"worked on by process {process.pid}" in note for note in notes)
        finally:
            process.send_signal(signal.SIGKILL)
    assert any("a process that died held its lease" in note for note in api.verify(folder.path)["notes"])
    assert len(api.gc(folder.path, delete=True)["left"]) == 2 and not half.exists()


def test_a_run_that_is_taken_meanwhile_is_kept(folder: ResultsFolder, unfinished: RunFolder) -> None:
    """Between looking and deleting a runner may come; gc looks again under the lease."""
    (unfinished.path / ".results.json.tmp-01234567").write_text("")
    found = list(collecting.spare(folder.path))
    ready, done = threading.Event(), threading.Event()

    def work() -> None:
        with Lease(unfinished.path):
            ready.set()
            done.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        ready.wait(30)
        kept = collecting._delete(found, folder.path)
    finally:
        done.set()
        thread.join()
    assert "is being worked on" in next(iter(kept.values())) and (unfinished.path / ".results.json.tmp-01234567").exists()


def test_links_are_not_followed_and_not_deleted_through(folder: ResultsFolder, finished: RunFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "checkpoints" / "float32").mkdir(parents=True)
    (outside / ".x.json.tmp-01234567").write_text("precious")
    (outside / "results.json").write_text("{}")
    finished.checkpoints.symlink_to(outside / "checkpoints")
    (folder.path / "tuning").symlink_to(outside)
    (folder.path / "runs" / "link").symlink_to(tmp_path)
    before = everything(outside)
    assert api.gc(folder.path, delete=True)["left"] == []
    assert everything(outside) == before and finished.checkpoints.is_symlink()
    problems = api.verify(folder.path)["problems"]
    for name in ("runs/link", "tuning", "checkpoints"):
        assert any(name in problem and "link" in problem for problem in problems), (name, problems)


def test_verify_names_what_nobody_asks_for_any_more(folder: ResultsFolder) -> None:
    for changed in (
        {"label": "gone", "slug": "gone"},
        {"purpose": "tuning", "seed": 100, "tuned": {"learning_rate": 0.5}},
        {"purpose": "tuning", "seed": 100, "tuned": {"learning_rate": 0.01}},
        {"purpose": "tuning", "seed": 101, "tuned": {"learning_rate": 0.01}},
        {"seed": 7},
        {"label": "elsewhere", "slug": "elsewhere", "adapter": {"name": "outside", "source": "a table"}},
    ):
        config = configuration(**changed)
        folder.run(config).create(config)
    answer = api.verify(folder.path)
    assert answer["ok"]
    assert sorted(note.partition("but ")[2] for note in answer["notes"]) == [
        "the study does not try learning_rate 0.5 any more",
        "the study has no arm 'gone' any more",
        "the study has no seed 7 any more",
        "the study has no tuning seed 101 any more",
    ]


def test_verify_names_runs_with_values_that_tuning_no_more_chooses(folder: ResultsFolder) -> None:
    """Whatever else of them has changed, and whatever part of the study was run last."""
    arm = configuration()
    choice.save(
        folder, validate_study(parse_yaml(STUDY)), [], [],
        [choice.Choice(
            label=arm.label, backbone=arm.backbone, task="image-classification:digits", values={"learning_rate": 0.001},
            mean=0.9, trials=2, different=2, runs=2, lost=0, tied=1, at_edge=(), lacks=(), time_s=1.0,
        )],
    )  # fmt: skip
    for rate, changed in (
        (0.01, {}),
        (0.001, {"seed": 1}),
        (0.01, {"seed": 1, "fold": 1}),  # of a fold for which nothing was chosen
        (0.001, {"seed": 1, "train": {"learning_rate": 0.001, "epochs": 7}}),
        (0.01, {"seed": 2, "backbone": "another"}),
    ):
        whole = {"task": {**arm.task, "image_size": None}, "train": {"learning_rate": rate}, "tuned": {"learning_rate": rate}}
        config = configuration(**{**whole, **changed})
        folder.run(config).create(config)
    notes = api.verify(folder.path)["notes"]
    assert sorted(note.partition("but ")[2] for note in notes if "tuning" not in note) == [
        "the arm is trained otherwise now (epochs 7, now 1)",
        "the study has no backbone 'another' any more",
    ]
    [note] = [note for note in notes if "tuning" in note]
    assert note.endswith("1 run kept, but tuning does not choose learning_rate 0.01 any more")


def test_a_record_of_the_tuning_that_is_not_ours_stops_nobody(folder: ResultsFolder, unfinished: RunFolder) -> None:
    for content in ("[" * 100_000, "[]", '{"chosen": [1, {"values": 2}]}'):
        (folder.path / "tuning.json").write_text(content)
        assert api.verify(folder.path)["notes"] == [], content


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("study-0123abcd.yaml", b"study: tests\n", "content changed"),
        ("plan.json", b"{", "plan.json: damaged"),
        ("tuning/optuna.db", b"SQLite format 3\0" + b"\0" * 4096, "optuna.db: damaged"),
        ("tuning/optuna.db", b"no database at all" * 300, "optuna.db: damaged"),
    ],
)
def test_verify_looks_at_the_files_of_the_study(folder: ResultsFolder, name: str, content: bytes, said: str) -> None:
    folder.open_or_create(STUDY + "question: another\n")
    assert api.verify(folder.path)["ok"], "the earlier text is kept under its hash"
    (folder.path / name).parent.mkdir(exist_ok=True)
    (folder.path / name).write_bytes(content)
    problems = api.verify(folder.path)["problems"]
    assert len(problems) == 1 and said in problems[0]


def test_a_pipe_in_place_of_a_record_stops_nobody(folder: ResultsFolder, finished: RunFolder) -> None:
    (finished.path / "results.json").unlink()
    os.mkfifo(finished.path / "results.json")
    started = time.monotonic()
    problems = api.verify(folder.path)["problems"]
    assert any("no regular file" in problem for problem in problems)
    with pytest.raises(RecordError, match="no regular file"):
        finished.results()
    assert time.monotonic() - started < 60


def test_the_shared_cache_is_an_option(folder: ResultsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("PEFTLAB_CACHE", str(cache))
    for name, age in {"images/a.npy": 200_000, "prefixes/b.rows": 10, "prefixes/b.lock": 200_000, "mine/c": 200_000}.items():
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"x" * 10)
        os.utime(cache / name, (time.time() - age,) * 2)
    assert api.gc(folder.path)["left"] == []
    answer = api.gc(folder.path, cache=True, delete=True)
    assert [row["path"] for row in answer["left"]] == [str(cache / "images/a.npy")]
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == ["b.lock", "b.rows", "c"]


def test_no_results_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RecordError, match=r"no study\.yaml"):
        api.gc(tmp_path, delete=True)
    assert (tmp_path / "checkpoints").exists()
