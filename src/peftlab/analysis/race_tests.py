"""What a race puts in the place of the tests of a fixed number of seeds."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from peftlab.analysis import anytime
from peftlab.analysis.comparison import Difference, margin_differences, paired_difference
from peftlab.analysis.efficiency import efficiency
from peftlab.analysis.findings import Efficiency
from peftlab.analysis.frame import Frame
from peftlab.analysis.intervals import Interval, t_interval
from peftlab.analysis.raced import heat_of, in_order
from peftlab.analysis.setting import Comparison, Setting
from peftlab.analysis.words import is_share
from peftlab.study.schema import Analysis, Margin

# in the plan, without and with a race
FOLDS = (" and fold ({folds} folds, standard errors corrected after Nadeau and Bengio)", ", a mean over {folds} folds")
KINDS = ("paired t test", "anytime-valid paired t test")
TESTS = (
    "paired t test, two-sided; exact sign-flip permutation test as a check",
    "anytime-valid paired t test, two-sided (Gaussian mixture, Wang & Ramdas 2024), because arms left when something was shown",
)
INTERVALS = ("Student's t", "confidence sequences of the same test")


def as_raced(frame: Frame, runs: pd.DataFrame, values: pd.DataFrame, folds: int) -> dict[str, Any]:
    """What a :class:`Setting` of a race knows besides; nothing where there was none."""
    if frame.study.search is None:
        return {}
    examples = float(runs["examples"].max()) * folds
    configs = {record.folder.name: record.config for record in frame.records}
    known = next((configs[i] for i in runs["run_id"] if i in configs), None)
    return {
        "sequence": in_order(values, frame.study.seeds, folds),
        "resolution": 0.5 / examples if is_share(frame.metric) and examples > 0 else 0.0,
        "heat": heat_of(frame.race, known.task, known.backbone) if known else None,
    }


def differences(frame: Frame, task: str, backbone: str) -> Callable[[str, str], Difference]:
    """What compares any two arms of a setting over the same seeds, by the study's own test."""
    values, confidence = frame.values(task, backbone), frame.study.analysis.confidence
    folds = len(set(values.index.get_level_values("fold")))
    if frame.study.search is None:
        return lambda arm, other: paired_difference(values[arm], values[other], confidence=confidence, folds=folds)
    runs = frame.primary()
    known = as_raced(frame, runs[(runs["task"] == task) & (runs["backbone"] == backbone)], values, folds)
    table, resolution = known["sequence"], known["resolution"]
    return lambda arm, other: anytime.difference(table[arm], table[other], confidence=confidence, resolution=resolution)


def interval_of(setting: Setting, label: str, confidence: float) -> Interval:
    """Of an arm's mean."""
    if setting.sequence is None:
        return t_interval(setting.values[label].to_numpy(), confidence, setting.folds)
    return anytime.confidence_sequence(setting.sequence[label], confidence, resolution=setting.resolution)


def efficiency_of(setting: Setting, label: str, plan: Analysis, start: str) -> Efficiency | None:
    """Its interval takes the number of seeds as fixed, so that in a race there is none."""
    found = efficiency(setting, label, str(plan.baseline), start, plan.metric, plan.confidence)
    if found is None or setting.sequence is None:
        return found
    return found.model_copy(update={"interval": None, "ratio_interval": None})


def compare(setting: Setting, label: str, plan: Analysis, margin: Margin) -> Comparison:
    """An arm of a race with the baseline, by tests that hold whatever ended it."""
    assert setting.sequence is not None
    baseline, higher = str(plan.baseline), setting.higher_is_better
    arm, base = (setting.sequence[name].to_numpy() for name in (label, baseline))
    known: dict[str, Any] = {"confidence": plan.confidence, "resolution": setting.resolution}
    above = None
    if margin.relative is not None and higher and setting.chance:
        shifted = margin_differences(arm, base, margin, higher_is_better=True, chance=setting.chance)
        above = anytime.margin_test(shifted, **known)
    return Comparison(
        setting=setting,
        arm=label,
        baseline=baseline,
        difference=anytime.difference(arm, base, **known),
        margin=anytime.margin_test(margin_differences(arm, base, margin, higher_is_better=higher), **known),
        above_chance=above,
        p_equivalence=anytime.equivalence_p(arm, base, margin, resolution=setting.resolution),
    )
