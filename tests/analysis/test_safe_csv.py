"""What a spreadsheet would run is quoted, and nothing else is changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from peftlab.analysis.safe_csv import quoted, safe_cell, write_csv


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_formula_cells_are_quoted(text: str) -> None:
    assert safe_cell(text) == "'" + text
    assert safe_cell("lora[rank=2]") == "lora[rank=2]"


def test_headings_and_texts_of_a_table_are_quoted() -> None:
    table = pd.DataFrame(
        {
            "@arm": pd.array(["=1+1", "plain", None], dtype="string"),
            "mixed": np.array([True, 1, "-1"], dtype=object),
            "value": [-1.5, np.nan, 2.0],
            "block": pd.array([-1, None, 3], dtype="Int64"),
            "higher": pd.array([True, None, False], dtype="boolean"),
        },
        index=[4, 4, 2],
    )
    before = table.copy(deep=True)
    safe = quoted(table)
    pd.testing.assert_frame_equal(table, before)
    assert list(safe.columns) == ["'@arm", "mixed", "value", "block", "higher"] and list(safe.index) == [4, 4, 2]
    assert safe["'@arm"].tolist()[:2] == ["'=1+1", "plain"] and pd.isna(safe["'@arm"].iloc[2])
    assert [repr(value) for value in safe["mixed"]] == ["True", "1", repr("'-1")]
    pd.testing.assert_frame_equal(safe[["value", "block", "higher"]], table[["value", "block", "higher"]])


def test_a_table_is_written_and_read_alike(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"arm": ["=1+1", 'a, "b"', None], "value": [0.1, np.nan, 1e-17], "block": pd.array([1, None, 3], dtype="Int64")}
    )
    write_csv(table, tmp_path / "t.csv")
    read = pd.read_csv(tmp_path / "t.csv")
    assert read["arm"].tolist()[:2] == ["'=1+1", 'a, "b"'] and pd.isna(read["arm"][2])
    assert read["value"].tolist()[::2] == [0.1, 1e-17] and pd.isna(read["value"][1])
    assert read["block"].tolist()[::2] == [1, 3]
