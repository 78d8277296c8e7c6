"""Files of the cache: whole or not there, however many processes write them and however they end."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from peftlab.errors import DataError


def cached_arrays(folder: Path, key: Any, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What ``make`` gives, kept in ``folder``; several processes may do this at once.

    Args:
        key: everything that decides the outcome, names and layout of the arrays included; JSON-ready.

    Raises:
        DataError: the cache cannot be written.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]
    path = folder / f"{name}.npz"
    found = _read(path)
    if found is not None:
        return found
    made = dict(make())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, lambda file: np.savez(file, **made))  # pyright: ignore[reportArgumentType]
    except OSError as error:
        size = sum(array.nbytes for array in made.values()) / 2**20
        raise DataError(
            f"the token cache cannot be written: {error}",
            where=str(path.parent),
            remedy=f"free {size:,.0f} MiB there, or give another cache folder",
        ) from error
    return made


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """None where the file is missing or damaged (its checksums are compared)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def replace(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write under a name of its own, then rename."""
    with _temporary(path) as temporary:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
