"""From what a study calls its data to the source that has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftlab.errors import DataError, nearest
from peftlab.tasks.data._files import IMAGE_SUFFIXES
from peftlab.tasks.data._source import find_source, sources
from peftlab.tasks.data.contract import DataSource


def source_of(spec: str | Mapping[str, Any], *, where: str = "data") -> DataSource:
    """The configured source for a name, a path, a hub id or ``{name: ..., option: value}``.

    Raises:
        OptionError: unknown source or option.
        DataError: no source accepts the word; a path that is not there names its nearest neighbours.
    """
    found = find_source("data", spec, where)
    if found is None:
        raise missing(str(spec), known=[cls.name for cls in sources("data")])
    return found


def missing(text: str, known: list[str] | None = None) -> DataError:
    """The error for data that are not where they were said to be; names what is nearest to it."""
    path = Path(text).expanduser()
    if path.is_dir() and (bare := sum(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())):
        return DataError(
            f"{bare} images lie in the folder itself, and nothing says which class they have",
            where=text,
            remedy=f"put them into a folder for each class; if {path.resolve().name!r} is one class, name the folder above it",
        )
    if path.exists():
        return DataError(
            "holds no images in a form that is known here",
            where=text,
            remedy="use train.npz + test.npz, train/<class>/*.jpg + test/<class>/*.jpg, <class>/*.jpg, or a `datasets` folder",
        )
    gone = path
    while not gone.parent.is_dir() and gone.parent != gone:
        gone = gone.parent
    siblings = [p.name for p in gone.parent.iterdir()] if gone.parent.is_dir() else []
    looked = f"{gone.name!r} is not in {gone.parent.resolve()}; "
    return DataError("no such data", where=text, remedy=looked + nearest(gone.name, [*siblings, *(known or [])][:200]))
