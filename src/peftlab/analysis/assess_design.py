"""What a study allows beyond each arm against the baseline: several tasks, several factors, single test examples."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from peftlab.analysis import over_tasks
from peftlab.analysis import statements_design as say
from peftlab.analysis.assess_factors import METHOD as FACTORS
from peftlab.analysis.assess_factors import factor_findings
from peftlab.analysis.assess_sampling import METHOD as SAMPLING
from peftlab.analysis.assess_sampling import sampling_findings
from peftlab.analysis.comparison import holm
from peftlab.analysis.crossed import crossed_mean
from peftlab.analysis.findings import OVER_TASKS, AnalysisPlan, Finding
from peftlab.analysis.frame import Frame
from peftlab.analysis.intervals import finite, t_interval, t_tail
from peftlab.analysis.setting import Setting

METHOD = [
    "Over a fixed set of tasks: mean over tasks of the difference from the baseline, backbones of a task averaged first, one "
    "value per seed, Student's t over seeds; beside it a sign-flip test in which a seed changes its sign on all tasks at once; "
    "inter-quartile mean and probability of improvement over all pairs of task and backbone, with stratified bootstrap intervals "
    "(Agarwal et al. 2021), which are too narrow with few seeds.",
    "New tasks, from three tasks on: a mixed model in which tasks (backbones of a task averaged) and seeds cross, fitted in "
    "closed form (REML, Satterthwaite's degrees of freedom); Wilcoxon's signed-rank test over tasks from six tasks on.",
    *FACTORS,
    SAMPLING,
]


def design_findings(
    frame: Frame, settings: Sequence[Setting], plan: AnalysisPlan, generator: np.random.Generator, *, arms: int
) -> list[Finding]:
    """Nothing of a race, whose number of seeds depends on what they showed. ``arms``: compared with the baseline, as declared."""
    if plan.anytime:
        return []
    tables = {(s.task, s.backbone): by_seed(s) for s in settings}
    found = list(_over_tasks(tables, plan, generator, arms)) if len(settings) > 1 else []
    own = [*factor_findings(frame, tables, plan), *sampling_findings(frame, settings, plan, generator)]
    return [*found, *(_placed(finding) if len(settings) > 1 else finding for finding in own)]


def _placed(finding: Finding) -> Finding:
    """Its sentence says where, as there are several tasks or backbones; one over tasks says so itself."""
    if finding.kind in OVER_TASKS:
        return finding
    where = f"{finding.task}, {finding.backbone}" if finding.task else "all tasks and backbones"
    return finding.model_copy(update={"sentence": f"{where}: {finding.sentence}"})


def by_seed(setting: Setting) -> pd.DataFrame:
    """A row a seed: folds of one seed share most of their training data; a seed counts with all its folds."""
    groups = setting.values.groupby(level="seed")
    counts = groups.count()
    return pd.DataFrame(groups.mean().where(counts == setting.folds))


def _over_tasks(
    tables: Mapping[tuple[str, str], pd.DataFrame], plan: AnalysisPlan, generator: np.random.Generator, family: int
) -> Iterator[Finding]:
    arms = [arm for arm in _order(tables) if all(arm in table and table[arm].notna().any() for table in tables.values())]
    span = say.Span(len(tables), len({task for task, _ in tables}))
    runs = {arm: [finite(table[arm]) for table in tables.values()] for arm in arms}
    for arm in arms:
        middle = float(over_tasks.interquartile_mean(runs[arm]))
        interval = over_tasks.stratified_bootstrap(
            over_tasks.interquartile_mean, [runs[arm]], generator, confidence=plan.confidence
        )
        yield say.interquartile(arm, middle, interval, span, sum(len(v) for v in runs[arm]), plan)
    base = plan.baseline
    if base is None or base not in arms:
        return
    others = [arm for arm in arms if arm != base]
    gaps = {arm: task_gaps(tables, arm, base) for arm in others}
    fixed = {arm: t_interval(gaps[arm].dropna().mean(axis=1), plan.confidence) for arm in others}
    tails = {arm: t_tail(abs(i.mean), i.standard_error, i.n) if i.n > 1 else None for arm, i in fixed.items()}
    p_fixed = [None if (tail := tails[arm]) is None else 2 * tail for arm in others]
    enough = span.tasks >= over_tasks.FEWEST_SAMPLED
    crossed = {arm: crossed_mean(gaps[arm].dropna().to_numpy().T, plan.confidence) if enough else None for arm in others}
    p_new = [found.p if (found := crossed[arm]) is not None else None for arm in others]
    adjusted, adjusted_new = holm(p_fixed, family), holm(p_new, family)
    for arm, p, p_adjusted, p_tasks, p_tasks_adjusted in zip(others, p_fixed, adjusted, p_new, adjusted_new, strict=True):
        flips = over_tasks.stratified_sign_flip(gaps[arm].to_numpy(), generator)
        yield say.over_tasks(arm, base, fixed[arm], p, p_adjusted, flips, span, plan)
        ranked = over_tasks.signed_rank_p(gaps[arm].mean().tolist())
        yield say.new_tasks(arm, base, crossed[arm], span, p_tasks, p_tasks_adjusted, ranked, plan)

        def share(first: Sequence[Any], second: Sequence[Any]) -> Any:
            return over_tasks.improvement(first, second, higher_is_better=plan.higher_is_better)

        chance = float(share(runs[arm], runs[base]))
        interval = over_tasks.stratified_bootstrap(share, [runs[arm], runs[base]], generator, confidence=plan.confidence)
        yield say.improvement(arm, base, chance, interval, span, fixed[arm].n, plan)


def task_gaps(tables: Mapping[tuple[str, str], pd.DataFrame], arm: str, base: str) -> pd.DataFrame:
    """Differences [seed, task], backbones of a task averaged: they share its data, so that they are no further tasks."""
    gaps: dict[str, list[pd.Series]] = {}
    for (task, _), table in tables.items():
        gaps.setdefault(task, []).append(table[arm] - table[base])
    return pd.DataFrame({task: pd.concat(found, axis=1).mean(axis=1, skipna=False) for task, found in gaps.items()})


def _order(tables: Mapping[tuple[str, str], pd.DataFrame]) -> list[str]:
    return list(dict.fromkeys(str(arm) for table in tables.values() for arm in table.columns))
