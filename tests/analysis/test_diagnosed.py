"""The share of a run's time that its probes took compares seconds of the same processes and the same attempt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftlab.analysis.diagnosed import _share

HOOKS = {"representation": 0.5, "adapter_norms": 0.5, "parameters": 7.0}


@pytest.mark.parametrize(
    ("time", "share"),
    [
        ({"hooks_s": HOOKS, "total_s": 10.0}, 0.1),
        ({"hooks_s": HOOKS, "total_s": 30.0, "given_up": {"total_s": 10.0, "cpu_s": 9.0}}, 0.05),
        ({"hooks_s": HOOKS, "total_s": None}, None),
        ({"stacked": {"runs": 4}, "shared": {"hooks_s": HOOKS, "total_s": 10.0}}, None),
        ({"hooks_s": {"parameters": 7.0}, "total_s": 10.0}, None),
        (None, None),
    ],
)
def test_the_share_of_probes(tmp_path: Path, time: Any, share: float | None) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"time": time}))
    assert _share(tmp_path) == share
