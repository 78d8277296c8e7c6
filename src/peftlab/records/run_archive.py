"""A run folder as one file, for machines that share no disk: packed on one, checked and put in its place on another.

An archive is an uncompressed tar whose first member, ``INDEX.json``, lists every file with its size and SHA-256. What arrives is
believed only file by file: regular files under names of the index, inside the folder, nothing twice, nothing missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from peftlab.errors import RecordError
from peftlab.records import commit
from peftlab.records.lease import FILE as LEASE
from peftlab.records.manifest import MANIFEST, file_hash, files_below, manifest
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import CHECKPOINTS, ERROR, RESULTS, RunFolder

INDEX = "INDEX.json"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,=+@ ()\[\]-]{0,200}")
_MOST_FILES, _MOST_INDEX_BYTES, _BLOCK = 100_000, 64 * 2**20, 2**20
_LAST = (ERROR, RESULTS)  #: what says that a run is over is put in place after everything else


def pack(run: RunFolder, target: Path) -> str:
    """Write the run's files to ``target``; returns the SHA-256 of the archive. For the holder of the lease.

    Checkpoints go along while the run is not finished.
    """
    with commit.disk_errors(target):
        finished = (run.path / RESULTS).exists()
        names = [name for name in files_below(run.path) if name != LEASE]
        names += [MANIFEST] if (run.path / MANIFEST).exists() else []
        names = sorted(name for name in names if not (finished and name.startswith(f"{CHECKPOINTS}/")))
        if links := [name for name in names if (run.path / name).is_symlink()]:
            raise RecordError("a link cannot be sent", where=str(run.path / links[0]), remedy="replace it by the file itself")
        index = json.dumps(manifest(run.path, names), sort_keys=True).encode()
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
            head = tarfile.TarInfo(INDEX)
            head.size = len(index)
            archive.addfile(head, io.BytesIO(index))
            for name in names:
                about = tarfile.TarInfo(name)
                about.size = (run.path / name).stat().st_size
                with (run.path / name).open("rb") as file:
                    archive.addfile(about, file)
    return file_hash(target)


def unpack(archive: Path, target: Path) -> None:
    """Write the files of an archive into an empty folder.

    Raises:
        RecordError: it is damaged, or names anything but files inside the folder; what was written then is to be thrown away.
    """
    try:
        with commit.disk_errors(target), tarfile.open(archive, "r:") as opened:
            members = iter(opened)
            expected = _index(opened, next(members, None), archive)
            needed, free = sum(entry["bytes"] for entry in expected.values()), shutil.disk_usage(target).free
            if needed > free:
                raise RecordError(f"{needed:,} bytes are to come, {free:,} are free", where=str(target), remedy="free disk space")
            for member in members:
                entry = expected.pop(member.name, None)
                if entry is None or not member.isreg() or member.size != entry["bytes"]:
                    raise _damaged(archive, f"{member.name!r} is no file of its index")
                _write(opened, member, target / member.name, entry["sha256"], archive)
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise _damaged(archive, str(error)) from error
    if expected:
        raise _damaged(archive, f"{min(expected)!r} is missing")


def receive(archive: Path, sha256: str, run: RunFolder, config: RunConfig, beside: Path) -> None:
    """Check a run that came from another machine and put it in its place. For the holder of the run's lease.

    A run that is finished here already is left as it is. After a crash the run is finished or can be continued: what says that it
    is over is put in place last.

    Args:
        archive: made by :func:`pack`.
        sha256: what :func:`pack` said.
        run: where it belongs.
        config: what it must be.
        beside: a folder on the same disk, for what is not checked yet.

    Raises:
        RecordError: the archive is damaged, or that of another run.
    """
    if file_hash(archive) != sha256:
        raise _damaged(archive, "its SHA-256 is not that of what was sent")
    with commit.disk_errors(beside):
        waiting = Path(tempfile.mkdtemp(prefix=f".{run.run_id}.tmp-", dir=beside))
    try:
        came = RunFolder(waiting / run.run_id).make()
        unpack(archive, came.path)
        if came.config().run_id != config.run_id:
            raise _damaged(archive, f"it is that of run {came.config().run_id}")
        if problems := came.verify():
            raise _damaged(archive, problems[0])
        if run.results() is None:
            with commit.disk_errors(run.path):
                _move(came.path, run.path)
    finally:
        shutil.rmtree(waiting, ignore_errors=True)


def _index(opened: tarfile.TarFile, head: tarfile.TarInfo | None, archive: Path) -> dict[str, dict[str, Any]]:
    if head is None or head.name != INDEX or not head.isreg() or head.size > _MOST_INDEX_BYTES:
        raise _damaged(archive, "it has no index")
    file = opened.extractfile(head)
    assert file is not None  # of a regular file
    try:
        files = json.loads(file.read())["files"]
        found = {str(name): {"sha256": str(entry["sha256"]), "bytes": int(entry["bytes"])} for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(archive, "its index is not readable") from error
    if len(found) > _MOST_FILES:
        raise _damaged(archive, f"{len(found):,} files")
    for name, entry in found.items():
        if not all(_PART.fullmatch(part) for part in name.split("/")) or name == LEASE or entry["bytes"] < 0:
            raise _damaged(archive, f"{name!r} is no name of a file of a run")
    return found


def _write(opened: tarfile.TarFile, member: tarfile.TarInfo, target: Path, sha256: str, archive: Path) -> None:
    source, digest = opened.extractfile(member), hashlib.sha256()
    assert source is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        while block := source.read(_BLOCK):
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != sha256:
        raise _damaged(archive, f"the content of {member.name!r} changed on the way")


def _move(source: Path, target: Path) -> None:
    """Journal before checkpoints: when the run goes on, one longer than they say is cut, and a shorter one would have a gap."""
    commit.sweep(target)
    there = sorted(source.iterdir(), key=lambda path: (path.name in _LAST, path.is_dir(), path.name))
    for path in [path for path in there if path.name not in _LAST]:
        if path.is_dir():
            commit.fsync_folder(target)  # else a power cut may undo what is before it, and keep it
        aside = target / f".{path.name}.old-{uuid.uuid4().hex[:8]}"
        if (target / path.name).is_dir():
            (target / path.name).rename(aside)
        os.replace(path, target / path.name)  # noqa: PTH105 (as in commit.py)
        if aside.exists():
            shutil.rmtree(aside)
    known = {path.name for path in there} | {LEASE}
    for old in [path for path in target.iterdir() if path.name not in known]:
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for name in _LAST:  # an error of an earlier try came along under another name
        if name in known:
            os.replace(source / name, target / name)  # noqa: PTH105
        else:
            (target / name).unlink(missing_ok=True)
    commit.fsync_folder(target)


def discard(run: RunFolder) -> None:
    """Remove a copy that has arrived elsewhere, unless somebody works on it."""
    with suppress(RecordError, OSError), run.lease():
        shutil.rmtree(run.path)


def _damaged(archive: Path, what: str) -> RecordError:
    return RecordError(f"the archive of a run is damaged: {what}", where=str(archive), remedy="run again; the run is made anew")
