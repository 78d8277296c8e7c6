"""Words that name files of texts, and words that are texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from peftlab.errors import DataError, absent, beside, close
from peftlab.tasks.text.tables import SPREADSHEETS, spreadsheet


def file_of(given: str, kinds: Sequence[str], read: str) -> Path | None:
    """The file that is named; None where the word names none, not even nearly: it is a text.

    Args:
        kinds: suffixes of the files that are read.
        read: what can be given, for remedies.

    Raises:
        DataError: an empty word, a folder, a file of another kind, a file that is not there.
    """
    if not given.strip():
        raise DataError("an empty text", where="inputs", remedy=read)
    path = Path(given)
    try:
        there = path.exists()
    except OSError:  # longer than a name can be
        return None
    suffix = path.suffix.lower()
    if not there:
        if _like_a_file(path, kinds):
            raise DataError("there is no such file", where=given, remedy=absent(path, "check the path"))
        return None
    if suffix in SPREADSHEETS:
        raise spreadsheet(given)
    if path.is_dir() or suffix not in kinds:
        kind = "folder" if path.is_dir() else f"{suffix} file" if suffix else "file without a suffix"
        raise DataError(f"a {kind} is no input of this model", where=given, remedy=read)
    return path


def _like_a_file(path: Path, kinds: Sequence[str]) -> bool:
    """Whether a word that names nothing looks like a file's name: one word of a known suffix, or nearly that of a file beside it.

    A text may end in a file's name, so that several words are only taken for the name of a file whose own has several.
    """
    spaced = len(str(path).split()) > 1
    if not spaced and path.suffix.lower() in (*kinds, *SPREADSHEETS):
        return True
    names = [name for name in beside(path) if " " in name or not spaced]
    return bool(re.fullmatch(r"\.\w{1,8}", path.suffix) and close(path.name, names))
