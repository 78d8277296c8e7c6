"""What a manifest lists, and that all damage to what it lists is named (RELIABILITY 3: 12-14)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from peftlab.records.commit import commit_folder
from peftlab.records.manifest import MANIFEST, check_manifest, file_hash, verify_folder


def fill(folder: Path) -> None:
    (folder / "weights.bin").write_text("old")


def test_manifest_lists_every_file_with_the_hash_that_sha256sum_gives(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "a").write_bytes(os.urandom(1000))
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "b").write_text("")

    commit_folder(tmp_path / "new" / "folder", write)
    whole = json.loads((tmp_path / "new" / "folder" / MANIFEST).read_text())
    listed = whole["files"]
    assert whole["schema_version"] == 1 and [entry["bytes"] for entry in listed.values()] == [1000, 0]
    assert sorted(listed) == ["a", "deep/er/b"]
    for name, entry in listed.items():
        said = subprocess.run(["sha256sum", tmp_path / "new" / "folder" / name], capture_output=True, text=True, check=True)
        assert said.stdout.split()[0] == entry["sha256"] == file_hash(tmp_path / "new" / "folder" / name)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "weights.bin").write_text("olD"), "content changed"),
        (lambda f: (f / "weights.bin").write_text("ol"), "2 bytes, 3 were written"),
        (lambda f: (f / "weights.bin").unlink(), "missing"),
        (lambda f: (f / MANIFEST).unlink(), "MANIFEST.json is missing"),
        (lambda f: (f / MANIFEST).write_text('{"files": {"weights.bin": 1}}'), "damaged"),
        (lambda f: (f / MANIFEST).write_text('{"files": {"../../x": {"sha256": "", "bytes": 1}}}'), "out of the folder"),
        (lambda f: (f / "more").write_text(""), "not in the manifest"),
    ],
)
def test_every_kind_of_damage_is_named(tmp_path: Path, damage, said: str) -> None:
    commit_folder(tmp_path / "folder", fill)
    assert verify_folder(tmp_path / "folder") == []
    damage(tmp_path / "folder")
    assert any(said in problem for problem in verify_folder(tmp_path / "folder"))


def test_what_nfs_keeps_of_a_deleted_file_is_no_part_of_a_folder(tmp_path: Path) -> None:
    commit_folder(tmp_path / "step-1", fill)
    (tmp_path / "step-1" / ".nfs00000000012345").write_text("open elsewhere")
    assert verify_folder(tmp_path / "step-1") == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "weights.bin").unlink() or (f / "weights.bin").symlink_to(f / "twin.bin"), ["weights.bin: missing"]),
        (lambda f: (f / "weights.bin").unlink() or (f / "weights.bin").mkdir(), ["weights.bin: missing"]),
        (lambda f: (f / "link").symlink_to(f / "twin.bin"), ["link: not in the manifest"]),
        (lambda f: (f / "link").symlink_to(f / "deep"), ["link: not in the manifest"]),
        (lambda f: (f / "deep" / MANIFEST).write_text("{}"), ["deep/MANIFEST.json: not in the manifest"]),
        (lambda f: (f / "deep" / ".x.tmp-01234567").write_text(""), []),
        (lambda f: (f / ".x.tmp-01234567").mkdir() or (f / ".x.tmp-01234567" / "half").write_text(""), []),
        (lambda f: (f / MANIFEST).write_text("[" * 100_000), ["MANIFEST.json is damaged"]),
        (lambda f: (f / MANIFEST).write_text('{"files": []}'), ["MANIFEST.json is damaged"]),
        (lambda f: (f / MANIFEST).write_text("[]"), ["MANIFEST.json is damaged"]),
        (lambda f: f.rename(f.with_name("elsewhere")), ["folder: there is no such folder"]),
    ],
)
def test_all_that_is_wrong_and_nothing_else(tmp_path: Path, damage, said: list[str]) -> None:
    def write(folder: Path) -> None:
        fill(folder)
        (folder / "twin.bin").write_text("old")
        (folder / "deep").mkdir()

    commit_folder(tmp_path / "folder", write)
    damage(tmp_path / "folder")
    assert verify_folder(tmp_path / "folder") == said


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    found = check_manifest(tmp_path, {"a\0b": {"sha256": "", "bytes": 0}})
    assert len(found) == 1 and found[0].startswith("a\0b: cannot be read: ")
