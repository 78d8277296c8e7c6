"""Files of a data source: what they hash to, and what a damaged one says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from peftlab.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

#: a file changed less than this before it was hashed may change again within one tick of its clock (git calls such files racy)
SETTLED_S = 2.0

_known: dict[str, str] = {}


def hash_files(files: Mapping[str, Path], cache: Path | None = None) -> str:
    """SHA-256 over names and contents of files; where they lie does not matter.

    Repeated calls are cheap: the result is remembered for (path, size, time of change) of all files, in the process and, given a
    ``cache`` folder, between processes.

    Raises:
        DataError: a file is missing or unreadable.
    """
    listing, newest = hashlib.sha256(), 0
    for name in sorted(files):
        try:
            status = files[name].stat()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=str(files[name]), remedy="check the file") from error
        listing.update(json.dumps([name, os.fspath(files[name].absolute()), status.st_size, status.st_mtime_ns]).encode())
        newest = max(newest, status.st_mtime_ns)
    key = listing.hexdigest()
    note = cache / "fingerprints" / key if cache else None
    found = _known.get(key) or _remembered(note)
    if found is None:
        found = _hash_contents(files)
        if time.time_ns() - newest < SETTLED_S * 1e9:
            return found
    _known[key] = found
    if note and not note.exists():
        _remember(note, found)
    return found


def _hash_contents(files: Mapping[str, Path]) -> str:
    whole = hashlib.sha256()
    for name in sorted(files):
        try:
            with files[name].open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=str(files[name]), remedy="check the file") from error
        whole.update(json.dumps([name, digest]).encode())
    return whole.hexdigest()


def _remembered(note: Path | None) -> str | None:
    try:
        text = note.read_text("ascii") if note else ""
    except (OSError, UnicodeDecodeError):
        return None
    return text if len(text) == 64 and set(text) <= set("0123456789abcdef") else None


def _remember(note: Path, digest: str) -> None:
    temporary = note.with_name(f".{note.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(digest, "ascii")
        temporary.replace(note)
    except OSError:  # only costs time: hashed again by the next process
        with contextlib.suppress(OSError):
            temporary.unlink()
