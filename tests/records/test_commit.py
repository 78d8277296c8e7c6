"""The commit protocol, with the process really killed at every system call it makes (RELIABILITY 3: 2, 3, 4, 5, 9, 11)."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from peftlab.errors import RecordError
from peftlab.records import commit
from peftlab.records.commit import commit_folder, disk_errors, fsync_folder, settle_folder, sweep, write_atomic
from peftlab.records.manifest import verify_folder
from peftlab.records.temporaries import REPLACED, beside, parse_name
from tests.records.disk import Told

#: kills itself with SIGKILL before the n-th call that changes the disk or flushes it; prints the number of calls if it survives
KILLER = """
import builtins, os, pathlib, shutil, signal, sys
fatal, calls = int(sys.argv[1]), 0
def deadly(function):
    def wrapper(*args, **kwargs):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper
for name in "fsync rename replace unlink rmdir mkdir".split():
    setattr(os, name, deadly(getattr(os, name)))
from peftlab.records import commit
commit._exchange = {exchange}
folder = pathlib.Path(sys.argv[2])
"""
WRITE_FOLDER = """
def write(new):
    (new / "weights.bin").write_bytes(b"new" * 1000)
    (new / "sub").mkdir()
    (new / "sub" / "state.json").write_text("new")
commit.commit_folder(folder / "step-2", write)
print(calls)
"""


def run_killer(body: str, fatal: int, folder: Path, exchange: str = "deadly(commit._exchange)") -> int:
    """Number of calls when it survived, 0 when it was killed."""
    code = KILLER.replace("{exchange}", exchange) + body
    done = subprocess.run([sys.executable, "-c", code, str(fatal), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGKILL:
        return 0
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def fill(content: str):
    def write(folder: Path) -> None:
        (folder / "weights.bin").write_text(content)

    return write


@pytest.mark.parametrize("exchange", ["deadly(commit._exchange)", "lambda one, other: False"], ids=["exchange", "renames"])
@pytest.mark.parametrize("before", [False, True], ids=["create", "replace"])
def test_killed_at_every_call_leaves_old_or_new_and_never_a_part(tmp_path: Path, before: bool, exchange: str) -> None:
    calls = run_killer(WRITE_FOLDER, 0, tmp_path / "count", exchange)
    assert calls >= 8
    if before:
        folder = tmp_path / "count-replace"
        commit_folder(folder / "step-2", fill("old"))
        calls = run_killer(WRITE_FOLDER, 0, folder, exchange)
    for fatal in range(1, calls + 1):
        folder = tmp_path / f"at-{fatal}"
        folder.mkdir()
        if before:
            commit_folder(folder / "step-2", fill("old"))
        assert run_killer(WRITE_FOLDER, fatal, folder, exchange) == 0, "it should have been killed"
        sweep(folder)
        names = [path.name for path in folder.iterdir()]
        assert names in ([], ["step-2"]), "nothing half written stays"
        assert names or not before, "what was committed is never lost"
        if names:
            assert verify_folder(folder / "step-2") == []
            assert (folder / "step-2" / "weights.bin").read_text() in ("old", "new" * 1000)
        commit_folder(folder / "step-2", fill("later"))
        assert (folder / "step-2" / "weights.bin").read_text() == "later"


def test_write_atomic_killed_at_every_call(tmp_path: Path) -> None:
    body = "commit.write_atomic(folder / 'file.json', 'new' * 10000)\nprint(calls)"
    (tmp_path / "count").mkdir()
    calls = run_killer(body, 0, tmp_path / "count")
    for fatal in range(1, calls + 1):
        folder = tmp_path / f"at-{fatal}"
        folder.mkdir()
        write_atomic(folder / "file.json", "old")
        assert run_killer(body, fatal, folder) == 0
        sweep(folder)
        assert [path.name for path in folder.iterdir()] == ["file.json"]
        assert (folder / "file.json").read_text() in ("old", "new" * 10000)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a call of Linux")
def test_where_the_kernel_can_two_folders_change_places_in_one_step(tmp_path: Path) -> None:
    commit._renameat2.cache_clear()
    assert (commit._renameat2() is not None) == hasattr(ctypes.CDLL(None), "renameat2")
    for name in ("one", "other"):
        commit_folder(tmp_path / name, fill(name))
    paths = [os.fsencode(tmp_path / name) for name in ("one", "other")]
    here = -100
    can = hasattr(ctypes.CDLL(None), "renameat2") and ctypes.CDLL(None).renameat2(here, paths[0], here, paths[1], 2) == 0

    def held() -> list[str]:
        return [(tmp_path / name / "weights.bin").read_text() for name in ("one", "other")]

    assert held() == (["other", "one"] if can else ["one", "other"])  # some file systems cannot
    assert commit._exchange(tmp_path / "one", tmp_path / "other") == can
    assert held() == ["one", "other"]


def test_flushing_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    before = os.open(tmp_path, os.O_RDONLY)
    os.close(before)
    fsync_folder(tmp_path)
    fsync_folder(tmp_path / "file")
    after = os.open(tmp_path, os.O_RDONLY)
    os.close(after)
    assert after <= before, "the lowest number that is free"


def test_a_replaced_folder_that_cannot_be_deleted_undoes_nothing_and_is_swept_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network disk while somebody has one of its files open."""
    remove = os.rmdir

    def refuse(path: object, **more: object) -> None:
        if REPLACED in str(path):
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        remove(path, **more)  # pyright: ignore

    commit_folder(tmp_path / "step-2", fill("old"))
    monkeypatch.setattr(os, "rmdir", refuse)
    commit_folder(tmp_path / "step-2", fill("new"))
    assert (tmp_path / "step-2" / "weights.bin").read_text() == "new" and len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    assert len(sweep(tmp_path)) == 1 and [path.name for path in tmp_path.iterdir()] == ["step-2"]


