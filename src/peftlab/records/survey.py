"""What lies in a results folder besides whole records: leases, what crashes and finished runs left behind, links, damaged files.

Nothing here follows a link or changes anything. ``peftlab verify`` tells all of it, ``peftlab gc`` deletes what may be deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peftlab.records.lease import FILE as LEASE
from peftlab.records.lease import Holder, holder
from peftlab.records.manifest import verify_folder
from peftlab.records.regular import read_regular
from peftlab.records.run_folder import CHECKPOINTS, RESULTS, RunFolder
from peftlab.records.temporaries import is_left_over, stands_in

RUN_FOLDERS = ("runs", "tuning")
TRACKERS = "trackers"  #: whatever other programs keep there, links too
KEEP = 2  #: whole checkpoints that an unfinished run keeps, as in training/checkpoint.py
SETTLED_S = 3600.0  #: age from which a temporary that no lease guards is nobody's any more
_EARLIER = re.compile(r"study-([0-9a-f]{8})\.yaml")
_STATES = ("plan.json", "tuning.json", "racing.json")


@dataclass(frozen=True, slots=True)
class Left:
    """Something that nobody needs any more."""

    path: Path
    why: str
    bytes: int


def run_paths(root: Path) -> Iterator[Path]:
    """Folders two levels below ``runs`` and ``tuning``, by name; links are passed over."""
    for kind in RUN_FOLDERS:
        for arm in _folders(root / kind):
            yield from _folders(arm)


def leases(root: Path) -> Iterator[tuple[Path, Holder | None]]:
    """Every lease file, with who holds it; None: its process is dead, and the next runner takes it over."""
    for folder in (root / "tuning", *run_paths(root)):
        if (path := folder / LEASE).is_file() and not path.is_symlink():
            yield path, holder(folder)


def left_in_run(folder: Path) -> Iterator[Left]:
    """What may be deleted of one run that nobody works on: never a record, never a checkpoint that it would continue from."""
    run = RunFolder(folder)
    if (path := folder / LEASE).is_file():
        yield Left(path, "lease of a process that died", size(path))
    finished, checkpoints = (folder / RESULTS).is_file(), folder / CHECKPOINTS
    if finished and checkpoints.is_dir() and not checkpoints.is_symlink():
        yield Left(checkpoints, "checkpoints of a finished run", size(checkpoints))
    for path in _temporaries(folder):
        if not (finished and path.is_relative_to(checkpoints)):
            yield Left(path, "half written when a process died", size(path))
    if not finished:
        for attempt in _folders(run.checkpoints):
            yield from _spare_checkpoints(attempt)


def left_elsewhere(root: Path, now_s: float) -> Iterator[Left]:
    """Temporaries outside the runs, where no lease says whether somebody is still writing: those that are old."""
    for path in _temporaries(root, skip=(*RUN_FOLDERS, TRACKERS)):
        with contextlib.suppress(OSError):
            if now_s - path.lstat().st_mtime > SETTLED_S:
                yield Left(path, "half written when a process died", size(path))


def damaged_checkpoints(folder: Path) -> list[str]:
    """Of an unfinished run: the attempts none of whose checkpoints is whole, so that they begin again."""
    found = []
    for attempt in _folders(folder / CHECKPOINTS):
        steps = _steps(attempt)
        if steps and not any(not verify_folder(step) for step in steps):
            problem = verify_folder(steps[-1])[0]
            found.append(
                f"{CHECKPOINTS}/{attempt.name}/{steps[-1].name}: {problem}; no checkpoint is whole, the run begins again"
            )
    return found


def problems_outside_runs(root: Path) -> Iterator[str]:
    """Links, what cannot be read, and files of the study itself that are not what they were."""
    for parent, folders, files in _walk(root):
        for name in (*folders, *files):
            if (path := parent / name).is_symlink():
                yield f"{_place(path, root)}: is a link; no link is followed here, put the file itself in its place"
        for name in files:
            if (problem := _unreadable(parent / name)) is not None:
                yield f"{_place(parent / name, root)}: {problem}"
        for name in folders:
            if not (parent / name).is_symlink() and not os.access(parent / name, os.R_OK | os.X_OK):
                yield f"{_place(parent / name, root)}: cannot be opened"
    for path in sorted(root.glob("study-*.yaml")):
        named = _EARLIER.fullmatch(path.name)
        if named and not path.is_symlink() and hashlib.sha256(read_regular(path)).hexdigest()[:8] != named[1]:
            yield f"{path.name}: content changed (its name is a hash of it)"
    for name in _STATES:
        with contextlib.suppress(OSError):
            try:
                json.loads(read_regular(root / name))
            except (ValueError, RecursionError):
                yield f"{name}: damaged; the next `peftlab run` writes it anew"
    yield from _database(root / "tuning" / "optuna.db", root)


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count as themselves."""
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        return sum(size(parent / name) for parent, _, files in _walk(path) for name in files)
    return 0


def _place(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _folders(folder: Path) -> list[Path]:
    """Folders directly below that are no links and not temporary, by name; none where ``folder`` itself is a link or absent."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in entries if path.is_dir() and not path.is_symlink() and not is_left_over(path.name)]


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    for parent, folders, files in os.walk(root, followlinks=False):
        if Path(parent) == root:
            folders[:] = [name for name in folders if name != TRACKERS]
        folders.sort()
        yield Path(parent), list(folders), sorted(files)


def _temporaries(root: Path, skip: tuple[str, ...] = ()) -> Iterator[Path]:
    """Half written files and folders; not what stands in for a folder whose replacement was cut short (it is put back)."""
    for parent, folders, files in os.walk(root, followlinks=False):
        if Path(parent) == root:
            folders[:] = [name for name in folders if name not in skip]
        for name in sorted((*folders, *files)):
            if is_left_over(name) and not stands_in(Path(parent) / name):
                yield Path(parent) / name
        folders[:] = sorted(name for name in folders if not is_left_over(name))


def _steps(attempt: Path) -> list[Path]:
    return [path for path in _folders(attempt) if path.name.startswith("step-")]


def _spare_checkpoints(attempt: Path) -> Iterator[Left]:
    """Those beyond the newest whole ones; nothing where none is whole, because that is to be noticed at the resumption."""
    damage = {path: verify_folder(path) for path in _steps(attempt)}
    whole = [path for path, problems in damage.items() if not problems]
    for path, problems in damage.items():
        if problems and whole:
            yield Left(path, f"damaged checkpoint beside a whole one ({problems[0]})", size(path))
        elif not problems and path not in whole[-KEEP:]:
            yield Left(path, f"checkpoint older than the last {KEEP}", size(path))


def _unreadable(path: Path) -> str | None:
    if path.is_symlink():
        return None  # said already
    if not path.is_file():
        return "is neither a file nor a folder" if path.exists() else None
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _database(path: Path, root: Path) -> Iterator[str]:
    if not path.is_file() or path.is_symlink():
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            said = connection.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.OperationalError:
        return  # locked by a runner, or on a disk without locks: looked at another time
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        yield f"{_place(path, root)}: damaged ({said}); move it away, the next `peftlab run` makes it anew from the same draws"
