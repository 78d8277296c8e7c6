"""Backbones of which only the shapes are wanted: loaded once on the meta device, a module of its own for everybody who asks."""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path

from peftlab.backbones.contract import Backbone, BackboneSource
from peftlab.tasks.contract import Head

Stamp = tuple[tuple[str, int, int], ...]


def stamp(name: str) -> Stamp:
    """(file, bytes, time of its last change) of what lies in a local folder, to see that it is still the same; else empty."""
    path = Path(name).expanduser()
    if not path.is_dir():
        return ()
    found = [(entry.name, entry.stat()) for entry in os.scandir(path) if entry.is_file()]
    return tuple(sorted((file, about.st_size, about.st_mtime_ns) for file, about in found))


def shapes(source: type[BackboneSource], name: str, *, outputs: int, head: Head, image_size: int | None) -> Backbone:
    """As ``source.load`` on the meta device, which says what is raised. The module is the caller's own, to quantize and adapt.

    A plan asks with every arm, and a library draws all initial values each time, for nobody.
    """
    loaded = _loaded(source, name, stamp(name), outputs, head, image_size)
    made = copy.copy(loaded)  # what was found out about it is not looked for again
    made.module = copy.deepcopy(loaded.module)
    return made


@functools.lru_cache(maxsize=64)
def _loaded(source: type[BackboneSource], name: str, _stamp: Stamp, outputs: int, head: Head, image_size: int | None) -> Backbone:
    return source.load(name, outputs=outputs, head=head, image_size=image_size, seed=0, device="meta")
