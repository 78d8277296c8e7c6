"""The names of temporaries: of what is half written beside its target, and of what is being replaced. Torch-free.

A process that is killed leaves them behind; the name alone says what each is and to which file or folder it belongs.
"""

from __future__ import annotations

import uuid
from pathlib import Path

TEMPORARY, REPLACED = ".tmp-", ".old-"  #: ".<name>.tmp-<random>": half written; ".<name>.old-<random>": being replaced


def beside(path: Path, kind: str) -> Path:
    """A new temporary name in the folder of ``path``; ``kind`` is TEMPORARY or REPLACED. Nothing is made."""
    return path.with_name(f".{path.name}{kind}{uuid.uuid4().hex[:8]}")


def parse_name(name: str) -> tuple[str, str]:
    """(target name, kind) of a temporary's name; kind is empty for other files."""
    for kind in (TEMPORARY, REPLACED):
        head, found, tail = name.rpartition(kind)
        if found and head.startswith(".") and len(head) > 1 and len(tail) == 8:
            return head[1:], kind
    return name, ""


def is_left_over(name: str) -> bool:
    """Whether a file name is that of a temporary, half written or being replaced."""
    return parse_name(name)[1] != ""


def stands_in(path: Path) -> bool:
    """Whether a temporary is the old form of a folder whose replacement was cut short.

    ``settle_folder`` of records/commit.py puts it back.
    """
    name, kind = parse_name(path.name)
    return kind == REPLACED and not (path.parent / name).exists()
