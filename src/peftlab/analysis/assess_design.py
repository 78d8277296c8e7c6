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
from peftlab.analysis.comparison import holm
from peftlab.analysis.crossed import crossed_mean, mcnemar_p
from peftlab.analysis.design import design
from peftlab.analysis.factorial import Effect, effects
from peftlab.analysis.findings import AnalysisPlan, Finding
from peftlab.analysis.frame import Frame
from peftlab.analysis.intervals import finite, t_interval, t_tail
from peftlab.analysis.setting import Setting
from peftlab.records.record import RunConfig

METHOD = [
    "Over a fixed set of tasks: mean over tasks of the difference from the baseline, backbones of a task averaged first, one "
    "value per seed, Student's t over seeds; beside it a sign-flip test in which a seed changes its sign on all tasks at once; "
    "inter-quartile mean and probability of improvement over all pairs of task and backbone, with stratified bootstrap intervals "
    "(Agarwal et al. 2021), which are too narrow with few seeds.",
    "New tasks, from three tasks on: a mixed model in which tasks (backbones of a task averaged) and seeds cross, fitted in "
    "closed form (REML, Satterthwaite's degrees of freedom); Wilcoxon's signed-rank test over tasks from six tasks on.",
    "Factors, among the arms of one adapter: contrasts averaged over all combinations of the other options in which each of its "
    "levels was run, one value per seed, Student's t over seeds; a factor of three or more positive numbers counts per doubling; "
    "interactions are products of contrasts; Holm over all effects and interactions of the study.",
    "Test examples as a sample: both seeds and examples are random (two-way random effects, Satterthwaite); McNemar's exact test "
    "where both arms have one run and no more. Arms with diverged runs, which have no predictions, are left out.",
]
MOST_RUNS = 1500  #: whose single predictions are read
ACROSS = ("backbone", "data")  #: factors that lie between settings


def design_findings(
    frame: Frame, settings: Sequence[Setting], plan: AnalysisPlan, generator: np.random.Generator
) -> list[Finding]:
    """Nothing of a race, whose number of seeds depends on what they showed."""
    if plan.anytime:
        return []
    tables = {(s.task, s.backbone): by_seed(s) for s in settings}
    found = list(_over_tasks(tables, plan, generator)) if len(settings) > 1 else []
    own = [*_factors(frame, tables, plan), *_sampling(frame, settings, plan)]
    return [*found, *(_placed(finding) if len(settings) > 1 else finding for finding in own)]


def _placed(finding: Finding) -> Finding:
    """Its sentence says where, as there are several tasks or backbones."""
    where = f"{finding.task}, {finding.backbone}" if finding.task else "all tasks and backbones"
    return finding.model_copy(update={"sentence": f"{where}: {finding.sentence}"})


def by_seed(setting: Setting) -> pd.DataFrame:
    """A row a seed: folds of one seed share most of their training data; a seed counts with all its folds."""
    groups = setting.values.groupby(level="seed")
    counts = groups.count()
    return pd.DataFrame(groups.mean().where(counts == setting.folds))


