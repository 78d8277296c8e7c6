"""The tuning as the report shows it: a row per arm, and per fold where each fold was tuned by itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from peftlab.analysis.frame import load_frame
from peftlab.report.tuning import tuning
from tests.report.fixtures import STUDY, Options, write_results


def test_folds_have_rows_of_their_own(tmp_path: Path) -> None:
    task = {**STUDY["task"], "folds": 2}
    frame = load_frame(write_results(tmp_path, Options(study={**STUDY, "task": task}, folds=2, failed=(), diverged=())))
    shown = tuning(frame)
    assert shown is not None and shown["intro"] == "The same grid for every arm and fold,"
    assert [row["label"] for row in shown["rows"]][:4] == [
        "full, fold 0", "full, fold 1", "linear-probe, fold 0", "linear-probe, fold 1",
    ]  # fmt: skip
    assert all(sum(cell["chosen"] for cell in row["cells"]) == 1 for row in shown["rows"])
    data = json.loads(json.dumps(frame.tuning))
    halved = tuning(dataclasses.replace(frame, tuning={**data, "sampler": "halving"}))
    assert halved is not None and "as many steps for every arm and fold," in halved["intro"]


def test_without_folds_a_row_is_an_arm(tmp_path: Path) -> None:
    shown = tuning(load_frame(write_results(tmp_path)))
    assert shown is not None and shown["intro"] == "The same grid for every arm,"
    assert [row["label"] for row in shown["rows"]][:2] == ["full", "linear-probe"]
