from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.records.record import MetricLine
from peftlab.trackers._figures import END, end_lines, journal_lines
from peftlab.trackers.contract import MARK
from tests.trackers.records import STEPS, record, results

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def ended(tmp_path: Path, **changes: object) -> dict[int, dict[str, float]]:
    run = record(tmp_path)
    outcome = results(run, **changes).model_dump(mode="json")
    names = [path.name for path in run.path.glob("*.json") if path.name != "config.json"]
    return {line.step: dict(line.values) for line in end_lines(outcome, names, run.read_json)}


def test_the_groups_are_what_the_record_says(tmp_path: Path) -> None:
    assert ended(tmp_path)[STEPS] == {
        "lora_adapters/trainable": 50, "lora_adapters/trainable_percent": 5.0, "lora_adapters/layers": 2,
        "lora_rank/total": 8, "lora_rank/mean": 4.0, "lora_rank/min": 2, "lora_rank/max": 6, "lora_rank/effective_scale": 2.0,
        "lora_rank/effective_rank_mean": 2.0, "lora_rank/rank_90_mean": 2.0, "lora_rank/share_in_use_mean": 0.5,
        "efficiency/measured_peak_mb": 700.5, "efficiency/step_gflop": 2.5, "training_efficiency/train_s": 0.6,
        "test/accuracy": 0.5, "selected/accuracy": 0.6, "merge/largest_difference": 1e-7, "final/epoch": 2.0,
        "verification/frozen_weights_unchanged": 1, "verification/trained_tensors_moved": 1, "verification/diverged": 0,
        "verification/flags": 1, "verification/resumed": 0, "verification/gradient_events": 1,
    }  # fmt: skip


def test_ranks_that_moved_are_there_at_their_steps(tmp_path: Path) -> None:
    found = ended(tmp_path)
    assert list(found) == [2, 4, STEPS]
    assert [found[step]["lora_rank/max"] for step in found] == [4, 6, 6]
    assert set(found[2]) == {"lora_rank/total", "lora_rank/mean", "lora_rank/min", "lora_rank/max"}


def test_one_update_proves_nothing_of_what_moved(tmp_path: Path) -> None:
    assert "verification/trained_tensors_moved" not in ended(tmp_path, steps=1)[1]


def test_a_run_that_diverged_has_figures_too(tmp_path: Path) -> None:
    last = ended(tmp_path, status="diverged", metrics={})[STEPS]
    assert last["verification/diverged"] == 1
    assert not any(name.startswith(("test/", "selected/")) for name in last)


@given(content=st.dictionaries(st.text(min_size=1, max_size=5), JSON, max_size=4))
def test_only_finite_numbers_come_through_whatever_a_file_holds(content: dict[str, object]) -> None:
    outcome = {"steps": 3, "epochs": 1.0, "time": {}, "metrics": {}, "status": "completed", "flags": [], "resumed": 0}
    (line,) = end_lines(outcome, ["new_probe.json"], lambda name: content if name == "new_probe.json" else None)
    numbers = {f"new_probe/{k}" for k, v in content.items() if type(v) in (int, float) and math.isfinite(v)}  # type: ignore[arg-type]
    assert {name for name in line.values if name.startswith("new_probe/")} == numbers
    assert all(math.isfinite(value) for value in line.values.values())


def test_every_line_of_a_journal_has_the_mark_of_its_split() -> None:
    lines = [
        MetricLine(step=1, epoch=0.5, split="train", loss=None),
        MetricLine(step=2, epoch=1.0, split="validation", loss=0.25),
    ]
    first, second = journal_lines(lines)
    assert dict(first.values) == {f"train/{MARK}": 0.5, "train/time_s": 0.0}
    assert dict(second.values) == {f"validation/{MARK}": 1.0, "validation/time_s": 0.0, "validation/loss": 0.25}
    assert {first.split, second.split}.isdisjoint({END})


def test_without_any_diagnostics_there_is_still_an_end(tmp_path: Path) -> None:
    outcome = results(record(tmp_path)).model_dump(mode="json")
    (line,) = end_lines(outcome, [], lambda name: None)
    assert line.step == STEPS and line.values["final/epoch"] == pytest.approx(2.0)
