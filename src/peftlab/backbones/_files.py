"""Hashes of weight files, cached by path, size and modification time within a process."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from peftlab import mistakes
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
    for path in folder.glob("*.safetensors"):
        _check_header(path)


def _check_header(path: Path) -> None:
    """A copy that was cut, or a pointer of Git LFS, is told before anything is planned on it: only the header is read.

    Raises:
        BackboneError: no safetensors file, or not the whole of one.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length < size else {}
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BackboneError("is no safetensors file", where=str(path), remedy="copy the weights again") from error
    if 8 + length + end != size:
        what = f"is cut: {size:,} bytes, {8 + length + end:,} belong to it" if end else "is no safetensors file"
        raise BackboneError(what, where=str(path), remedy="copy the weights again")


@cache
def _hash_file(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> dict:
    """A JSON object, or a typed error naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BackboneError(f"cannot be read: {error.strerror}", where=str(path), remedy="copy the model folder again") from error
    except (ValueError, RecursionError) as error:
        raise BackboneError(
            f"not readable as JSON: {mistakes.of_json(error)}", where=str(path), remedy="copy the model folder again"
        ) from error
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