def test_what_safetensors_was_told_by_the_system_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="Permission denied") as caught, disk_errors(tmp_path / "w.safetensors"):
        raise SafetensorError("I/O error: Permission denied (os error 13)")
    assert caught.value.where == str(tmp_path / "w.safetensors") and "you may write to" in (caught.value.remedy or "")
    with pytest.raises(SafetensorError, match="header too small"), disk_errors(tmp_path):
        raise SafetensorError("header too small")


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "renames"])
@pytest.mark.parametrize("before", [False, True], ids=["create", "replace"])
def test_a_folder_is_on_the_disk_before_it_is_visible(tmp_path: Path, monkeypatch, before: bool, exchange: bool) -> None:
    def write(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "state.json").write_text("new")
        (folder / "weights.bin").write_text("new")

    if before:
        commit_folder(tmp_path / "step-2", fill("old"))
    if not exchange:
        monkeypatch.setattr(commit, "_exchange", lambda one, other: False)
    told = Told(monkeypatch)
    commit_folder(tmp_path / "step-2", write)
    told.check(tmp_path / "step-2")


@pytest.mark.parametrize("content", ["new", b"new"])
def test_a_file_is_on_the_disk_before_it_is_visible(tmp_path: Path, monkeypatch, content: str | bytes) -> None:
    write_atomic(tmp_path / "file.json", "old")
    told = Told(monkeypatch)
    write_atomic(tmp_path / "file.json", content)
    told.check(tmp_path / "file.json")
    assert (tmp_path / "file.json").read_text() == "new"


def test_what_is_settled_is_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    commit_folder(tmp_path / "step-2", fill("old"))
    (tmp_path / "step-2").rename(beside(tmp_path / "step-2", REPLACED))
    told = Told(monkeypatch)
    settle_folder(tmp_path / "step-2")
    folder = tmp_path.stat().st_ino
    assert [event[:2] for event in told.events] == [("rename", folder), ("flush", folder)]
    assert (tmp_path / "step-2" / "weights.bin").read_text() == "old"


def test_a_writer_that_raises_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    commit_folder(tmp_path / "folder", fill("old"))

    def write(folder: Path) -> None:
        (folder / "weights.bin").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        commit_folder(tmp_path / "folder", write)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "weights.bin").read_text() == "old"
    assert verify_folder(tmp_path / "folder") == []


def test_what_a_writer_raised_is_told_where_what_it_left_cannot_be_removed(tmp_path: Path, monkeypatch) -> None:
    def write(folder: Path) -> None:
        (folder / "weights.bin").write_text("half")
        raise ZeroDivisionError

    def refused(*_, **__) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "unlink", refused)
    with pytest.raises(ZeroDivisionError):
        commit_folder(tmp_path / "folder", write)


