"""Tuning values that evaluation does not keep: against scipy, and on records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from peftlab.analysis.analyze import analyze
from peftlab.analysis.frame import load_frame
from peftlab.analysis.tuning_luck import surprise, tuning_luck
from tests.report.fixtures import write_results


def test_one_tuning_run_is_judged_by_the_prediction_interval() -> None:
    kept = [0.81, 0.79, 0.83, 0.80, 0.82]
    bound = np.mean(kept) + stats.t.ppf(0.95, 4) * np.std(kept, ddof=1) * np.sqrt(1 + 1 / 5)
    assert surprise(bound, 1, kept) == pytest.approx(0.05)
    assert surprise(float(np.mean(kept)), 3, kept) == pytest.approx(0.5)
    assert surprise(0.9, 1, kept[:2]) is None
    assert surprise(0.9, 1, [0.8] * 5) == 0.0
    assert surprise(0.8, 1, [0.8] * 5) == 1.0


def test_the_error_rate_is_the_level() -> None:
    draws = np.random.default_rng(0).normal(size=(4000, 6))
    found = [surprise(row[0], 1, row[1:].tolist()) for row in draws]
    assert np.mean([p <= 0.05 for p in found]) == pytest.approx(0.05, abs=0.012)


def promise(folder: Path, label: str, value: float) -> None:
    path = folder / "tuning.json"
    form = json.loads(path.read_text())
    for trial in form["trials"]:
        if trial["label"] == label and trial["values"]["learning_rate"] == 1e-3:
            trial["value"] = value
    path.write_text(json.dumps(form))


def test_an_arm_that_does_not_keep_its_promise_is_named(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    assert tuning_luck(load_frame(folder)) == []
    promise(folder, "lora-all", 0.999)
    (text,) = tuning_luck(load_frame(folder))
    assert text.startswith("lora-all: learning_rate 0.001 was chosen for 99.90 % accuracy on validation")
    assert text in analyze(folder).warnings


def test_a_value_that_evaluation_surpasses_is_no_surprise(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    promise(folder, "lora-all", 0.5)
    assert tuning_luck(load_frame(folder)) == []


def test_the_bound_holds_for_trials_that_follow_from_earlier_ones() -> None:
    """Each trial begins where the best so far was: a search that climbs on luck."""
    draws, false = np.random.default_rng(0), 0
    trials, simulations = 20, 2000
    for _ in range(simulations):
        places, reached = np.zeros(trials), np.zeros(trials)
        for i in range(trials):
            places[i] = draws.normal() if i < 5 else places[reached[:i].argmax()] + 0.1 * draws.normal()
            reached[i] = -(places[i] ** 2) + draws.normal()
        best = int(reached.argmax())
        p = surprise(reached[best], 1, (-(places[best] ** 2) + draws.normal(size=5)).tolist())
        false += p is not None and p <= 0.05 / trials
    assert false / simulations <= 0.05


def test_a_trial_that_repeats_another_is_no_further_evidence(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    promise(folder, "lora-all", 0.985)
    once = tuning_luck(load_frame(folder))
    form = json.loads((folder / "tuning.json").read_text())
    form["trials"] += [trial for trial in form["trials"] if trial["label"] == "lora-all"]
    (folder / "tuning.json").write_text(json.dumps(form))
    assert tuning_luck(load_frame(folder)) == once
