"""Tables of a million rows as CSV, in a second."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from peftlab.analysis.frame import safe_cell


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Comma-separated, numbers in full precision; cells that would start a formula in a spreadsheet are quoted."""
    safe = table.rename(columns=safe_cell)
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            known = {value: safe_cell(value) for value in safe[column].unique()}
            if any(value is not quoted for value, quoted in known.items()):
                safe[column] = safe[column].map(known.get)
    csv.write_csv(pa.Table.from_pandas(safe, preserve_index=False), str(path), csv.WriteOptions(quoting_style="needed"))