def test_a_link_is_not_committed(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="link"):
        commit_folder(tmp_path / "folder", lambda folder: (folder / "link").symlink_to("/etc/hostname"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_typed_error_and_the_old_content_stays(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "old")
    commit_folder(tmp_path / "folder", fill("old"))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write over the limit is then an OSError, as on a full disk
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(RecordError):
            write_atomic(tmp_path / "file", b"x" * 100_000)
        with pytest.raises(RecordError):
            commit_folder(tmp_path / "folder", fill("x" * 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "weights.bin").read_text() == "old"


@pytest.mark.parametrize("removes", [True, False])
def test_a_disk_that_does_not_keep_what_was_written_gets_the_old_folder_back(tmp_path: Path, monkeypatch, removes: bool) -> None:
    """What was lost is named even where the disk also refuses to remove what is left of it."""
    commit_folder(tmp_path / "folder", fill("old"))
    moved = commit._move_into_place

    def losing(source: Path, target: Path) -> Path | None:
        replaced = moved(source, target)
        (target / "weights.bin").write_text("")
        return replaced

    def refusing(*_, **__) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(commit, "_move_into_place", losing)
    if not removes:
        monkeypatch.setattr(os, "unlink", refusing)
    with pytest.raises(RecordError, match=r"weights\.bin") as caught:
        commit_folder(tmp_path / "folder", fill("new"))
    assert caught.value.remedy == "the disk does not keep what is written; check it"
    assert (tmp_path / "folder" / "weights.bin").read_text() == "old" and verify_folder(tmp_path / "folder") == []
    left = [path.name for path in tmp_path.iterdir() if path.name != "folder"]
    assert [parse_name(name)[1] for name in left] == ([] if removes else [REPLACED]), "no name that a reader takes for the run's"


def test_a_folder_that_is_a_file_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError) as caught:
        commit_folder(tmp_path / "file" / "folder", fill("x"))
    assert caught.value.remedy and str(tmp_path) in caught.value.where


def test_who_writes_a_folder_settles_what_a_crash_left_of_it(tmp_path: Path) -> None:
    for name in (".one.tmp-01234567", ".one.old-01234567", ".other.tmp-01234567"):
        (tmp_path / name).mkdir()
    commit_folder(tmp_path / "one", fill("new"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.tmp-01234567", "one"]
    assert verify_folder(tmp_path / "one") == []


def test_settle_leaves_the_temporaries_of_others_alone(tmp_path: Path) -> None:
    for name in (".one.tmp-01234567", ".one.old-01234567", ".other.tmp-01234567"):
        (tmp_path / name).mkdir()
    settle_folder(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.tmp-01234567", "one"]


def test_a_disk_that_flushes_no_folders_is_good_enough(tmp_path: Path) -> None:
    """SMB and some FUSE file systems answer fsync of a folder with EINVAL; of a file it stays an error."""
    body = """
import errno, stat
def fsync(handle, refuse=sys.argv[1]):
    if refuse == "1" or stat.S_ISDIR(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
os.fsync = fsync
commit.commit_folder(folder / "step-2", lambda new: (new / "weights.bin").write_bytes(b"new"))
"""
    code = "import os, pathlib, sys\nfrom peftlab.records import commit\nfolder = pathlib.Path(sys.argv[2])" + body
    good = subprocess.run([sys.executable, "-c", code, "0", str(tmp_path)], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert verify_folder(tmp_path / "step-2") == []
    bad = subprocess.run([sys.executable, "-c", code, "1", str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert "RecordError" in bad.stderr and not (tmp_path / "x" / "step-2").exists()


def test_a_kernel_without_the_exchange_is_asked_no_more_and_told_no_lie(tmp_path: Path, monkeypatch) -> None:
    commit_folder(tmp_path / "step-2", fill("old"))
    monkeypatch.setattr(commit, "_renameat2", lambda: None)
    assert commit._exchange(tmp_path / "step-2", tmp_path / "other") is False
    commit_folder(tmp_path / "step-2", fill("new"))
    assert (tmp_path / "step-2" / "weights.bin").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_only_a_folder_may_be_refused_to_be_flushed_and_only_because_none_is(tmp_path: Path, monkeypatch, number: int) -> None:
    def refused(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        fsync_folder(tmp_path / "file")
    if number == errno.EIO:
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            fsync_folder(tmp_path)
    else:
        fsync_folder(tmp_path)


@pytest.mark.parametrize("chosen", ["one", "two", "three"])
def test_what_is_settled_is_found_wherever_it_is_listed(tmp_path: Path, chosen: str) -> None:
    """A folder lists its files in an order of its own, the same for the same names: of three at least one is not the first."""
    for name in ("one", "two", "three"):
        (tmp_path / f".{name}.tmp-01234567").mkdir()
    settle_folder(tmp_path / chosen)
    assert f".{chosen}.tmp-01234567" not in {path.name for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_half_written_link_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("of somebody")
    (tmp_path / ".one.tmp-01234567").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".one.tmp-89abcdef").write_text("half")
    assert sweep(tmp_path) == [".one.tmp-01234567", ".one.tmp-89abcdef"]
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert (tmp_path / "elsewhere" / "file").read_text() == "of somebody"


def test_what_another_process_removes_meanwhile_is_swept_too(tmp_path: Path, monkeypatch) -> None:
    """Such as the file with which a process that looks at the lease asks for the disk's time."""
    (tmp_path / ".clock.tmp-01234567").write_text("")
    unlink = os.unlink

    def late(path: Path, **more) -> None:
        unlink(path, **more)
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", late)
    assert sweep(tmp_path) == [".clock.tmp-01234567"] and list(tmp_path.iterdir()) == []


def test_where_there_is_no_folder_nothing_is_left_over(tmp_path: Path) -> None:
    settle_folder(tmp_path / "absent" / "one")
    assert sweep(tmp_path / "absent") == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some disk space"),
        (errno.EDQUOT, "free some of your quota"),
        (errno.EROFS, "on a writable disk"),
        (errno.EACCES, "you may write to"),
        (errno.EPERM, "you may write to"),
        (errno.EIO, "check the disk"),
    ],
)
def test_each_refusal_has_its_remedy(tmp_path: Path, number: int, remedy: str) -> None:
    with pytest.raises(RecordError, match=re.escape(os.strerror(number))) as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert remedy in (caught.value.remedy or "")


def test_a_refusal_without_a_number_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="the disk sulks") as caught, disk_errors(tmp_path):
        raise OSError("the disk sulks")
    assert "check the disk" in (caught.value.remedy or "")
