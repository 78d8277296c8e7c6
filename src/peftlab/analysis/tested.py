"""Each arm against the baseline, setting by setting: the declared tests, adjusted over their families."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import dataclasses

import numpy as np

from peftlab.analysis import statements as say
from peftlab.analysis.comparison import equivalence_p, holm, margin_differences, non_inferiority, paired_difference, union
from peftlab.analysis.findings import AnalysisPlan, Finding
from peftlab.analysis.frame import Frame
from peftlab.analysis.planned import canonical
from peftlab.analysis.race_tests import as_raced, compare
from peftlab.analysis.setting import Comparison, Setting
from peftlab.study.expand import cells
from peftlab.study.schema import Margin


def settings_of(frame: Frame) -> list[Setting]:
    """Every task and backbone with a run of the declared metric."""
    found = (_setting(frame, task, backbone) for task, backbone in frame.settings)
    return [s for s in found if not s.values.empty]


def _setting(frame: Frame, task: str, backbone: str) -> Setting:
    runs = frame.primary()
    runs = runs[(runs["task"] == task) & (runs["backbone"] == backbone)]
    chance, higher = runs["chance"].dropna(), runs["higher_is_better"].dropna()
    values, folds = frame.values(task, backbone), int(runs["fold"].nunique()) if len(runs) else 1
    return Setting(
        **as_raced(frame, runs, values, folds),
        task=task,
        backbone=backbone,
        values=values,
        runs=runs,
        chance=float(chance.iloc[0]) if len(chance) else None,
        higher_is_better=bool(higher.iloc[0]) if len(higher) else True,
        folds=folds,
    )


def comparisons_of(frame: Frame, setting: Setting, margin: Margin, generator: np.random.Generator) -> list[Comparison]:
    """Of a setting, before adjustment; empty without an outcome of the baseline."""
    plan = frame.study.analysis
    if plan.baseline is None or plan.baseline not in setting.values.columns:
        return []
    base = setting.values[plan.baseline].to_numpy()
    found = []
    for label in setting.values.columns:
        if label == plan.baseline:
            continue
        if setting.sequence is not None:
            found.append(compare(setting, label, plan, margin))
            continue
        arm, higher, folds = setting.values[label].to_numpy(), setting.higher_is_better, setting.folds
        differences = margin_differences(arm, base, margin, higher_is_better=higher)
        above = None
        if margin.relative is not None and higher and setting.chance:
            shifted = margin_differences(arm, base, margin, higher_is_better=True, chance=setting.chance)
            above = non_inferiority(shifted, confidence=plan.confidence, folds=folds)
        found.append(
            Comparison(
                setting=setting,
                arm=label,
                baseline=plan.baseline,
                difference=paired_difference(arm, base, confidence=plan.confidence, folds=folds, generator=generator),
                margin=non_inferiority(differences, confidence=plan.confidence, folds=folds),
                above_chance=above,
                p_equivalence=equivalence_p(arm, base, margin, folds=folds),
            )
        )
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """What shares the study's error rate: as declared, those of which there is no run yet with them."""

    arms: int  #: that are compared with the baseline
    settings: int  #: tasks and backbones

    @property
    def comparisons(self) -> int:
        return self.arms * self.settings


def family_of(frame: Frame) -> Family:
    """Of the study as it is declared, and of arms that were imported."""
    if frame.study.analysis.baseline is None:
        return Family(0, 0)
    declared = cells(frame.study)
    labels = {cell.label for cell in declared} | set(frame.arms)
    places = {(canonical(cell.task), cell.backbone) for cell in declared}
    return Family(len(labels) - 1, max(len(places), len(frame.settings)))


def tested(comparisons: list[Comparison], plan: AnalysisPlan, family: Family, margin: Margin) -> list[Finding]:
    """Differences, margin tests and equivalence, each adjusted over its family; then "on every task" where there are several."""
    of_all = family.comparisons
    differences = holm([c.difference.p for c in comparisons], of_all)
    inside = holm([c.margin.p for c in comparisons], of_all)
    outside = holm([c.margin.p_opposite for c in comparisons], of_all)
    equal = holm([c.p_equivalence for c in comparisons], of_all)
    found = [say.difference(c, p, plan) for c, p in zip(comparisons, differences, strict=True)]
    found += [say.non_inferiority(c, p, q, plan, margin) for c, p, q in zip(comparisons, inside, outside, strict=True)]
    found += [say.equivalence(c, p, plan, margin) for c, p in zip(comparisons, equal, strict=True)]
    if family.settings < 2:
        return found
    arms = list(dict.fromkeys(c.arm for c in comparisons))
    groups = [[c for c in comparisons if c.arm == arm] for arm in arms]  # a setting without a run yet is one of "every"
    joint = [union([c.margin.p for c in group]) if len(group) == family.settings else None for group in groups]
    for group, p, adjusted_p in zip(groups, joint, holm(joint, family.arms), strict=True):
        found.append(say.everywhere(group, p, adjusted_p, plan, margin, family.settings))
    return found
