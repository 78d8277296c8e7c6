"""Words of notes, warnings and errors about data."""

from __future__ import annotations


def counted(names: list[str], one: str, many: str, limit: int = 5) -> str:
    """``3 classes have no example ('a', 'b', 'c')``: the number of names, ``one`` or ``many``, then the first ``limit`` names.

    ``one`` and ``many`` are whole sentences but for the number: the names would tear apart what goes on behind them.
    """
    shown = ", ".join(repr(name) for name in names[:limit]) + (", ..." if len(names) > limit else "")
    return f"{len(names)} {one if len(names) == 1 else many} ({shown})" if names else f"0 {many}"
