"""Names, archives and links that lead out of a results folder."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from peftlab import api
from peftlab.errors import PeftlabError, RecordError, StudyError
from peftlab.records.run_archive import INDEX, pack, unpack
from peftlab.records.run_folder import RunFolder
from peftlab.records.store import ResultsFolder
from tests.records.examples import configuration, results
from tests.report.fixtures import write_results

STUDY = """study: first
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits}
seeds: [0]
arms: {a: {adapter: full}}
"""
NAMES = ["..", "../x", "/etc/x", "a/b", "a\\b", ".hidden", "", "a\0b", "x" * 82, "A", "-x", "a b", "~", "con:", "a\n"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    folder = ResultsFolder(tmp_path / "first").open_or_create("study: first\n")
    with pytest.raises(RecordError):
        folder.run(configuration(slug=name))
    with pytest.raises(StudyError):
        (tmp_path / "numbers.csv").write_text("seed,accuracy\n0,0.5\n")
        (folder.path / "study.yaml").write_text(STUDY)
        api.import_results(tmp_path / "numbers.csv", folder.path, label=name)
    run = folder.run(configuration()).create(configuration())
    with pytest.raises(RecordError):
        run.write_json(f"{name}.json" if name else ".json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"first", "numbers.csv"}


def test_a_run_folder_that_is_a_link(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "first").open_or_create("study: first\n")
    config = configuration()
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder.path / "runs" / config.slug).mkdir(parents=True)
    (folder.path / "runs" / config.slug / config.run_id).symlink_to(outside)
    with pytest.raises(RecordError, match="link"):
        folder.run(config)
    assert not list(outside.iterdir())


# --- links in a results folder that somebody else made ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


SECRET = "what nobody may see"


@pytest.mark.parametrize("name", ["results.json", "config.json", "metrics.jsonl", "environment.json"])
def test_a_record_that_is_a_link_is_not_read(folder: Path, tmp_path: Path, name: str) -> None:
    """Even to a file of the right form: a report that is published would show it."""
    run = next((folder / "runs" / "full").iterdir())
    content = json.loads((run / "config.json").read_text())
    outside = tmp_path / name
    outside.write_text((run / name).read_text().replace("}", f', "note": "{SECRET}"}}', 1) if name != "config.json" else
                       json.dumps({**content, "study": SECRET}))  # fmt: skip
    (run / name).unlink()
    (run / name).symlink_to(outside)
    assert any("link" in problem for problem in api.verify(folder)["problems"])
    api.status(folder).as_dict()
    api.analyze(folder)
    assert all(SECRET not in path.read_text(errors="replace") for path in (folder / "analysis").rglob("*") if path.is_file())
    if name in ("results.json", "config.json"):
        frame = json.loads((folder / "analysis" / "findings.json").read_text())
        assert next(arm for arm in frame["arms"] if arm["label"] == "full")["n"] == 4
        with pytest.raises(PeftlabError):
            api.export(folder, run.name, tmp_path / "exported")


@pytest.mark.parametrize("name", ["analysis", "report"])
def test_nothing_is_written_through_a_link(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / name).symlink_to(outside)
    with pytest.raises(RecordError, match="nothing is written through it"):
        api.report(folder)
    assert not list(outside.iterdir())


def test_a_paper_is_not_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    from peftlab.records.regular import refuse_links

    (folder / "paper").symlink_to(tmp_path)
    with pytest.raises(RecordError, match="nothing is written through it"):
        refuse_links(folder / "paper", folder / "paper" / "figures")


def test_a_study_that_is_a_link_is_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "study.yaml").rename(tmp_path / "elsewhere.yaml")
    (folder / "study.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    for verb in (api.status, api.verify, api.gc, api.analyze, api.report):
        with pytest.raises(RecordError, match=r"study\.yaml"):
            verb(folder)


# --- archives of runs ------------------------------------------------------------------------------------------------------


def archive(path: Path, members: list[tarfile.TarInfo], listed: dict[str, bytes]) -> Path:
    """Members as given, under an index of what is listed."""
    files = {name: {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)} for name, text in listed.items()}
    with tarfile.open(path, "w") as opened:
        head = tarfile.TarInfo(INDEX)
        index = json.dumps({"files": files}).encode()
        head.size = len(index)
        opened.addfile(head, io.BytesIO(index))
        for member in members:
            opened.addfile(member, io.BytesIO(listed.get(member.name, b"x" * member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, size
    return found


@pytest.mark.parametrize(
    ("members", "listed"),
    [
        ([member("../outside", size=1)], {"../outside": b"x"}),
        ([member("/tmp/outside", size=1)], {"/tmp/outside": b"x"}),
        ([member("a/../../outside", size=1)], {"a/../../outside": b"x"}),
        ([member("./a", size=1)], {"./a": b"x"}),
        ([member("a\\..\\b", size=1)], {"a\\..\\b": b"x"}),
        ([member("link", tarfile.SYMTYPE, "../outside")], {"link": b""}),
        ([member("link", tarfile.LNKTYPE, "../outside")], {"link": b""}),
        ([member("link", tarfile.SYMTYPE, ".."), member("link/outside", size=1)], {"link/outside": b"x"}),
        ([member("device", tarfile.CHRTYPE)], {"device": b""}),
        ([member("pipe", tarfile.FIFOTYPE)], {"pipe": b""}),
        ([member("a", size=1), member("a", size=1)], {"a": b"x"}),
        ([member("b", size=1)], {"a": b"x"}),
        ([member("lease.json", size=1)], {"lease.json": b"x"}),
        ([], {"a": b"x"}),
    ],
)
def test_an_archive_that_leads_elsewhere(tmp_path: Path, members: list[tarfile.TarInfo], listed: dict[str, bytes]) -> None:
    target = tmp_path / "here" / "run"
    target.mkdir(parents=True)
    with pytest.raises(RecordError):
        unpack(archive(tmp_path / "run.tar", members, listed), target)
    assert {path.name for path in tmp_path.iterdir()} == {"here", "run.tar"}
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["run"]
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_a_run_with_a_link_is_not_sent(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "first").open_or_create("study: first\n")
    run: RunFolder = folder.run(configuration()).create(configuration())
    run.finish(results(run.run_id))
    (run.path / "notes.json").symlink_to("/etc/hostname")
    with pytest.raises(RecordError, match="link"):
        pack(run, tmp_path / "run.tar")
