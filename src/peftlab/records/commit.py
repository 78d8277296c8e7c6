"""Files and folders that are either there whole or not there at all, whatever kills the process.

A folder is written beside its target (under a name of records/temporaries.py), its files are flushed to the disk, the SHA-256
manifest (records/manifest.py) is written last, and one rename makes it visible. What is replaced is deleted only after the new
folder has been read back and verified. Torch-free.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from peftlab.errors import RecordError
from peftlab.records.manifest import MANIFEST, files_below, manifest, verify_folder
from peftlab.records.temporaries import REPLACED, TEMPORARY, beside, is_left_over, parse_name

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
    temporary = beside(path, TEMPORARY)
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
                temporary.unlink()
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
        temporary = beside(target, TEMPORARY)
        try:
            temporary.mkdir()
            write(temporary)
            _fsync_tree(temporary)
            write_atomic(temporary / MANIFEST, json.dumps(manifest(temporary, files_below(temporary)), indent=1) + "\n")
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
            shutil.rmtree(replaced, ignore_errors=True)  # what a network disk holds on to is swept by the next runner


def settle_folder(target: Path | str) -> None:
    """Finish or undo a replacement of ``target`` that a crash cut short; drop what was half written.

    Only for the one who may write here (the holder of the run's lease).
    """
    target = Path(target)
    if not target.parent.is_dir():
        return
    for left in list(_left_overs(target.parent)):
        name, kind = parse_name(left.name)
        if name != target.name:
            continue
        if kind == REPLACED and not target.exists():
            os.rename(left, target)  # noqa: PTH104 (tests stop the process at os.* calls)
            fsync_folder(target.parent)
        else:
            _remove(left)


def sweep(folder: Path | str) -> list[str]:
    """Settle everything in ``folder`` that a crash left behind; returns the names found. Same condition as settle_folder."""
    folder = Path(folder)
    found = sorted(_left_overs(folder)) if folder.is_dir() else []
    for left in found:
        settle_folder(folder / parse_name(left.name)[0])
    return [left.name for left in found]


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
    """All below a folder; the folder itself is flushed when its manifest is written."""
    for path in sorted(folder.rglob("*")):  # in any order: nothing is visible before all is flushed
        if path.is_symlink():
            raise RecordError("a link cannot be committed", where=str(path), remedy="copy the file itself")
        fsync_folder(path)  # opens for reading: good for files as well


def _move_into_place(source: Path, target: Path) -> Path | None:
    """Make ``source`` appear as ``target``; the folder that was there before, under its new name, if any."""
    if not target.exists():
        os.rename(source, target)  # noqa: PTH104 (tests stop the process at os.* calls)
        return None
    aside = beside(target, REPLACED)
    os.rename(source, aside)  # noqa: PTH104 - complete by now, so it may be taken for the replaced one
    _exchange_or_swap(aside, target)
    return aside


def _exchange_or_swap(one: Path, other: Path) -> None:
    """Swap two folders: in one step where the kernel can, else over a third name from which settle_folder recovers."""
    if _exchange(one, other):
        return
    third = beside(other, REPLACED)
    os.rename(other, third)  # noqa: PTH104
    os.rename(one, other)  # noqa: PTH104
    os.rename(third, one)  # noqa: PTH104


@cache
def _renameat2() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "renameat2", None)


def _exchange(one: Path, other: Path) -> bool:
    """renameat2(RENAME_EXCHANGE), Linux >= 3.15 on most local file systems."""
    function = _renameat2()
    if function is None:
        return False
    at_cwd, exchange = -100, 2
    return function(at_cwd, os.fsencode(one.absolute()), at_cwd, os.fsencode(other.absolute()), exchange) == 0


def _left_overs(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if is_left_over(path.name))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
