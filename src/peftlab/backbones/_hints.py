"""What may have been meant by a name or a size that does not work: words for remedies."""

from __future__ import annotations

import difflib
from pathlib import Path


def meant(name: str) -> str:
    """What a hub id that leads nowhere may have meant, for a remedy: a folder of nearly that name, or a model of timm."""
    path = Path(name).expanduser()
    folders = [p.name for p in path.parent.iterdir() if (p / "config.json").is_file()] if path.parent.is_dir() else []
    if close := difflib.get_close_matches(path.name, folders, n=1):
        return f"There is a folder {str(path.with_name(close[0]))!r}; "
    import timm

    return f"timm has it: write 'timm/{name}'; " if "/" not in name and timm.is_model(name.partition(".")[0]) else ""


def fitting(image_size: int, patch: int) -> str:
    """A remedy: the sizes next to ``image_size`` that are whole patches."""
    below = image_size // patch * patch
    return f"choose one that is, e.g. {below} or {below + patch}" if below else f"choose one that is, e.g. {patch}"
