"""Hashes of weight files, cached by path, size and modification time within a process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from peftlab.errors import BackboneError


def hash_folder(folder: Path, patterns: tuple[str, ...] = ("*.safetensors", "config.json")) -> str:
    """SHA-256 over the names and bytes of the files that make a model what it is."""
    require_safetensors(folder)
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path.name}:{_hash_file(path, stat.st_size, stat.st_mtime_ns)};".encode())
    return digest.hexdigest()


def require_safetensors(folder: Path) -> None:
    """Weights come from safetensors or not at all.

    Raises:
        BackboneError: the folder holds none (pickled ones, .bin or .pt, are never read: they can run code).
    """
    if not any(folder.glob("*.safetensors")):
        raise BackboneError(
            "no .safetensors file in the folder",
            where=str(folder),
            remedy="pickled weights (.bin, .pt) are not loaded; convert them with safetensors' own converter",
        )


@cache
def _hash_file(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> dict:
    """A JSON object, or a typed error naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"not readable as JSON: {error}", where=str(path), remedy="copy the model folder again") from error
    if not isinstance(content, dict):
        raise BackboneError("not a JSON object", where=str(path), remedy="copy the model folder again")
    return content


def channels(values: Sequence[float] | None) -> tuple[float, float, float]:
    """Mean or deviation per colour channel from a preprocessing file; 0.5 where it says nothing."""
    if not values:
        return 0.5, 0.5, 0.5
    if len(values) != 3:
        raise BackboneError(
            f"expects {len(values)} colour channels", where=str(list(values)), remedy="use a backbone for RGB images"
        )
    red, green, blue = values
    return float(red), float(green), float(blue)
