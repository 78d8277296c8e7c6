"""Run folders that travel: whole or refused, and never outside their place."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.errors import RecordError
from peftlab.records import commit
from peftlab.records.commit import commit_folder
from peftlab.records.record import RunConfig, RunError
from peftlab.records.run_archive import INDEX, discard, pack, receive
from peftlab.records.store import ResultsFolder, RunFolder, verify
from tests.execution.targets import configuration, results


def folder(path: Path) -> ResultsFolder:
    return ResultsFolder(path).open_or_create("study: tests\n")


def begun(path: Path, config: RunConfig, steps: int = 3) -> RunFolder:
    run = folder(path).run(config).create(config)
    run.append_metrics([{"step": n, "epoch": 1.0, "split": "train", "loss": 1.0} for n in range(1, steps + 1)])
    saved = run.checkpoints / "first" / f"step-{steps}"
    commit_folder(saved, lambda path: (path / "weights.safetensors").write_bytes(os.urandom(100)))
    return run


def finished(path: Path, config: RunConfig) -> RunFolder:
    run = begun(path, config)
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(os.urandom(3_000_000))
    run.finish(results(run.run_id))
    return run


def content(run: RunFolder) -> dict[str, str]:
    files = [path for path in run.path.rglob("*") if path.is_file() and path.name != "lease.json"]
    return {path.relative_to(run.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def sent(run: RunFolder, target: ResultsFolder, config: RunConfig, archive: Path) -> RunFolder:
    sha256 = pack(run, archive)
    came = target.run(config).make()
    with came.lease():
        receive(archive, sha256, came, config, target.path)
    return came


def test_a_finished_run_arrives_whole_without_its_checkpoints_and_only_once(tmp_path: Path) -> None:
    config, there = configuration(), folder(tmp_path / "there")
    run = finished(tmp_path / "here", config)
    came = sent(run, there, config, tmp_path / "a.tar")
    assert content(came) == {name: sha for name, sha in content(run).items() if not name.startswith("checkpoints/")}
    assert came.status() == "finished" and verify(there) == []
    before = (came.path / "results.json").stat().st_mtime_ns
    sent(run, there, config, tmp_path / "b.tar")
    assert (came.path / "results.json").stat().st_mtime_ns == before, "what is finished stays as it is"


def test_an_unfinished_run_replaces_its_earlier_state_and_keeps_checkpoints_and_old_errors(tmp_path: Path) -> None:
    config, there = configuration(), folder(tmp_path / "there")
    old = begun(tmp_path / "there", config, steps=2)
    old.fail(RunError(run_id=old.run_id, error={"type": "NonFinite", "what": "x", "where": "", "remedy": ""}))
    run = begun(tmp_path / "here", config, steps=5)
    run.fail(RunError(run_id=run.run_id, error={"type": "NonFinite", "what": "x", "where": "", "remedy": ""}))
    assert run.clear_error()
    came = sent(run, there, config, tmp_path / "a.tar")
    assert content(came) == content(run), "the error is now the earlier one, the old checkpoint is gone"
    assert came.status() == "interrupted" and verify(there) == []
    discard(run)
    assert not run.path.exists()


def test_the_journal_that_came_is_on_the_disk_before_the_checkpoints_that_rely_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, there = configuration(), folder(tmp_path / "there")
    run, order = begun(tmp_path / "here", config), []
    target = there.run(config).path
    replace, flush = os.replace, commit.fsync_folder

    def replacing(source: Path, place: Path) -> None:
        order.append(Path(place).name if Path(place).parent == target else "")
        replace(source, place)

    def flushing(path: Path) -> None:
        order.append("flush" if path == target else "")
        flush(path)

    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(commit, "fsync_folder", flushing)
    sent(run, there, config, tmp_path / "a.tar")
    seen = [what for what in order if what in ("metrics.jsonl", "flush", "checkpoints")]
    assert seen[-4:] == ["metrics.jsonl", "flush", "checkpoints", "flush"]


def test_a_run_that_somebody_works_on_is_not_discarded(tmp_path: Path) -> None:
    run = finished(tmp_path / "here", configuration())
    with run.lease():
        thread = threading.Thread(target=discard, args=(run,))
        thread.start()
        thread.join()
    assert run.path.exists()


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes], dict[str, Any]], None]) -> str:
    """The archive with its files and its index changed; its SHA-256, so that only what is inside can give it away."""
    with tarfile.open(source) as opened:
        files = {member.name: opened.extractfile(member).read() for member in opened}  # pyright: ignore
    index = json.loads(files.pop(INDEX))
    change(files, index["files"])
    with tarfile.open(target, "w") as made:
        for name, data in [(INDEX, json.dumps(index).encode()), *files.items()]:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            made.addfile(about, io.BytesIO(data))
    return hashlib.sha256(target.read_bytes()).hexdigest()


def listed(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


@pytest.mark.parametrize(
    "name", ["../../outside.txt", "/tmp/outside.txt", "a/../../outside.txt", "lease.json", "a\\b", ".hidden", "a//b"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    def change(files: dict[str, bytes], index: dict[str, Any]) -> None:
        files[name], index[name] = b"evil", listed(b"evil")

    refused(tmp_path, change, "is no name of a file of a run")


def test_what_is_not_in_the_index_or_missing_or_changed_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "1", lambda files, _: files.update({"extra.json": b"{}"}), "is no file of its index")
    refused(tmp_path / "2", lambda files, _: files.pop("metrics.jsonl"), "'metrics.jsonl' is missing")
    refused(
        tmp_path / "3", lambda files, _: files.update({"metrics.jsonl": b"x" * len(files["metrics.jsonl"])}), "changed on the way"
    )

    def forge(files: dict[str, bytes], index: dict[str, Any]) -> None:
        data = files["results.json"].replace(b"0.5", b"0.9")
        files["results.json"], index["results.json"] = data, listed(data)

    refused(tmp_path / "4", forge, "SHA-256 differs")


def refused(path: Path, change: Callable[[dict[str, bytes], dict[str, Any]], Any], what: str) -> None:
    config = configuration()
    path.mkdir(exist_ok=True)
    pack(finished(path / "here", config), path / "a.tar")
    sha256 = rewritten(path / "a.tar", path / "b.tar", change)
    there = folder(path / "there")
    came = there.run(config).make()
    with came.lease(), pytest.raises(RecordError, match=what):
        receive(path / "b.tar", sha256, came, config, there.path)
    assert content(came) == {} and not [p for p in there.path.iterdir() if p.name not in ("study.yaml", "runs")]
    assert not list(path.rglob("outside.txt"))


def test_links_and_another_runs_archive_are_refused(tmp_path: Path) -> None:
    config, other = configuration(0), configuration(1)
    sha256 = pack(finished(tmp_path / "here", other), tmp_path / "a.tar")
    there = folder(tmp_path / "there")
    came = there.run(config).make()
    with came.lease(), pytest.raises(RecordError, match="it is that of"):
        receive(tmp_path / "a.tar", sha256, came, config, there.path)
    with came.lease(), pytest.raises(RecordError, match="not that of what was sent"):
        receive(tmp_path / "a.tar", "0" * 64, came, config, there.path)
    with tarfile.open(tmp_path / "link.tar", "w") as made:
        index = json.dumps({"files": {"config.json": listed(b"")}}).encode()
        head = tarfile.TarInfo(INDEX)
        head.size = len(index)
        made.addfile(head, io.BytesIO(index))
        link = tarfile.TarInfo("config.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(link)
    with came.lease(), pytest.raises(RecordError, match="is no file of its index"):
        receive(tmp_path / "link.tar", hashlib.sha256((tmp_path / "link.tar").read_bytes()).hexdigest(), came, config, there.path)
    run = begun(tmp_path / "linked", config)
    (run.path / "loot.json").symlink_to("/etc/passwd")
    with pytest.raises(RecordError, match="a link cannot be sent"):
        pack(run, tmp_path / "c.tar")


@pytest.mark.parametrize("keep", [0, 100, 5000, -1])
def test_half_an_archive_is_refused(tmp_path: Path, keep: int) -> None:
    config, there = configuration(), folder(tmp_path / "there")
    pack(finished(tmp_path / "here", config), tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    half = data[:keep] if keep >= 0 else data[: len(data) // 2]
    (tmp_path / "a.tar").write_bytes(half)
    came = there.run(config).make()
    with came.lease(), pytest.raises(RecordError):
        receive(tmp_path / "a.tar", hashlib.sha256(half).hexdigest(), came, config, there.path)
    assert content(came) == {}