def _over_tasks(
    tables: Mapping[tuple[str, str], pd.DataFrame], plan: AnalysisPlan, generator: np.random.Generator
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
    for arm, p, p_adjusted, p_tasks, p_tasks_adjusted in zip(others, p_fixed, holm(p_fixed), p_new, holm(p_new), strict=True):
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


def _factors(frame: Frame, tables: Mapping[tuple[str, str], pd.DataFrame], plan: AnalysisPlan) -> list[Finding]:
    """Of each adapter's arms: within each setting, then of what lies between settings."""
    known = _configs(frame)
    order = [(str(label), *setting) for setting, table in tables.items() for label in table.columns]
    configs = {key: known[key] for key in order if key in known}
    values = pd.DataFrame({i: tables[key[1:]][key[0]] for i, key in enumerate(configs)})
    values.columns = pd.Index(list(configs), tupleize_cols=False)
    found: list[tuple[tuple[str, str], str, Effect]] = []
    for adapter in dict.fromkeys(str(c.adapter.get("name", "")) for c in configs.values()):
        family = {key: c for key, c in configs.items() if c.adapter.get("name") == adapter}
        for setting in tables:
            here = design({key: c for key, c in family.items() if key[1:] == setting})
            made = effects(here, values, reference=(plan.baseline, *setting), confidence=plan.confidence)
            found += [(setting, adapter, effect) for effect in made]
        if len(tables) > 1:
            arms = {key: {**own, "data": key[1], "backbone": key[2]} for key, own in design(family).items()}
            made = effects(arms, values, alone=["backbone"], confidence=plan.confidence)
            found += [(("", ""), adapter, e) for e in made if any(c.factor in ACROSS for c in e.contrasts)]
    adjusted = holm([effect.p for _, _, effect in found])
    return [say.effect(*about, p, plan, len(found)) for about, p in zip(found, adjusted, strict=True)]


def _configs(frame: Frame) -> dict[tuple[str, str, str], RunConfig]:
    folders = {f"runs/{r.folder.parent.name}/{r.folder.name}": r.config for r in frame.records}
    rows = frame.primary().drop_duplicates(["label", "task", "backbone"])
    columns = (rows[name].astype(str) for name in ("label", "task", "backbone", "folder"))
    return {(label, task, backbone): folders[folder] for label, task, backbone, folder in zip(*columns, strict=True)}


def _sampling(frame: Frame, settings: Sequence[Setting], plan: AnalysisPlan) -> list[Finding]:
    """Each arm against the baseline, test examples counted as a sample; where runs kept their single predictions."""
    base, count = plan.baseline, sum(int(s.values.notna().sum().sum()) for s in settings)
    if base is None or plan.metric != "accuracy" or plan.split != "test" or count > MOST_RUNS:
        return []
    found: list[Finding] = []
    for s in settings:
        if base not in s.values.columns or s.folds > 1:
            continue
        # of these only the runs that went well have predictions, which would be compared as if nothing had happened
        broken = set(s.runs.loc[s.runs["imputed"], "label"].astype(str))
        right = {(arm, seed): r for arm, seed, folder in _places(s) if (r := _right(frame, folder)) is not None}
        outcomes = s.values.notna().sum().to_dict()
        single: list[tuple[str, float, tuple[int, int, int]]] = []
        for arm in s.values.columns:
            seeds = [seed for seed in s.values.index.get_level_values("seed") if (arm, seed) in right and (base, seed) in right]
            pairs = [(right[arm, seed], right[base, seed]) for seed in seeds]
            if arm == base or broken & {arm, base} or not pairs or len({a[0].tobytes() for pair in pairs for a in pair}) > 1:
                continue  # other examples, or in another order
            if outcomes[arm] == outcomes[base] == 1:
                ((_, first), (_, second)) = pairs[0]
                alone = int((first & ~second).sum()), int((second & ~first).sum())
                single.append((str(arm), mcnemar_p(first, second), (*alone, first.size)))
                continue
            table = np.array([first.astype(float) - second for (_, first), (_, second) in pairs])
            if (both := crossed_mean(table, plan.confidence)) is not None:
                found.append(say.sampled(str(arm), base, s, both, plan))
        adjusted = holm([p for _, p, _ in single])
        found += [say.single_models(*one, base, s, p, plan) for one, p in zip(single, adjusted, strict=True)]
    return found


def _places(setting: Setting) -> Iterator[tuple[str, int, str]]:
    runs = setting.runs[~setting.runs["imputed"]]
    yield from zip(runs["label"].astype(str), runs["seed"].astype(int), runs["folder"].astype(str), strict=True)


def _right(frame: Frame, folder: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(labels, whether each was predicted)."""
    path = frame.folder / folder / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            label, prediction = stored["label"], stored["prediction"]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return (label, label == prediction) if label.ndim == 1 and label.shape == prediction.shape and label.size > 1 else None
