"""What a verb answers: plain data for ``--json``, and something that rich can print for a person."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Answer:
    """The answer of a verb.

    Args:
        data: what ``--json`` prints; paths, dataclasses and numbers that JSON does not know are made plain.
        table: draws what a person reads; called only when it is shown. Default: the data, a line per key.
        exit_code: what the process returns.
    """

    def __init__(self, data: Mapping[str, Any], table: Callable[[], Any] | None = None, *, exit_code: int = 0) -> None:
        self._data, self._table, self.exit_code = data, table, exit_code

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return plain(self._data)

    def table(self) -> Any:
        """Whatever rich can print."""
        return self._table() if self._table is not None else pairs(self.as_dict())

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __repr__(self) -> str:
        return f"Answer({self._data!r})"


def plain(value: Any) -> Any:
    """JSON-ready: paths as text, dataclasses and pydantic models as mappings, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if dump := getattr(value, "model_dump", None):  # pydantic
        return plain(dump(mode="json"))
    if isinstance(value, Path):
        return str(value)
    if to_list := getattr(value, "tolist", None):  # numpy, torch, pandas
        return plain(to_list())
    if isinstance(value, Iterable):
        return [plain(entry) for entry in value]
    return str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", right: Iterable[str] = ()) -> Any:
    """A table without lines down the page. It fits the width there is without cutting a word (:class:`FittedTable`).

    Args:
        columns: headings.
        rows: a cell per column; text is printed as it is (no markup), numbers as :func:`number` writes them.
        title: a line above.
        right: headings of the columns that are set flush right.
    """
    from rich.text import Text

    from peftlab.api._fitted_table import FittedTable

    cells = [[cell if isinstance(cell, Text) else Text(number(cell)) for cell in row] for row in rows]
    return FittedTable(columns, cells, title=title, right=frozenset(right))


def pairs(data: Mapping[str, Any], *, title: str = "") -> Any:
    """Two columns: what, and its value."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table.grid(padding=(0, 2))
    drawn.title = Text(title) if title else None
    drawn.add_column(overflow="fold", style="bold")
    drawn.add_column(overflow="fold")
    for key, value in data.items():
        if isinstance(value, Mapping):  # counts: "3 finished, 1 failed"
            value = [f"{number(count)} {what}" for what, count in value.items()]
        shown = ", ".join(number(v) for v in value) if isinstance(value, list | tuple) else number(value)
        drawn.add_row(Text(key.replace("_", " ")), Text(shown))
    return drawn


def lines(*parts: Any) -> Any:
    """Several things below each other; text is printed as it is, empty parts are left out."""
    from rich.console import Group
    from rich.text import Text

    return Group(*(Text(part) if isinstance(part, str) else part for part in parts if part is not None and part != ""))


def number(value: Any) -> str:
    """A cell: thousands apart, four significant digits at most behind the point, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def megabytes(count: float | None) -> str:
    """Bytes as a person reads them (decimal units)."""
    if count is None:
        return ""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float | None) -> str:
    """``38.5 s``, ``4.99 min``, ``2.5 h``; empty where nothing is known."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
