"""Files and folders that are either there whole or not there at all, whatever kills the process.

A folder is written beside its target, its files are flushed to the disk, the SHA-256 manifest is written last, and one rename
makes it visible. What is replaced is deleted only after the new folder has been read back and verified. Torch-free.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from peftlab.errors import RecordError
from peftlab.records.regular import read_regular

MANIFEST = "MANIFEST.json"
_TEMPORARY, _REPLACED = ".tmp-", ".old-"  #: ".<name>.tmp-<random>": half written; ".<name>.old-<random>": being replaced
_REMEDIES = {
    errno.ENOSPC: "free some disk space and run again; what was committed before is whole",
    errno.EDQUOT: "free some of your quota and run again; what was committed before is whole",
    errno.EROFS: "choose a folder on a writable disk with --output",
    errno.EACCES: "choose a folder you may write to with --output",
    errno.EPERM: "choose a folder you may write to with --output",
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal into a :class:`RecordError` that names the file and what to do."""
    try:
        yield
    except OSError as error:
        raise _refused(path, error.errno or 0, error.strerror or str(error)) from error
    except SafetensorError as error:  # holds what the system said as text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise _refused(path, int(number[1]), os.strerror(int(number[1]))) from error


def _refused(path: Path, number: int, said: str) -> RecordError:
    remedy = _REMEDIES.get(number, "check the disk and the folder's permissions, then run again")
    return RecordError(said, where=str(path), remedy=remedy)


