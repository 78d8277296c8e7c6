"""From what a study calls its texts to the source that has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftlab.errors import DataError, nearest
from peftlab.registry import components, create
from peftlab.tasks.text.contract import TextSource


def source_of(spec: str | Mapping[str, Any], *, where: str = "data") -> TextSource:
    """The configured source for a name, a path, a hub id or ``{name: ..., option: value}``.

    Raises:
        OptionError: unknown source or option.
        DataError: no source accepts the word; what is nearest to it is named.
    """
    if not isinstance(spec, str):
        return create("text", spec, where=where)
    sources = [cls for cls in components("text").values() if issubclass(cls, TextSource)]
    for cls in sorted(sources, key=lambda cls: (cls.priority, cls.name)):
        if cls.accepts(spec):
            return cls.from_text(spec)
    path = Path(spec).expanduser()
    if path.exists():
        remedy = "use train.tsv + dev.tsv (or .csv, .json, .jsonl, .parquet), one such file, or a folder that `datasets` saved"
        raise DataError("holds no texts in a form that is known here", where=spec, remedy=remedy)
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError("no such data", where=spec, remedy=nearest(path.name, [*beside, *(cls.name for cls in sources)][:200]))
