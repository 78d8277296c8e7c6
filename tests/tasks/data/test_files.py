"""Checksums of files, remembered as long as the files stay as they are."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from peftlab.errors import DataError
from peftlab.tasks.data import _files
from peftlab.tasks.data._files import hash_files

LONG_AGO = time.time_ns() - 10**12


@pytest.fixture
def files(tmp_path, monkeypatch) -> dict[str, Path]:
    monkeypatch.setattr(_files, "_known", {})
    made = {name: tmp_path / name for name in ("a", "b")}
    for name, path in made.items():
        path.write_bytes(name.encode() * 10)
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return made


def forget() -> None:
    _files._known.clear()


def test_names_and_contents_decide(files, tmp_path):
    digest = hash_files(files)
    assert hash_files(dict(reversed(files.items()))) == digest
    assert hash_files({"x": files["a"], "b": files["b"]}) != digest
    assert hash_files({"a": files["b"], "b": files["a"]}) != digest
    files["a"].write_bytes(b"other")
    assert hash_files(files) != digest


def test_unchanged_files_are_not_read_again(files, tmp_path):
    digest = hash_files(files, tmp_path / "cache")
    files["a"].write_bytes(b"B" * 10)  # another content under the same size and time: only a reader could tell
    os.utime(files["a"], ns=(LONG_AGO, LONG_AGO))
    assert hash_files(files) == digest
    forget()
    assert hash_files(files, tmp_path / "cache") == digest
    forget()
    assert hash_files(files) != digest


def test_files_changed_a_moment_ago_are_not_remembered(files, tmp_path):
    files["a"].touch()
    hash_files(files, tmp_path / "cache")
    assert not (tmp_path / "cache").exists() and not _files._known


@pytest.mark.parametrize("content", ["", "x" * 64, "0" * 63, "\u00e9"])
def test_a_damaged_note_is_ignored(files, tmp_path, content):
    digest = hash_files(files, tmp_path / "cache")
    (note,) = (tmp_path / "cache" / "fingerprints").iterdir()
    note.write_text(content, "utf-8")
    forget()
    assert hash_files(files, tmp_path / "cache") == digest


def test_a_cache_that_cannot_be_written_only_costs_time(files, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert hash_files(files, tmp_path / "cache") == hash_files(files)


def test_a_missing_file(files):
    files["a"].unlink()
    with pytest.raises(DataError, match="cannot be read"):
        hash_files(files)
