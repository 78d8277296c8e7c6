"""Run folders that travel through Ray, where nodes and the program that was started share no disk."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftlab.records.commit import disk_errors
from peftlab.records.record import RunConfig
from peftlab.records.run_archive import discard, pack, receive
from peftlab.records.run_folder import CONFIG, RunFolder

_PIECE = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Parcel:
    """An archive (records/run_archive.py) in Ray's object stores, in pieces."""

    pieces: tuple[Any, ...]  #: references
    sha256: str


def send(run: RunFolder) -> Parcel | None:
    """What a run has on this disk; None where that is nothing.

    Raises:
        LeaseHeld: somebody works on it.
    """
    import ray

    if not (run.path / CONFIG).exists():
        return None
    with run.lease():
        run.sweep()
        archive = _temporary(run.path.parents[2])
        try:
            sha256 = pack(run, archive)
            with archive.open("rb") as file:
                pieces = tuple(ray.put(piece) for piece in iter(lambda: file.read(_PIECE), b""))
        finally:
            archive.unlink(missing_ok=True)
    return Parcel(pieces, sha256)


def bring(parcel: Parcel, run: RunFolder, config: RunConfig, beside: Path) -> None:
    """Put a run that came in its place, once it has been checked.

    Raises:
        RecordError: it is damaged.
        RayError: its pieces are gone with the node that had them.
    """
    import ray

    archive = _temporary(run.path.parents[2])
    try:
        with disk_errors(archive), archive.open("wb") as file:
            for piece in parcel.pieces:
                file.write(ray.get(piece, timeout=600))
        with run.lease():
            receive(archive, parcel.sha256, run, config, beside)
    finally:
        archive.unlink(missing_ok=True)


def forget(path: str) -> None:
    """On a node: remove the copy of a run that has arrived."""
    discard(RunFolder(path))


def _temporary(folder: Path) -> Path:
    """In the study's folder."""
    with disk_errors(folder):
        handle, name = tempfile.mkstemp(prefix=".archive.tmp-", dir=folder)
        with suppress(OSError):
            os.close(handle)
    return Path(name)