def write_atomic(path: Path | str, content: str | bytes) -> None:
    """Replace or create one file: after a crash it holds the old content or the new, never a part.

    Raises:
        RecordError: the disk is full, the folder read-only.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = _beside(path, _TEMPORARY)
    with disk_errors(path):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)  # noqa: PTH105 (tests stop the process at os.* calls)
            fsync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def commit_folder(target: Path | str, write: Callable[[Path], Any]) -> None:
    """Create or replace a folder in one step.

    Args:
        target: the folder to appear; its parent is made if needed.
        write: fills the empty folder that it is given.

    Raises:
        RecordError: disk full, read-only, or the folder read back is not what was written; the old one is still there.
    """
    target = Path(target)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        settle_folder(target)
        temporary = _beside(target, _TEMPORARY)
        try:
            temporary.mkdir()
            write(temporary)
            _fsync_tree(temporary)
            write_atomic(temporary / MANIFEST, json.dumps(manifest(temporary, files_below(temporary)), indent=1) + "\n")
            fsync_folder(temporary)
            replaced = _move_into_place(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_folder(target.parent)
        if replaced is not None:
            problems = verify_folder(target)
            if problems:
                _exchange_or_swap(replaced, target)
                shutil.rmtree(replaced, ignore_errors=True)
                raise RecordError(problems[0], where=str(target), remedy="the disk does not keep what is written; check it")
            shutil.rmtree(replaced)


def settle_folder(target: Path | str) -> None:
    """Finish or undo a replacement of ``target`` that a crash cut short; drop what was half written.

    Only for the one who may write here (the holder of the run's lease).
    """
    target = Path(target)
    if not target.parent.is_dir():
        return
    for left in list(_left_overs(target.parent)):
        name, kind = _parse(left.name)
        if name != target.name:
            continue
        if kind == _REPLACED and not target.exists():
            os.rename(left, target)  # noqa: PTH104 (tests stop the process at os.* calls)
            fsync_folder(target.parent)
        else:
            _remove(left)


def sweep(folder: Path | str) -> list[str]:
    """Settle everything in ``folder`` that a crash left behind; returns the names found. Same condition as settle_folder."""
    folder = Path(folder)
    found = sorted(_left_overs(folder)) if folder.is_dir() else []
    for left in found:
        settle_folder(folder / _parse(left.name)[0])
    return [left.name for left in found]


def is_left_over(name: str) -> bool:
    """Whether a file name is that of a temporary, half written or being replaced."""
    return _parse(name)[1] != ""


def stands_in(path: Path) -> bool:
    """Whether a temporary is the old form of a folder whose replacement was cut short: :func:`settle_folder` puts it back."""
    name, kind = _parse(path.name)
    return kind == _REPLACED and not (path.parent / name).exists()


def verify_folder(path: Path | str) -> list[str]:
    """What is wrong with a committed folder, in words; empty when every file is there, unchanged, and listed."""
    path = Path(path)
    if not path.is_dir():
        return [f"{path.name}: there is no such folder"]
    listed = read_manifest(path)
    if isinstance(listed, str):
        return [listed]
    problems = check_manifest(path, listed)
    extra = sorted(set(files_below(path)) - set(listed))
    return problems + [f"{name}: not in the manifest" for name in extra]


def manifest(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """``{"files": {name: {"sha256", "bytes"}}}`` over files of a folder."""
    files = {name: {"sha256": file_hash(folder / name), "bytes": (folder / name).stat().st_size} for name in sorted(names)}
    return {"schema_version": 1, "files": files}


def read_manifest(folder: Path) -> dict[str, dict[str, Any]] | str:
    """The files of a manifest, or what is wrong with it."""
    try:
        files = json.loads(read_regular(folder / MANIFEST))["files"]
        {name: (entry["sha256"], entry["bytes"]) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return files


def check_manifest(folder: Path, listed: dict[str, dict[str, Any]]) -> list[str]:
    """Listed files that are missing or changed."""
    found = ((name, _check_file(folder, folder / name, entry)) for name, entry in sorted(listed.items()))
    return [f"{name}: {problem}" for name, problem in found if problem]


def _check_file(folder: Path, file: Path, entry: dict[str, Any]) -> str:
    try:
        if not _inside(folder, file):
            return "leads out of the folder"
        if file.is_symlink() or not file.is_file():
            return "missing"
        if (size := file.stat().st_size) != entry["bytes"]:
            return f"{size} bytes, {entry['bytes']} were written"
        return "" if file_hash(file) == entry["sha256"] else "content changed (SHA-256 differs)"
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def files_below(folder: Path) -> list[str]:
    """Relative names of all files below a folder, without its own manifest and without temporaries."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
    return sorted(n for n in names if n != MANIFEST and not any(map(_passing, n.split("/"))))


def _passing(name: str) -> bool:
    """A temporary of ours, or what an NFS client keeps of a file that was deleted while open."""
    return is_left_over(name) or name.startswith(".nfs")


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path | str) -> None:
    """Flush a folder's entries (names), or a file's content, to the disk; else a power cut can lose them after a rename."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems flush no folders: their server orders renames
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)


def _fsync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):  # files before the folders that name them
        if path.is_symlink():
            raise RecordError("a link cannot be committed", where=str(path), remedy="copy the file itself")
        fsync_folder(path)  # opens for reading: good for files as well
    fsync_folder(folder)


def _move_into_place(source: Path, target: Path) -> Path | None:
    """Make ``source`` appear as ``target``; the folder that was there before, under its new name, if any."""
    if not target.exists():
        os.rename(source, target)  # noqa: PTH104 (tests stop the process at os.* calls)
        return None
    aside = _beside(target, _REPLACED)
    os.rename(source, aside)  # noqa: PTH104 - complete by now, so it may be taken for the replaced one
    _exchange_or_swap(aside, target)
    return aside


def _exchange_or_swap(one: Path, other: Path) -> None:
    """Swap two folders: in one step where the kernel can, else over a third name from which settle_folder recovers."""
    if _exchange(one, other):
        return
    third = _beside(other, _REPLACED)
    os.rename(other, third)  # noqa: PTH104
    os.rename(one, other)  # noqa: PTH104
    os.rename(third, one)  # noqa: PTH104


@cache
def _renameat2() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _exchange(one: Path, other: Path) -> bool:
    """renameat2(RENAME_EXCHANGE), Linux >= 3.15 on most local file systems."""
    function = _renameat2()
    if function is None:
        return False
    at_cwd, exchange = -100, 2
    return function(at_cwd, os.fsencode(one.absolute()), at_cwd, os.fsencode(other.absolute()), exchange) == 0


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}{kind}{uuid.uuid4().hex[:8]}")


def _parse(name: str) -> tuple[str, str]:
    """(target name, kind) of a temporary's name; kind is empty for other files."""
    for kind in (_TEMPORARY, _REPLACED):
        head, found, tail = name.rpartition(kind)
        if found and head.startswith(".") and len(head) > 1 and len(tail) == 8:
            return head[1:], kind
    return name, ""


def _left_overs(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if is_left_over(path.name))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _inside(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
