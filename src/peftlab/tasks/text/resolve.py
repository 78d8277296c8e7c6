"""From what a study calls its texts to the source that has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftlab.errors import DataError
from peftlab.tasks.data._source import find_source, no_such
from peftlab.tasks.text.contract import TextSource
from peftlab.tasks.text.tables import SPREADSHEETS, spreadsheet


def source_of(spec: str | Mapping[str, Any], *, where: str = "data") -> TextSource:
    """The configured source for a name, a path, a hub id or ``{name: ..., option: value}``.

    Raises:
        OptionError: unknown source or option.
        DataError: no source accepts the word; what is nearest to it is named.
    """
    found = find_source("text", spec, where)
    if found is not None:
        return found
    word = str(spec)
    path = Path(word).expanduser()
    if path.is_file() and path.suffix.lower() in SPREADSHEETS:
        raise spreadsheet(word)
    if path.exists():
        remedy = "use train.tsv + dev.tsv (or .csv, .json, .jsonl, .parquet), one such file, or a folder that `datasets` saved"
        raise DataError("holds no texts in a form that is known here", where=word, remedy=remedy)
    raise no_such("text", word)
