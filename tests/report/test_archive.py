"""The reproducibility bundle: what is in it, that it is the same twice, and what an opened one may not hold."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.api.bundling import bundle
from peftlab.errors import RecordError
from peftlab.report.archive import pack
from peftlab.report.build import build_report
from peftlab.report.unarchive import unpack
from tests.report.fixtures import STUDY, Options, write_results

SMALL = {**STUDY, "seeds": [0, 1], "arms": {name: STUDY["arms"][name] for name in ("full", "bitfit")}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("source"), Options(study=SMALL, failed=(("bitfit", 1),), diverged=()))
    build_report(folder)
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / source.name))


def names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


def test_the_bundle_holds_what_the_study_left_and_nothing_heavy(folder: Path, tmp_path: Path) -> None:
    run = next((folder / "runs" / "full").iterdir())
    for name in ("adapter/adapter_model.safetensors", "checkpoints/3/weights.safetensors", "worker.log"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"\0weights")
    made = bundle(folder, output=tmp_path / "b.zip")["bundle"]
    found = names(made.path)
    assert {"study.yaml", "plan.json", "analysis/findings.json", "report/index.html", "bundle.json", "README.txt"} <= {*found}
    assert f"runs/full/{run.name}/results.json" in found
    assert not [name for name in found if "adapter/" in name or "checkpoints/" in name or name.endswith((".log", ".parquet"))]
    assert found == [*sorted(found[:-1]), "SHA256SUMS"]
    assert made.left_out["adapter"] == made.left_out["checkpoint"] == 1
    assert f"runs/full/{run.name}/adapter/adapter_model.safetensors" in names(
        pack(folder, tmp_path / "c.zip", adapters=True).path
    )


def test_commands_come_with_the_time_that_the_runs_took(folder: Path, tmp_path: Path) -> None:
    unpack(pack(folder, tmp_path / "b.zip").path, (target := tmp_path / "out").mkdir() or target)
    about = json.loads((target / "bundle.json").read_text())
    taken = [json.loads(p.read_text())["time"]["total_s"] for p in folder.glob("runs/full/*/results.json")]
    command = next(c for c in about["commands"] if c["command"].endswith("--only 'full'"))
    assert command["runs"] == len(taken) == 2
    assert command["took_s"] == pytest.approx(sum(taken), abs=0.06)
    assert about["verdict"] and about["environment"]["same"]["package torch"] == "2.14.1"
    assert "peftlab reproduce" in (target / "README.txt").read_text()


def test_the_whole_study_and_the_report_say_how_long_they_take(folder: Path, tmp_path: Path) -> None:
    """The study was tuned, and one of its runs failed: without records of them the time says what it lacks."""

    def about() -> dict[str, dict[str, Any]]:
        with zipfile.ZipFile(pack(folder, tmp_path / "b.zip").path) as opened:
            commands = json.loads(opened.read("bundle.json"))["commands"]
            assert f"about {round(6.042)} s, estimated" in opened.read("README.txt").decode()
        return {c["what"].split(";")[0]: c for c in commands}

    taken = [json.loads(p.read_text())["time"]["total_s"] for p in folder.glob("runs/*/*/results.json")]
    whole = about()["the whole study anew, tuning with it"]
    assert whole["runs"] == len(taken) == 3 and whole["took_s"] == pytest.approx(sum(taken), abs=0.06)
    assert "the time lacks its tuning and 1 run without results" in whole["what"]
    tuning = folder / "tuning" / "full" / "0123"
    tuning.mkdir(parents=True)
    (tuning / "results.json").write_text('{"time": {"total_s": 100.0}}')
    whole, report = (
        about()[what] for what in ("the whole study anew, tuning with it", "findings, figures, tables from the records")
    )
    assert whole["runs"] == 4 and whole["took_s"] == pytest.approx(100 + sum(taken), abs=0.06)
    assert "tuning and" not in whole["what"] and "1 run without results" in whole["what"]
    assert report["took_s"] is None and report["expected_s"] == 6.0


def test_of_runs_computed_together_each_counts_its_part(folder: Path, tmp_path: Path) -> None:
    """And what no record says is said, not zero."""

    def command(time: dict[str, Any]) -> dict[str, Any]:
        for path in folder.glob("runs/full/*/results.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"time": time}))
        with zipfile.ZipFile(pack(folder, tmp_path / "b.zip").path) as opened:
            commands = json.loads(opened.read("bundle.json"))["commands"]
        return next(c for c in commands if c["command"].endswith("--only 'full'"))

    found = command({"stacked": {"runs": 4}, "shared": {"total_s": 45.0, "train_s": 40.0, "part_s": 15.0}})
    assert (found["runs"], found["took_s"], found["what"]) == (2, 30.0, "one arm")
    found = command({})
    assert (found["runs"], found["took_s"]) == (2, None)
    assert found["what"] == "one arm; the time lacks 2 runs, of which no record says how long"


def test_the_same_folder_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = pack(folder, tmp_path / "a.zip").sha256
    elsewhere = Path(shutil.copytree(folder, tmp_path / "elsewhere" / folder.name))
    for path in elsewhere.rglob("*"):
        path.touch()
    assert pack(elsewhere, tmp_path / "b.zip").sha256 == first
    build_report(elsewhere)
    assert pack(elsewhere, tmp_path / "c.zip").sha256 == first


def test_what_was_packed_comes_out_again(folder: Path, tmp_path: Path) -> None:
    (target := tmp_path / "out").mkdir()
    unpack(pack(folder, tmp_path / "b.zip").path, target)
    for path in folder.glob("runs/*/*/*.json"):
        assert (target / path.relative_to(folder)).read_bytes() == path.read_bytes()
    for line in (target / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((target / name).read_bytes()).hexdigest() == digest


def test_secrets_are_masked(folder: Path, tmp_path: Path) -> None:
    token = "hf_" + "a1B2" * 8
    run = next((folder / "runs" / "full").iterdir())
    (run / "note.json").write_text(json.dumps({"said": f"logged in with {token}"}))
    made = pack(folder, tmp_path / "b.zip")
    assert made.masked == [f"runs/full/{run.name}/note.json"]
    with zipfile.ZipFile(made.path) as archive:
        assert not [name for name in archive.namelist() if token.encode() in archive.read(name)]


@pytest.mark.parametrize("place", ["study-old.yaml", "runs/full/link", "report/figures/link.pdf", "analysis"])
def test_links_are_not_packed(folder: Path, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = folder / place
    if path.exists():
        shutil.rmtree(path)
    path.symlink_to(outside)
    with pytest.raises(RecordError, match="link"):
        pack(folder, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists() and not list(tmp_path.glob(".*part"))


def test_a_bundle_does_not_lie_in_its_own_folder(folder: Path) -> None:
    with pytest.raises(RecordError, match="cannot lie in the folder"):
        bundle(folder, output=folder / "report" / "b.zip")


def rewritten(source: Path, target: Path, change: Callable[[zipfile.ZipFile], None], drop: str = "") -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            if member.filename != drop:
                new.writestr(member, old.read(member))
        change(new)
    return target


def link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("runs/full/link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


HOSTILE: dict[str, Callable[[zipfile.ZipFile], None]] = {
    "parent": lambda archive: archive.writestr("runs/../../out.json", "{}"),
    "absolute": lambda archive: archive.writestr("/runs/x.json", "{}"),
    "backslash": lambda archive: archive.writestr("runs\\..\\x.json", "{}"),
    "drive": lambda archive: archive.writestr("C:runs/x.json", "{}"),
    "link": link,
    "unlisted": lambda archive: archive.writestr("runs/full/more.json", "{}"),
    "elsewhere": lambda archive: archive.writestr("setup.py", "import os"),
    "same name": lambda archive: archive.writestr("STUDY.yaml", "study: other"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_are_refused_and_write_nothing(source: Path, tmp_path: Path, kind: str) -> None:
    bad = rewritten(pack(source, tmp_path / "b.zip").path, tmp_path / "bad.zip", HOSTILE[kind])
    (target := tmp_path / "deep" / "out").mkdir(parents=True)
    with pytest.raises(RecordError):
        unpack(bad, target)
    assert list(target.iterdir()) == [] and {p.name for p in tmp_path.iterdir()} == {"b.zip", "bad.zip", "deep"}


def test_changed_missing_and_cut_archives_are_refused(source: Path, tmp_path: Path) -> None:
    good = pack(source, tmp_path / "b.zip").path

    def study(archive: zipfile.ZipFile) -> None:
        archive.writestr("study.yaml", "study: other\n")

    for number, (bad, said) in enumerate(
        [
            (rewritten(good, tmp_path / "changed.zip", study, drop="study.yaml"), "study.yaml is not what was packed"),
            (rewritten(good, tmp_path / "missing.zip", lambda _: None, drop="study.yaml"), "study.yaml is missing"),
            (rewritten(good, tmp_path / "unlisted.zip", lambda _: None, drop="SHA256SUMS"), "no bundle"),
        ]
    ):
        (target := tmp_path / f"out{number}").mkdir()
        with pytest.raises(RecordError, match=said):
            unpack(bad, target)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(good.read_bytes()[:-200])
    with pytest.raises(RecordError, match="not a readable archive"):
        unpack(cut, tmp_path)
