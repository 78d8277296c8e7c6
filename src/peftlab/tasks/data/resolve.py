"""From what a study calls its data to the source that has them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftlab.errors import DataError
from peftlab.tasks.data._files import IMAGE_SUFFIXES
from peftlab.tasks.data._source import find_source, no_such
from peftlab.tasks.data.contract import DataSource


def source_of(spec: str | Mapping[str, Any], *, where: str = "data") -> DataSource:
    """The configured source for a name, a path, a hub id or ``{name: ..., option: value}``.

    Raises:
        OptionError: unknown source or option.
        DataError: no source accepts the word; a path that is not there names its nearest neighbours.
    """
    found = find_source("data", spec, where)
    if found is None:
        raise missing(str(spec))
    return found


def missing(text: str) -> DataError:
    """The error for data that are not where they were said to be, or are there in another form."""
    path = Path(text).expanduser()
    if not path.exists():
        return no_such("data", text)
    forms = "train.npz + test.npz, train/CLASS/*.jpg + test/CLASS/*.jpg, CLASS/*.jpg, or a `datasets` folder"
    if path.is_file():
        return DataError("a file of a form that is not known here", where=text, remedy=f"use a .npz file, or a folder: {forms}")
    inside = list(itertools.islice(path.iterdir(), 1000))
    if bare := sum(file.suffix.lower() in IMAGE_SUFFIXES for file in inside):
        said = f"{bare} images lie" if bare > 1 else "1 image lies"
        return DataError(
            f"{said} in the folder itself, and nothing says which class {'they have' if bare > 1 else 'it has'}",
            where=text,
            remedy=f"put them into a folder for each class; if {path.resolve().name!r} is one class, name the folder above it",
        )
    held = "is empty" if not inside else "holds no images in a form that is known here"
    return DataError(held, where=text, remedy=f"use {forms}")
