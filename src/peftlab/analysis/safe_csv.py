"""Tables as CSV that no spreadsheet runs: headings and cells that would start a formula are quoted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import csv


def safe_cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    if isinstance(value, str) and value[:1] in tuple("=+-@\t\r\n＝＋－＠"):
        return "'" + value
    return value


def quoted(table: pd.DataFrame) -> pd.DataFrame:
    """A copy with :func:`safe_cell` of every heading and every text; columns of numbers stay as they are.

    Raises:
        TypeError: a cell that cannot be hashed, such as a list.
    """
    safe = table.rename(columns=safe_cell)
    for column in safe.columns:
        if pd.api.types.is_numeric_dtype(safe[column]):
            continue
        # a million rows have few different texts, so each is looked at once
        changed = {value: cell for value in safe[column].unique() if (cell := safe_cell(value)) is not value}
        if changed:
            safe[column] = [changed.get(value, value) for value in safe[column].to_numpy(dtype=object)]
    return safe


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Comma-separated and :func:`quoted`, numbers in full precision; a million rows take about a second."""
    csv.write_csv(pa.Table.from_pandas(quoted(table), preserve_index=False), str(path), csv.WriteOptions(quoting_style="needed"))
