"""Files of a data source: which there are, what they hash to, images in them as a part."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.errors import DataError
from peftlab.tasks.data.contract import Part

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


def folders_in(root: Path) -> list[Path]:
    """Folders directly below, by name; hidden ones are left out."""
    try:
        return sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)
    except OSError as error:
        raise DataError(
            f"cannot be listed: {error.strerror}", where=str(root), remedy="check the folder's permissions"
        ) from error


def visible_files(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; links to folders are not followed, so there is no going in circles."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def images_below(folder: Path) -> Iterator[Path]:
    """Those of them that are images by their suffix."""
    return (path for path in visible_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES)


def image_part(split: str, files: Sequence[tuple[Path, int]]) -> Part:
    """Image files with their labels as one part."""

    def decode(i: int) -> Any:
        from PIL import Image

        return Image.open(files[i][0])

    labels = np.array([label for _, label in files], dtype=np.int64)
    return Part(split=split, labels=labels, decode=decode, where=lambda i: str(files[i][0]))
