"""Adaptive against fixed ranks: what is the same for all rows is gathered once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.maps import module_runs
from peftlab.analysis.ranks import adaptive_rows
from tests.report.fixtures import write_results
from tests.report.layers import write_layers


def test_values_of_a_setting_are_gathered_once_however_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred arms are thousands of rows, and the values of a setting take a second of them all."""
    folder = write_results(tmp_path)
    write_layers(folder)
    frame, gathered, real = load_frame(folder), [], Frame.values

    def values(self: Frame, *setting: Any) -> pd.DataFrame:
        gathered.append(setting)
        return real(self, *setting)

    runs, _ = module_runs(frame)
    monkeypatch.setattr(Frame, "values", values)
    rows = adaptive_rows(frame, runs)
    assert len(rows) > 1 and len(gathered) == 2  # which arms there are; what compares them
