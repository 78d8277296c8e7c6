"""Words of notes, warnings and errors about data."""

from __future__ import annotations


def counted(names: list[str], one: str, many: str, limit: int = 5) -> str:
    """``3 classes have ('a', 'b', 'c')``: the number of names, then ``one`` or ``many``, then the first ``limit`` names."""
    shown = ", ".join(repr(name) for name in names[:limit]) + (", ..." if len(names) > limit else "")
    return f"{len(names)} {one if len(names) == 1 else many} ({shown})" if names else f"0 {many}"
