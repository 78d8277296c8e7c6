"""What may have been meant by a name or a size that does not work."""

from __future__ import annotations

import difflib
from pathlib import Path

from peftlab.errors import BackboneError


def unreachable(name: str, error: Exception) -> BackboneError:
    """The error for a model that transformers does not load; what the name may have meant comes before what the hub said."""
    first = str(error).strip().split("\n")[0][:200]
    if Path(name).expanduser().is_dir():
        remedy = "check config.json and the weights, or save the model again (as safetensors)"
        return BackboneError(f"cannot be loaded: {first}", where=name, remedy=remedy)
    if meant := _meant(name):
        what, remedy = meant
        return BackboneError(what, where=name, remedy=f"{remedy} As a model of the hub it cannot be loaded: {first}")
    remedy = "check the name and the connection, or give a local folder (safetensors)"
    return BackboneError(f"cannot be loaded: {first}", where=name, remedy=remedy)


def _meant(name: str) -> tuple[str, str] | None:
    """(what is wrong, what to do) where a hub id that leads nowhere is nearly the name of a folder, or that of a timm model."""
    path = Path(name).expanduser()
    folders = [p.name for p in path.parent.iterdir() if (p / "config.json").is_file()] if path.parent.is_dir() else []
    if close := difflib.get_close_matches(path.name, folders, n=1):
        near = str(path.with_name(close[0]))
        return f"there is no such folder, but a folder {near!r}", f"Did you mean {near!r}?"
    import timm

    if "/" not in name and timm.is_model(name.partition(".")[0]):
        return "is a model of timm", f"Write 'timm/{name}'."
    return None


def fitting(image_size: int, patch: int) -> str:
    """A remedy: the sizes next to ``image_size`` that are whole patches."""
    below = image_size // patch * patch
    return f"choose one that is, e.g. {below} or {below + patch}" if below else f"choose one that is, e.g. {patch}"
