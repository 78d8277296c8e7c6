"""Shares of a gain for shares of the parameters, by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from peftlab.analysis.analyze import analyze, read_findings
from peftlab.analysis.efficiency import efficiency, reference
from peftlab.analysis.intervals import t_interval
from peftlab.analysis.setting import Setting
from tests.report.fixtures import LEVELS, STUDY, Options, write_results

TRAINABLE = {"start": 100, "both": 100, "half": 39, "head": 10}


def setting(values: dict[str, list[float]], steps: dict[str, int], *, higher: bool) -> Setting:
    count = len(next(iter(values.values())))
    seeds = pd.MultiIndex.from_tuples([(seed, 0) for seed in range(count)], names=["seed", "fold"])
    rows = [
        {"label": label, "steps": steps[label], "trainable": TRAINABLE[label], "adapted": TRAINABLE[label] - 10}
        for label in values
        for _ in range(3)
    ]
    table = pd.DataFrame(values, index=seeds)
    return Setting(task="t", backbone="b", values=table, runs=pd.DataFrame(rows), chance=None, higher_is_better=higher, folds=1)


def test_perplexity_counts_by_its_logarithm() -> None:
    values = {"start": [90.0, 100.0, 110.0], "both": [20.0, 22.0, 21.0], "half": [30.0, 25.0, 28.0]}
    here = setting(values, {"start": 0, "both": 50, "half": 50}, higher=False)
    assert reference(here, "both") == "start"
    found = efficiency(here, "half", "both", "start", "perplexity", 0.95)
    assert found is not None and found.reference == "start"
    shares = [math.log(s / a) / math.log(s / f) for s, f, a in zip(*values.values(), strict=True)]
    assert found.kept == pytest.approx(np.mean(shares))
    assert found.interval == pytest.approx(stats.t.interval(0.95, 2, np.mean(shares), stats.sem(shares)))
    assert found.saved_percent == pytest.approx(61)
    assert found.ratio == pytest.approx(np.mean(shares) / 0.39)
    assert found.ratio_interval == pytest.approx([bound / 0.39 for bound in found.interval or ()])
    own = efficiency(here, "both", "both", "start", "perplexity", 0.95)
    assert own is not None and (own.kept, own.ratio, own.saved_percent) == pytest.approx((1, 1, 0))


def test_accuracy_counts_as_it_is_from_the_head_alone() -> None:
    values = {"head": [0.5, 0.5, 0.5], "both": [0.9, 0.9, 0.9], "half": [0.8, 0.7, 0.9]}
    here = setting(values, dict.fromkeys(values, 9), higher=True)
    assert reference(here, "both") == "head"
    found = efficiency(here, "half", "both", "head", "accuracy", 0.95)
    assert found is not None and found.kept == pytest.approx(np.mean([0.75, 0.5, 1.0]))


def test_without_a_gain_there_is_no_share_of_it() -> None:
    values = {"start": [0.5, 0.5, 0.5], "both": [0.9, 0.5, 0.9], "half": [0.8, 0.7, 0.9]}
    here = setting(values, {"start": 0, "both": 9, "half": 9}, higher=True)
    assert efficiency(here, "half", "both", "start", "accuracy", 0.95) is None
    assert reference(setting(values, dict.fromkeys(values, 9), higher=True), "both") is None
    assert reference(here, None) is None


def test_a_study_with_an_untrained_arm_has_ratios(tmp_path: Path) -> None:
    arms = {**STUDY["arms"], "untrained": {"adapter": {"name": "lora"}, "max_steps": 0}}
    levels = {**LEVELS, "untrained": (0.1, 0.003, 13_258, 40.0, 0.0)}
    folder = write_results(tmp_path, Options(study={**STUDY, "arms": arms}, levels=levels, failed=(), diverged=()))
    analyze(folder)
    found = {arm.label: arm.efficiency for arm in read_findings(folder).arms}
    assert found["untrained"] is None
    full, probe = found["full"], found["linear-probe"]
    assert full is not None and full.ratio == pytest.approx(1)
    assert probe is not None and probe.reference == "untrained" and probe.ratio > 100


def test_intervals_cover_the_share_and_the_ratio() -> None:
    """1,500 studies of 5 seeds in which arm, baseline and reference vary, and share what a seed does to all."""
    generator, trials, gain = np.random.default_rng(0), 1500, 0.8

    def drawn(studies: int) -> list[np.ndarray]:
        shared = generator.normal(scale=0.02, size=(studies, 5))
        return [mean + shared + generator.normal(scale=0.02, size=(studies, 5)) for mean in (0.5, 0.9, 0.5 + 0.4 * gain)]

    start, both, half = drawn(200_000)
    truth = float(np.mean((half - start) / (both - start)))  # of the mean of ratios; the ratio of means is 0.8
    assert truth == pytest.approx(gain, abs=0.002)
    hits = np.zeros(2)
    for study in zip(*drawn(trials), strict=True):
        values: dict[str, list[float]] = {name: v.tolist() for name, v in zip(("start", "both", "half"), study, strict=True)}
        here = setting(values, {"start": 0, "both": 9, "half": 9}, higher=True)
        found = efficiency(here, "half", "both", "start", "accuracy", 0.95)
        assert found is not None and found.interval is not None and found.ratio_interval is not None
        hits[0] += found.interval[0] <= truth <= found.interval[1]
        hits[1] += found.ratio_interval[0] <= truth / 0.39 <= found.ratio_interval[1]
    assert hits / trials == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / trials))


def test_the_reference_is_the_first_arm_that_cost_nothing() -> None:
    values = {"both": [0.9] * 3, "half": [0.8] * 3, "start": [0.5] * 3, "head": [0.6] * 3}
    counts = {"both": 9, "half": 9, "start": 0, "head": 9}
    assert reference(setting(values, counts, higher=True), "both") == "start", "untrained before the head alone"
    assert reference(setting(values, {**counts, "half": 0}, higher=True), "both") == "half", "the first of two"
    assert reference(setting(values, {**counts, "start": 9}, higher=True), "both") == "head"
    assert reference(setting(values, {**counts, "both": 0, "start": 9}, higher=True), "both") == "head", "not the baseline"
    assert reference(setting(values, counts, higher=True), "other") is None
    once = setting(values, {**counts, "head": 9, "start": 0}, higher=True)
    once.runs.loc[once.runs["label"] == "start", "steps"] = [0, 5, 0]
    assert reference(once, "both") == "head", "an arm of which one run was trained is no start"


def test_pairs_with_a_missing_run_are_left_out() -> None:
    nan = math.nan
    values = {
        "start": [0.5, nan, 0.5, 0.5, 0.5],
        "both": [0.9, 0.9, nan, 0.7, 0.9],
        "half": [0.8, 0.8, 0.8, 0.6, nan],
    }
    here = setting(values, {"start": 0, "both": 9, "half": 9}, higher=True)
    found = efficiency(here, "half", "both", "start", "accuracy", 0.8)
    shares = [0.75, 0.5]
    assert found is not None and found.kept == pytest.approx(np.mean(shares))
    assert found.interval == pytest.approx(stats.t.interval(0.8, 1, np.mean(shares), stats.sem(shares)))
    one = setting({name: v[:3] for name, v in values.items()}, {"start": 0, "both": 9, "half": 9}, higher=True)
    alone = efficiency(one, "half", "both", "start", "accuracy", 0.8)
    assert alone is not None and (alone.kept, alone.interval, alone.ratio_interval) == (pytest.approx(0.75), None, None)
    none = setting({name: v[1:3] for name, v in values.items()}, {"start": 0, "both": 9, "half": 9}, higher=True)
    assert efficiency(none, "half", "both", "start", "accuracy", 0.8) is None


def test_shares_of_folds_have_the_error_of_folds() -> None:
    values = {"start": [0.5, 0.5, 0.5], "both": [0.9, 0.9, 0.9], "half": [0.8, 0.7, 0.9]}
    here = dataclasses.replace(setting(values, {"start": 0, "both": 9, "half": 9}, higher=True), folds=3)
    found, wanted = efficiency(here, "half", "both", "start", "accuracy", 0.95), t_interval([0.75, 0.5, 1.0], 0.95, 3)
    assert found is not None and found.interval == pytest.approx((wanted.low, wanted.high))


@pytest.mark.parametrize("counted", [0.0, math.nan])
def test_without_a_number_of_parameters_there_is_no_ratio(counted: float) -> None:
    values = {"start": [0.5] * 3, "both": [0.9] * 3, "half": [0.8, 0.7, 0.9]}
    here = setting(values, {"start": 0, "both": 9, "half": 9}, higher=True)
    here.runs["trainable"] = here.runs["trainable"].astype(float)
    here.runs.loc[here.runs["label"] == "half", "trainable"] = counted
    assert efficiency(here, "half", "both", "start", "accuracy", 0.95) is None


def test_lower_is_better_without_a_logarithm() -> None:
    values = {"start": [2.0, 2.0, 2.0], "both": [1.0, 1.0, 1.0], "half": [1.5, 1.2, 1.3]}
    here = setting(values, {"start": 0, "both": 9, "half": 9}, higher=False)
    found = efficiency(here, "half", "both", "start", "loss", 0.95)
    assert found is not None and found.kept == pytest.approx(np.mean([0.5, 0.8, 0.7]))
