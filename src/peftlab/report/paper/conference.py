"""A conference's style, dropped into the paper's folder, and which of several files it is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from peftlab.errors import StudyError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VENUES = re.compile(
    r"(neurips|nips|icml|iclr|acl|naacl|emnlp|eacl|coling|aaai|ijcai|uai|aistats|colm|cvpr|iccv|eccv|wacv|kdd|jmlr|tmlr|automl|ieee)",
    re.IGNORECASE,
)
_TITLE = re.compile(r"\\(?:re)?newcommand\*?\s*\{?\\maketitle|\\def\s*\\@?maketitle")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Names without their suffix; empty: LaTeX's own article with natbib's plainnat."""

    cls: str = ""
    sty: str = ""
    bst: str = ""


def find_style(folder: Path) -> Style:
    """What lies in a paper's folder.

    Raises:
        StudyError: several files could be the style, or one has a name that LaTeX cannot take.
    """
    cls = _one(folder, "cls")
    return Style(cls=cls, sty="" if cls else _one(folder, "sty"), bst=_one(folder, "bst"))  # a class loads what it needs itself


def _one(folder: Path, suffix: str) -> str:
    found = sorted(path for path in folder.glob(f"*.{suffix}") if path.is_file()) if folder.is_dir() else []
    likely = found if len(found) < 2 else _likely(found)
    if len(likely) > 1:
        remedy = "keep the one that is meant in this folder, and what it needs in TeX's own folders"
        raise StudyError(f"several styles: {', '.join(p.name for p in likely)}", where=str(folder), remedy=remedy)
    if not likely:
        return ""
    name = likely[0].stem
    if not _NAME.fullmatch(name):
        raise StudyError(f"LaTeX cannot take a style called {likely[0].name!r}", where=str(folder), remedy="rename the file")
    return name


def _likely(found: Sequence[Path]) -> list[Path]:
    """Those named after a venue; else those that set the title themselves. Helpers that a style brings are neither."""
    named = [path for path in found if _VENUES.search(path.stem)]
    if named:
        return named
    return [path for path in found if _TITLE.search(path.read_text(encoding="utf-8", errors="replace"))] or list(found)
