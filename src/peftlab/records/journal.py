"""``metrics.jsonl``: one line per evaluation or logged step, appended; half a line at the end is what a crash may leave."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from peftlab.errors import RecordError
from peftlab.records.commit import disk_errors, fsync_folder, write_atomic
from peftlab.records.record import MetricLine
from peftlab.records.regular import read_regular


def plain(value: Any) -> Any:
    """JSON-ready data: records and NumPy values as plain ones, NaN and infinity as None, other objects as text."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="python"))
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, torch tensors
        return plain(value.tolist())
    return str(value)


def append(path: Path, lines: Iterable[MetricLine | Mapping[str, Any]], *, durable: bool = True) -> None:
    """Append lines; a half line left by a crash is cut off first.

    Args:
        path: the journal.
        lines: what to append; values that are not finite become null.
        durable: flush to the disk before returning, with what was appended before, and the name of a new journal.

    Raises:
        RecordError: the disk is full or read-only; the journal is as it was before.
    """
    data = "".join(json.dumps(plain(line), sort_keys=True, allow_nan=False) + "\n" for line in lines).encode()
    with disk_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = _whole(handle)
            os.ftruncate(handle, size)
            try:
                written = 0
                while written < len(data):
                    written += os.write(handle, data[written:])
                if durable:
                    os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
        if durable:
            fsync_folder(path.parent)


def read(path: Path) -> list[MetricLine]:
    """All whole lines.

    Raises:
        RecordError: a line that is not the last is damaged.
    """
    return [line for line, _ in _parsed(path)]


def truncate(path: Path, step: int) -> int:
    """Drop all lines after ``step`` (they will be made again); returns how many. The file is replaced in one step."""
    parsed = _parsed(path)
    kept = [raw for line, raw in parsed if line.step <= step]
    content = b"".join(raw + b"\n" for raw in kept)
    if path.exists() and path.read_bytes() != content:
        write_atomic(path, content)
    return len(parsed) - len(kept)


def _parsed(path: Path) -> list[tuple[MetricLine, bytes]]:
    try:
        *whole, _half = read_regular(path, None).split(b"\n")  # what follows the last newline is nothing, or half a line
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(error.strerror or str(error), where=str(path), remedy="check the folder's permissions") from error
    found = []
    for number, raw in enumerate(whole, start=1):
        try:
            found.append((MetricLine.model_validate_json(raw), raw))
        except ValidationError as error:
            where = f"{path}:{number}"
            raise RecordError("the line is damaged", where=where, remedy="`peftlab verify` shows what else is") from error
    return found


def _whole(handle: int) -> int:
    """Bytes up to and including the last newline."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - 65536)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
