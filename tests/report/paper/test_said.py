"""What the paper says of the records counts every run, also those that have no time or memory of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftlab.report.paper.numbers import plain, read_numbers
from tests.report.conftest import draw_two
from tests.report.paper.conftest import again, make


def compute(folder: Path) -> dict[str, str]:
    found = read_numbers((folder / "paper" / "numbers.tex").read_text(encoding="utf-8"))
    return {key: plain(value) for key, value in found.items() if key.startswith("compute.")}


def test_runs_computed_together_and_runs_without_a_time_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path)
    stack = {"stacked": {"runs": 2}, "shared": {"train_s": 90.0, "total_s": 100.0, "part_s": 50.0}}
    times = {"full": {"train_s": 10.0}, "bitfit": stack, "lora[rank=2]": {}}
    for path in folder.glob("runs/*/*/results.json"):
        label = json.loads((path.parent / "config.json").read_text())["label"]
        memory = {"stacked": {"runs": 2}} if label == "bitfit" else {"measured_peak_mb": 50.0}
        raw = json.loads(path.read_text())
        path.write_text(json.dumps(raw | {"time": times.get(label, {"train_s": 5.0}), "memory": memory}))
    draw_two(monkeypatch)
    again(folder)
    assert compute(folder) == {
        "compute.runs": "12", "compute.time": "3 minutes", "compute.together": "3", "compute.untimed": "3",
        "compute.peak": "50 MB",
    }  # fmt: skip
    checklist = " ".join((folder / "paper" / "sections" / "checklist.tex").read_text(encoding="utf-8").split())
    assert r"shared a process with others: \result{compute.together}" in checklist
    assert r"no record says how long they took: \result{compute.untimed}" in checklist
