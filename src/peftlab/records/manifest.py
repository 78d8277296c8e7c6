"""SHA-256 manifests: what a folder held when it was committed, and what of it is missing or changed since. Torch-free.

``MANIFEST.json`` of a folder: ``{"schema_version": 1, "files": {name: {"sha256", "bytes"}}}``, names relative to the folder, with
``/`` between their parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peftlab.records.regular import read_regular
from peftlab.records.temporaries import is_left_over

MANIFEST = "MANIFEST.json"


def verify_folder(path: Path | str) -> list[str]:
    """What is wrong with a committed folder, in words; empty when every file is there, unchanged, and listed.

    Raises:
        OSError: the system does not let the folder be listed.
    """
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
    """The content of ``MANIFEST.json`` over files of a folder, given by their relative names.

    Raises:
        OSError: one of them cannot be read.
    """
    files = {name: {"sha256": file_hash(folder / name), "bytes": (folder / name).stat().st_size} for name in sorted(names)}
    return {"schema_version": 1, "files": files}


def read_manifest(folder: Path) -> dict[str, dict[str, Any]] | str:
    """The files of a folder's manifest, ``{name: {"sha256", "bytes"}}``, or what is wrong with it, in words."""
    try:
        files = json.loads(read_regular(folder / MANIFEST))["files"]
        {name: (entry["sha256"], entry["bytes"]) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return files


def check_manifest(folder: Path, listed: dict[str, dict[str, Any]]) -> list[str]:
    """Which listed files are missing or changed, in words; empty when none is. What cannot be read is one of them."""
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
    """Relative names of all files below a folder, without its own manifest and without temporaries.

    Raises:
        OSError: the system does not let the folder be listed.
    """
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
    return sorted(n for n in names if n != MANIFEST and not any(map(_passing, n.split("/"))))


def _passing(name: str) -> bool:
    """A temporary of ours, or what an NFS client keeps of a file that was deleted while open."""
    return is_left_over(name) or name.startswith(".nfs")


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inside(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
