"""Tuning values that evaluation does not keep: against scipy, and on records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from peftlab.analysis.analyze import analyze
from peftlab.analysis.frame import load_frame
from peftlab.analysis.tuning_luck import surprise, tuned_on_others, tuning_luck
from tests.report.fixtures import STUDY, Options, write_results


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


@pytest.mark.parametrize("trials", [1, 2, 5])
def test_three_evaluation_runs_and_one_trial_are_enough(trials: int) -> None:
    kept = [0.81, 0.79, 0.84]
    t = (0.9 - np.mean(kept)) / (np.std(kept, ddof=1) * np.sqrt(1 / trials + 1 / 3))
    assert surprise(0.9, trials, kept) == pytest.approx(stats.t.sf(t, 2))
    assert surprise(0.9, 0, kept) is None and surprise(0.9, 1, kept[:2]) is None


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> list[str]:
    path = folder / "tuning.json"
    form = json.loads(path.read_text())
    change(form)
    path.write_text(json.dumps(form))
    return tuning_luck(load_frame(folder))


def kept_runs(folder: Path, label: str) -> np.ndarray:
    rows = load_frame(folder).rows
    rows = rows[(rows["label"] == label) & (rows["metric"] == "accuracy") & (rows["split"] == "validation")]
    return rows["value"].dropna().to_numpy(dtype=float)


def promised(kept: np.ndarray, p: float, trials: int) -> float:
    """What of two tuning runs would be a surprise of exactly this p."""
    return float(kept.mean() + stats.t.isf(p, len(kept) - 1) * kept.std(ddof=1) * np.sqrt(1 / trials + 1 / len(kept)))


def test_the_level_is_shared_by_all_values_that_were_tried(tmp_path: Path) -> None:
    """Three learning rates, two seeds each: p may be 0.05 / 3."""
    for number, (p, told) in enumerate(((0.05 / 3 * 1.05, 0), (0.05 / 3 * 0.95, 1))):
        folder = write_results(tmp_path / str(number))
        kept = kept_runs(folder, "lora-all")
        promise(folder, "lora-all", promised(kept, p, 2))
        assert len(tuning_luck(load_frame(folder))) == told


def test_what_is_said_of_a_promise_that_was_not_kept(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    kept = kept_runs(folder, "lora-all")
    promise(folder, "lora-all", 0.999)
    (text,) = tuning_luck(load_frame(folder))
    assert "(2 tuning runs), its 5 evaluation runs reach" in text and f"reach {100 * kept.mean():.2f} % there." in text


def test_only_trials_of_the_chosen_values_promise_anything(tmp_path: Path) -> None:
    def others(form: dict[str, Any]) -> None:
        for trial in form["trials"]:
            if trial["label"] == "lora-all" and trial["values"]["learning_rate"] != 1e-3:
                trial["value"] = 0.9999

    assert changed(write_results(tmp_path), others) == []


def test_trials_without_a_value_count_as_tried_and_promise_nothing(tmp_path: Path) -> None:
    def lost(form: dict[str, Any]) -> None:
        first = True
        for trial in form["trials"]:
            if trial["label"] == "lora-all" and trial["values"]["learning_rate"] == 1e-3:
                trial["value"], first = 0.999 if first else None, False

    (text,) = changed(write_results(tmp_path), lost)
    assert "(1 tuning run)" in text


def test_lower_can_be_better(tmp_path: Path) -> None:
    """A loss that was promised far below what the evaluation runs reach, and one far above it."""
    for number, (value, told) in enumerate(((0.001, 1), (5.0, 0))):

        def losses(form: dict[str, Any], value: float = value) -> None:
            form["metric"] = "loss"
            form["trials"] = [
                {**t, "value": value} for t in form["trials"] if t["label"] == "lora-all" and t["values"]["learning_rate"] == 1e-3
            ]

        assert len(changed(write_results(tmp_path / str(number)), losses)) == told


def test_arms_of_several_settings_and_broken_forms_are_passed_over(tmp_path: Path) -> None:
    def twice(form: dict[str, Any]) -> None:
        for trial in form["trials"]:
            if trial["label"] == "lora-all":
                trial["value"] = 0.999
        form["chosen"] += [{**entry, "task": "another"} for entry in form["chosen"] if entry["label"] == "lora-all"]

    folder = write_results(tmp_path)
    assert changed(folder, twice) == []
    assert changed(folder, lambda form: form.update(trials="none", chosen=None)) == []
    assert changed(folder, lambda form: form.update(trials=[1, "x"], chosen=[None])) == []


def test_an_arm_that_is_passed_over_hides_no_other(tmp_path: Path) -> None:
    def one_of_two(form: dict[str, Any]) -> None:
        for trial in form["trials"]:
            if trial["label"] in ("linear-probe", "lora-all") and trial["values"]["learning_rate"] == 1e-3:
                trial["value"] = 0.999
        form["chosen"] += [{**entry, "task": "another"} for entry in form["chosen"] if entry["label"] == "linear-probe"]

    (text,) = changed(write_results(tmp_path), one_of_two)
    assert text.startswith("lora-all")


def test_of_a_seed_that_was_tried_again_the_last_run_counts(tmp_path: Path) -> None:
    def seeds(form: dict[str, Any], named: bool) -> None:
        about = {"label": "lora-all", "values": {"learning_rate": 1e-3}, "backbone": "bundled:vit-nano"}
        form["trials"] = [{**about, **({"seed": 100} if named else {}), "value": value} for value in (0.5, 0.998, 0.999)]
        form["chosen"] = [about]

    folder = write_results(tmp_path)
    (text,) = changed(folder, lambda form: seeds(form, True))
    assert "99.90 %" in text and "(1 tuning run)" in text
    assert changed(folder, lambda form: seeds(form, False)) == [], "three runs, whose mean is far below"


def folded(root: Path) -> Path:
    task = {**STUDY["task"], "folds": 3}
    return write_results(root, Options(study={**STUDY, "task": task}, folds=3, failed=(), diverged=()))


def test_a_fold_is_held_to_the_promise_of_its_own_tuning(tmp_path: Path) -> None:
    """Nine different trials of an arm over three folds: p may be 0.05 / 9."""
    folder = folded(tmp_path)
    rows = load_frame(folder).rows
    here = (rows["label"] == "lora-all") & (rows["metric"] == "accuracy") & (rows["split"] == "validation") & (rows["fold"] == 2)
    kept = rows[here]["value"].to_numpy(dtype=float)
    assert len(kept) == 5

    def promise_of_fold_2(value: float) -> list[str]:
        def change(form: dict[str, Any]) -> None:
            for trial in form["trials"]:
                if (trial["label"], trial.get("fold"), trial["values"]["learning_rate"]) == ("lora-all", 2, 1e-3):
                    trial["value"] = value

        return [text for text in changed(folder, change) if text.startswith("lora-all")]

    assert promise_of_fold_2(promised(kept, 0.05 / 9 * 1.05, 2)) == []
    (text,) = promise_of_fold_2(promised(kept, 0.05 / 9 * 0.95, 2))
    assert text.startswith("lora-all, fold 2: learning_rate 0.001 was chosen") and "its 5 evaluation runs" in text


def test_values_that_another_fold_chose_are_named(tmp_path: Path) -> None:
    """As in folders of before each fold was tuned by itself: one choice, made on fold 0, for all."""
    folder = folded(tmp_path)
    assert tuned_on_others(load_frame(folder)) == []

    def only_the_first(form: dict[str, Any]) -> None:
        for name in ("trials", "chosen"):
            form[name] = [entry for entry in form[name] if not entry.get("fold")]

    changed(folder, only_the_first)
    (text,) = tuned_on_others(load_frame(folder))
    assert text.startswith("full, linear-probe") and "values were chosen on one fold for the others too" in text
    assert text in analyze(folder).warnings
    assert tuned_on_others(load_frame(write_results(tmp_path / "plain"))) == []
