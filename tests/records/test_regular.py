"""Only regular files are read, and nothing is written through a link."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from peftlab.errors import RecordError
from peftlab.records.regular import RECORD_BYTES, read_regular, refuse_links


def test_a_file_is_read_up_to_the_limit_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"12345")
    assert read_regular(path) == read_regular(path, None) == read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="is larger than 4 bytes") as caught:
        read_regular(path, 4)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)


@pytest.mark.parametrize(("size", "read"), [(64_000_000, True), (64_000_001, False)])
def test_a_record_has_at_most_64_megabytes(tmp_path: Path, size: int, read: bool) -> None:
    assert RECORD_BYTES == 64_000_000
    with (tmp_path / "record.json").open("wb") as file:
        file.truncate(size)  # takes no room on the disk
    if read:
        assert len(read_regular(tmp_path / "record.json")) == size
    else:
        with pytest.raises(OSError, match="is larger than 64,000,000 bytes"):
            read_regular(tmp_path / "record.json")
        assert len(read_regular(tmp_path / "record.json", None)) == size


def test_a_link_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of somebody")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="is a link, and links are not followed") as caught:
        read_regular(tmp_path / "link")
    assert caught.value.errno == errno.ELOOP


def test_other_refusals_are_those_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        read_regular(tmp_path / "file" / "below")
    with pytest.raises(OSError, match="File name too long"):
        read_regular(tmp_path / ("x" * 300))

    def stale(*_) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "open", stale)  # of a network disk; a higher number than that of a link
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        read_regular(tmp_path / "file")


def test_nobody_waits_at_a_pipe_and_what_is_refused_is_closed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(list(Path("/dev/fd").iterdir()))
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="is no regular file") as caught:
            read_regular(path)
        assert caught.value.errno == errno.EINVAL and caught.value.filename == str(path)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_each_of_the_folders_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    refuse_links(tmp_path, tmp_path / "folder", tmp_path / "absent")
    with pytest.raises(RecordError, match="is a link") as caught:
        refuse_links(tmp_path / "folder", tmp_path / "link")
    assert caught.value.where == str(tmp_path / "link") and "remove the link" in (caught.value.remedy or "")
