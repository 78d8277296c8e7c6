"""From the frame, its findings and the training curves to ``analysis/arms.json``: what the figures about whole arms show."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from peftlab.analysis import ablation
from peftlab.analysis.arms import Arms, Effect, Profile, Profiles, Ranking, Resources
from peftlab.analysis.comparison import holm, paired_difference
from peftlab.analysis.findings import ArmSummary, Findings
from peftlab.analysis.frame import Frame
from peftlab.analysis.means import bounds, mean_of
from peftlab.analysis.pareto import front_probability
from peftlab.analysis.profiles import band, profile
from peftlab.analysis.quantized import FILE as QUANTIZATION
from peftlab.analysis.race_tests import differences
from peftlab.analysis.rank_convergence import rank_convergence
from peftlab.analysis.ranking import rank_blocks, too_few
from peftlab.analysis.reading import RunRecord, read_json
from peftlab.analysis.scatters import scatters

METHOD = [
    "Effects of one factor: arms that differ in one option and in nothing else (a tuned value is no option; an allocator or a "
    "quantizer counts as one), paired by seed, the study's own test; Holm over all effects of a setting.",
    "Ranks: Friedman's test in the form of Iman and Davenport, and Nemenyi's critical difference (Demšar 2006). A block is a "
    "seed of one task (folds averaged), or a task (its backbones averaged) where there are enough: only these say anything of "
    "new tasks.",
    "Performance profiles: share of runs beyond each level, pointwise bootstrap over the runs of each task; with few runs such "
    "bands are too narrow.",
    "Correlations: Pearson's r; between arms over their means with Fisher's interval, within arms after these are taken out and "
    "without an interval: arms share their seeds, so their runs are no independent points.",
    "Memory saved: 1 - peak / the baseline's peak over the same seeds, the bare process apart. Deployed: bytes of the whole "
    "model as stored, four per parameter where nothing was quantized.",
    "Steps to the goal: the first evaluation at chance + 0.95 (best - chance), best being the highest mean that a rank of the "
    "family reached; of the runs that reached it.",
]
LEVELS = 241  #: points of a profile
MOST_PROFILES = 40
FEWEST_SEEDS = 2  #: of a task, for its means to be ranked


def assess_arms(frame: Frame, findings: Findings, curves: Mapping[tuple[str, str], pd.DataFrame], *, seed: int = 0) -> list[Arms]:
    """One entry per task and backbone that has arms.

    Args:
        curves: (task, backbone) -> label, seed, fold, diverged, step, split and a column per metric.
        seed: of the bootstrap.
    """
    records: dict[tuple[str, str], dict[str, RunRecord]] = defaultdict(dict)
    by_folder = {f"runs/{r.folder.parent.name}/{r.folder.name}": r for r in frame.records}
    primary, found = frame.primary(), []
    settings = list(dict.fromkeys((a.task, a.backbone) for a in findings.arms))
    for setting in settings:
        rows = primary[(primary["task"] == setting[0]) & (primary["backbone"] == setting[1])]
        for label, folder in zip(rows["label"], rows["folder"], strict=True):
            records[setting].setdefault(str(label), by_folder[str(folder)])
    tables = {s: _table(findings, _arms(findings, s)) for s in settings}
    joint = _over_tasks(tables, findings)
    for task, backbone in settings:
        setting = task, backbone
        arms, table = _arms(findings, setting), tables[setting]
        rows = primary[(primary["task"] == task) & (primary["backbone"] == backbone)]
        ranking = _over_seeds(table, findings)
        if not joint.refused:
            again = Ranking(refused="it is no picture of one setting: drawn over all of them, it stands with the first")
            ranking = joint if setting == settings[0] else again
        found.append(
            Arms(
                task=task,
                backbone=backbone,
                resources=_fronts(_resources(frame, findings, rows, arms, by_folder), table, findings, seed),
                effects=_effects(frame, findings, setting, table, records[setting]),
                convergence=rank_convergence(findings, curves.get(setting), records[setting], rows),
                scatters=scatters(frame, findings, setting, table),
                ranking=ranking,
                profiles=_profiles(table, findings, np.random.default_rng(seed)),
            )
        )
    return found


def _arms(findings: Findings, setting: tuple[str, str]) -> list[ArmSummary]:
    return [a for a in findings.arms if (a.task, a.backbone) == setting]


def _table(findings: Findings, arms: Sequence[ArmSummary]) -> pd.DataFrame:
    """[(seed, fold), arm], NaN where a run is missing."""
    index = pd.MultiIndex.from_tuples(findings.pairs, names=["seed", "fold"])
    table = pd.DataFrame({a.label: np.array(a.values, dtype=float) for a in arms}, index=index)
    return table.dropna(how="all")


def _by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """Folds of one seed share most of their training data and are one draw together; a seed counts with all its folds."""
    if table.empty:
        return table
    groups = table.groupby(level="seed")
    return groups.mean().where(groups.count() == groups.count().to_numpy().max())


def _over_seeds(table: pd.DataFrame, findings: Findings) -> Ranking:
    return _ranked(_by_seed(table), "seeds", findings)


def _over_tasks(tables: Mapping[tuple[str, str], pd.DataFrame], findings: Findings) -> Ranking:
    """Blocks are tasks, their backbones averaged: these share a task's data and are no further tasks.

    In a setting an arm counts by its mean over the seeds that all arms kept there have, so that ranks stay paired.
    """
    if len({task for task, _ in tables}) < 2:
        return Ranking(refused="there are no two tasks", over="tasks")
    means: dict[tuple[str, str], pd.Series] = {}
    for setting, table in tables.items():
        seeds = _by_seed(table)
        whole = seeds.loc[:, _mostly_there(seeds)].dropna()
        if len(whole) < FEWEST_SEEDS:
            why = f"in a setting there are fewer than {FEWEST_SEEDS} seeds that all arms finished"
            return Ranking(refused=why, over="tasks")
        means[setting] = whole.mean()
    blocks = pd.DataFrame({task: _averaged([m for (t, _), m in means.items() if t == task]) for task, _ in means}).T
    return _ranked(blocks.reset_index(drop=True), "tasks", findings)


def _averaged(means: Sequence[pd.Series]) -> pd.Series:
    """Of every arm; missing where a backbone lacks it."""
    return pd.concat(means, axis=1).mean(axis=1, skipna=False)


def _mostly_there(blocks: pd.DataFrame) -> pd.Series:
    """Of every arm: an arm that hardly ran would cost all its blocks."""
    return blocks.notna().sum() >= 0.5 * max(1, len(blocks))


def _ranked(blocks: pd.DataFrame, over: str, findings: Findings) -> Ranking:
    if findings.plan.anytime:
        return Ranking(refused="arms of a race have not all run on the same seeds, and its tests hold for pairs only", over=over)
    alpha = findings.plan.alpha
    whole = blocks.loc[:, _mostly_there(blocks)].dropna()
    if refused := too_few(whole.shape[1], len(whole), alpha, over):
        return Ranking(refused=refused, over=over)
    found = rank_blocks(whole.to_numpy(), higher_is_better=findings.plan.higher_is_better, alpha=alpha)
    labels = [str(label) for label in whole.columns]
    return Ranking(
        blocks=len(whole), over=over, arms=labels, mean_ranks=found.mean_ranks.tolist(), p=found.p, alpha=alpha,
        groups=[[labels[i] for i in group] for group in found.groups], critical_difference=found.critical_difference,
        left_out=[str(label) for label in blocks.columns if label not in whole.columns],
    )  # fmt: skip


def _resources(
    frame: Frame, findings: Findings, rows: pd.DataFrame, arms: Sequence[ArmSummary], records: Mapping[str, RunRecord]
) -> list[Resources]:
    confidence, folds = findings.plan.confidence, int(rows["fold"].nunique()) if len(rows) else 1
    per_arm: dict[str, dict[tuple[int, int], Any]] = defaultdict(dict)
    columns = ("label", "seed", "fold", "folder", "train_s", "measured_peak_mb")
    for label, seed, fold, folder, seconds, peak in zip(*(rows[c] for c in columns), strict=True):
        per_arm[str(label)][int(seed), int(fold)] = (str(folder), _number(seconds), _number(peak))
    net = {
        (label, unit): _net(records[folder], peak) for label, runs in per_arm.items() for unit, (folder, _, peak) in runs.items()
    }
    base = next((a.label for a in arms if a.baseline), None)
    told = {f.arms[0]: f for f in findings.of("difference") if arms and (f.task, f.backbone) == (arms[0].task, arms[0].backbone)}
    found = []
    for arm in arms:
        runs = per_arm.get(arm.label, {})
        pairs = [(net[arm.label, unit], net.get((base, unit))) for unit in runs] if base and arm.label != base else []
        saved = [1 - mine / other for mine, other in pairs if mine is not None and other]
        difference = told.get(arm.label)
        found.append(
            Resources(
                arm=arm.label,
                train_s=mean_of([seconds for _, seconds, _ in runs.values()], confidence, folds),
                peak_mb=mean_of([peak for *_, peak in runs.values()], confidence, folds),
                deployed_mb=_deployed(frame, [folder for folder, *_ in runs.values()], arm.total),
                saved=mean_of(saved, confidence, folds),
                change=difference.estimate if difference else None,
                interval=difference.interval if difference else None,
            )
        )
    return found


def _fronts(found: list[Resources], table: pd.DataFrame, findings: Findings, seed: int) -> list[Resources]:
    """With how sure it is that an arm is on the front of quality and deployed bytes."""
    if len(found) < 2:
        return found
    sign = 1.0 if findings.plan.higher_is_better else -1.0
    quality = sign * table[[r.arm for r in found]].to_numpy().T
    costs = np.array([[np.nan if r.deployed_mb is None else r.deployed_mb] for r in found]) * np.ones(quality.shape[1])
    chances = front_probability(quality, costs, np.random.default_rng(seed))
    return [r.model_copy(update={"deployed_front": float(p)}) for r, p in zip(found, chances, strict=True)]


def _net(record: RunRecord, peak: float | None) -> float | None:
    """The peak without the bare process, which is the machine's and not the arm's."""
    measured = record.results.memory.get("measured") if record.results else None
    process = _number(measured.get("process")) if isinstance(measured, Mapping) else None
    return peak if peak is None or process is None else peak - process


def _deployed(frame: Frame, folders: Sequence[str], total: float | None) -> float | None:
    """Megabytes of the whole model as stored."""
    for folder in folders:
        found = read_json(frame.folder / folder / QUANTIZATION)
        model = found.get("model") if isinstance(found, Mapping) else None
        if isinstance(model, Mapping) and (stored := _number(model.get("stored_bytes"))):
            return stored / 1e6
    return None if total is None else 4 * total / 1e6


def _effects(
    frame: Frame, findings: Findings, setting: tuple[str, str], table: pd.DataFrame, records: Mapping[str, RunRecord]
) -> list[Effect]:
    order = [str(label) for label in table.columns if label in records]
    confidence, folds = findings.plan.confidence, len(set(table.index.get_level_values("fold")))
    made, compare = [], differences(frame, *setting)
    for step in ablation.steps({label: ablation.options(records[label].config) for label in order}, findings.plan.baseline):
        if findings.plan.anytime:
            found = compare(step.arm, step.against)
        else:
            found = paired_difference(
                table[step.arm].to_numpy(), table[step.against].to_numpy(), confidence=confidence, folds=folds
            )
        if found.interval.n:
            made.append((step, found))
    adjusted = holm([found.p for _, found in made])
    return [
        Effect(
            factor=step.factor, arm=step.arm, level=step.level, against=step.against, reference=step.reference,
            difference=found.interval.mean, interval=bounds(found.interval), n=found.interval.n, p=found.p, p_adjusted=p,
            alpha=findings.plan.alpha,
        )
        for (step, found), p in zip(made, adjusted, strict=True)
    ]  # fmt: skip


def _profiles(table: pd.DataFrame, findings: Findings, generator: np.random.Generator) -> Profiles:
    """Of the runs of one task, by seed."""
    whole = _by_seed(table)
    known = {str(label): whole[label].dropna().to_numpy() for label in whole.columns}
    known = {label: runs for label, runs in known.items() if runs.size}
    values = np.concatenate(list(known.values())) if known else np.zeros(0)
    if not 1 < len(known) <= MOST_PROFILES or max(runs.size for runs in known.values()) < 3 or np.ptp(values) == 0:
        return Profiles()
    room = 0.02 * float(np.ptp(values))
    levels = np.linspace(values.min() - room, values.max() + room, LEVELS)
    higher, confidence = findings.plan.higher_is_better, findings.plan.confidence
    made = []
    for label, runs in known.items():
        low, high = band([runs], levels, generator, higher_is_better=higher, confidence=confidence)
        share = profile([runs], levels, higher_is_better=higher)
        made.append(Profile(arm=label, runs=runs.size, share=share.tolist(), low=low.tolist(), high=high.tolist()))
    return Profiles(levels=levels.tolist(), profiles=made)


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if known else None
