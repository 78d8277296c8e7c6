"""What happens to a folder: a file of it put there, cut, removed, or its keys changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[Path], Any]


def put(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def cut(name: str) -> Change:
    """To half of it."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


def drop(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def keys(name: str, **values: Any) -> Change:
    """Other values in a JSON file; ``...`` takes the key away."""

    def change(folder: Path) -> None:
        raw = {**json.loads((folder / name).read_text()), **values}
        (folder / name).write_text(json.dumps({key: value for key, value in raw.items() if value is not ...}))

    return change
