"""From the name in a study to the source that has it."""

from __future__ import annotations

import os
from pathlib import Path

from peftlab.backbones.contract import BackboneSource
from peftlab.errors import BackboneError, close
from peftlab.registry import components

FORMS = "A backbone is bundled:NAME, timm/NAME, a transformers hub id (owner/name) or a folder that save_pretrained wrote."


def source_of(name: str) -> type[BackboneSource]:
    """The backbone source for ``bundled:NAME``, a local folder, ``timm/NAME`` or a transformers hub id.

    Raises:
        BackboneError: nothing accepts the name; a local path that is not there names its nearest neighbours.
    """
    if not name.strip():
        raise BackboneError("the name is empty", where="backbone", remedy=FORMS)
    if name.startswith("~") and os.path.expanduser(name).startswith("~"):  # noqa: PTH111 (raises)
        raise BackboneError("there is no such user", where=name, remedy="write the path out")
    sources = sorted(components("backbone").values(), key=lambda cls: cls.priority)  # pyright: ignore
    for source in sources:
        if issubclass(source, BackboneSource) and source.accepts(name):
            return source
    path = Path(name).expanduser()
    if path.is_dir():
        raise BackboneError(
            "the folder is no model folder: it needs a config.json with model_type (transformers) or architecture (timm)",
            where=name,
            remedy="name the folder that save_pretrained wrote",
        )
    siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    raise BackboneError("no such backbone", where=name, remedy=f"{close(path.name, siblings)} {FORMS}".strip())
