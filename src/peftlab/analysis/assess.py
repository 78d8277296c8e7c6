"""Findings from a frame: the declared plan carried out, setting by setting. Nothing is read or written here."""

# pandas annotates indexing as a union of everything it might return, which no call site can narrow:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd

import peftlab
from peftlab.analysis import statements as say
from peftlab.analysis.assess_design import METHOD, design_findings
from peftlab.analysis.assess_factors import few_tasks
from peftlab.analysis.efficiency import reference
from peftlab.analysis.findings import AnalysisPlan, ArmSummary, Finding, Findings
from peftlab.analysis.frame import Frame
from peftlab.analysis.headlines import headlines, notes
from peftlab.analysis.imputed import stands_at, unvarying
from peftlab.analysis.pairwise import MOST, pair_count, pairwise
from peftlab.analysis.pareto import front_probability
from peftlab.analysis.race_tests import FOLDS, INTERVALS, KINDS, TESTS, efficiency_of, interval_of
from peftlab.analysis.raced import flag, left_early
from peftlab.analysis.setting import Setting
from peftlab.analysis.tested import comparisons_of, family_of, settings_of, tested
from peftlab.analysis.tuning_luck import tuned_on_others, tuning_luck
from peftlab.analysis.uneven import uneven
from peftlab.study.schema import Margin

COSTS = ("trainable", "measured_peak_mb", "train_s")
RESAMPLES = 2000


def assess(frame: Frame, *, margin: Margin | None = None, seed: int = 0) -> Findings:
    """Everything the declared plan asks for.

    Args:
        frame: what was measured.
        margin: replaces the declared margin; the plan then says that it was not declared.
        seed: of the bootstrap and, beyond 16 pairs, of the sign-flip test.
    """
    generator = np.random.default_rng(seed)
    declared = frame.study.analysis
    used = margin or declared.margin
    settings = settings_of(frame)
    pairs = sorted({pair for s in settings for pair in s.values.index})
    summaries = [summary for s in settings for summary in _summaries(frame, s, pairs, generator)]
    comparisons = [c for s in settings for c in comparisons_of(frame, s, used, generator)]
    family = family_of(frame)
    plan = _plan(frame, settings, used, family.comparisons, seed, margin is None)
    found = [say.level(s, plan) for s in summaries]
    found += tested(comparisons, plan, family, used)
    found += [say.pareto(s, cost, plan) for s in summaries for cost in s.front]
    found += [f for s in settings if (f := say.power(s, [c for c in comparisons if c.setting is s], plan, used)) is not None]
    found += (beyond := design_findings(frame, settings, plan, generator, arms=family.arms))
    plan = plan.model_copy(update={"further": METHOD if beyond else []})
    numbered = [f.model_copy(update={"id": f"{f.kind}-{i}"}) for i, f in enumerate(found, start=1)]
    problems = Counter(p.kind for p in frame.problems)
    completed = int((frame.rows.drop_duplicates("folder")["status"] == "completed").sum())
    return Findings(
        study=frame.study.study,
        question=frame.study.question,
        verdict=headlines(summaries, numbered, plan, used, frame),
        plan=plan,
        arms=summaries,
        pairs=[(int(a), int(b)) for a, b in pairs],
        findings=numbered,
        exploratory=pairwise(settings, declared.baseline, declared.confidence),
        notes=notes(frame, settings, summaries, plan),
        warnings=[
            *frame.warnings,
            *_warnings(frame, settings, beyond),
            *unvarying(settings, plan.metric),
            *tuned_on_others(frame),
            *tuning_luck(frame),
        ],
        problems=[p.as_json() for p in frame.problems],
        runs={"completed": completed, **dict(sorted(problems.items()))},
        versions={"peftlab": peftlab.__version__, **{name: _version(name) for name in ("numpy", "scipy", "pandas")}},
    )


def compared(frame: Frame) -> list[Finding]:
    """Of :func:`assess` the tests of each arm against the baseline, for who needs these alone: nothing is resampled."""
    margin, settings = frame.study.analysis.margin, settings_of(frame)
    comparisons = [c for s in settings for c in comparisons_of(frame, s, margin, np.random.default_rng(0))]
    family = family_of(frame)
    return tested(comparisons, _plan(frame, settings, margin, family.comparisons, 0, True), family, margin)


def _summaries(
    frame: Frame, setting: Setting, pairs: Sequence[tuple[int, int]], generator: np.random.Generator
) -> list[ArmSummary]:
    """``pairs``: seeds and folds of all settings, of which this one may lack some."""
    values, labels = setting.values.reindex(pairs), list(setting.values.columns)
    fronts = _fronts(setting, generator)
    per_arm = dict(iter(setting.runs.groupby("label")))
    baseline = per_arm.get(frame.study.analysis.baseline or "")
    base_trainable = _largest(baseline, "trainable") if baseline is not None else None
    failed = Counter((p.label, p.backbone) for p in frame.problems if p.kind == "failed" and p.task == setting.task)
    plan, start = frame.study.analysis, reference(setting, frame.study.analysis.baseline)
    found = []
    for label in labels:
        runs, column = per_arm[label], values[label].to_numpy()
        interval = interval_of(setting, label, plan.confidence)
        trainable = _largest(runs, "trainable")
        flags = sorted({flag for text in runs["flags"].dropna() for flag in text.split("; ") if flag})
        flags = [text for text in (flag(setting.heat, label), *flags) if text]
        found.append(
            ArmSummary(
                label=label, arm=str(runs["arm"].iloc[0]), task=setting.task, backbone=setting.backbone,
                factors={c.removeprefix("factor."): str(runs[c].iloc[0]) for c in runs.columns
                         if c.startswith("factor.") and not pd.isna(runs[c].iloc[0])},
                baseline=label == frame.study.analysis.baseline, n=interval.n,
                mean=_number(interval.mean), sd=interval.sd, interval=_bounds(interval.low, interval.high),
                values=[_number(v) for v in column], majority=_largest(runs, "majority"), imputed=int(runs["imputed"].sum()),
                failed=failed[(label, setting.backbone)],
                trainable=trainable, trainable_at_end=_at_end(runs),
                total=_largest(runs, "total"), trainable_percent=_largest(runs, "trainable_percent"),
                percent_of_baseline=100 * trainable / base_trainable if trainable is not None and base_trainable else None,
                measured_peak_mb=_largest(runs, "measured_peak_mb"), predicted_peak_mb=_largest(runs, "predicted_peak_mb"),
                train_s=_number(runs["train_s"].mean()), flags=flags,
                front={c: p[label] for c, p in fronts.items() if label in p},
                efficiency=None if start is None or label == start or plan.baseline is None
                else efficiency_of(setting, label, plan, start),
                left_early=left_early(setting.heat, label),
            )
        )  # fmt: skip
    return found


def _fronts(setting: Setting, generator: np.random.Generator) -> dict[str, dict[str, float]]:
    """Cost -> arm -> probability of being on the front; a cost that no run has is left out."""
    found: dict[str, dict[str, float]] = {}
    sign = 1.0 if setting.higher_is_better else -1.0
    quality = sign * setting.values.to_numpy().T
    for cost in COSTS:
        table = setting.runs.pivot(index=["seed", "fold"], columns="label", values=cost)
        table = table.reindex(index=setting.values.index, columns=setting.values.columns)
        if cost == "trainable":  # a property of the arm: also known for runs that broke off
            table = table.fillna(table.max())
        costs = table.to_numpy(dtype=float).T
        if not np.isfinite(costs).any() or len(setting.values.columns) < 2:
            continue
        chances = front_probability(quality, costs, generator, resamples=RESAMPLES)
        known = np.isfinite(costs).any(axis=1) & np.isfinite(quality).any(axis=1)
        pairs = zip(setting.values.columns, chances, known, strict=True)
        found[cost] = {label: float(p) for label, p, usable in pairs if usable}
    return found


def _plan(frame: Frame, settings: list[Setting], margin: Margin, family: int, seed: int, declared: bool) -> AnalysisPlan:
    analysis = frame.study.analysis
    folds = max((s.folds for s in settings), default=1)
    raced, best = frame.study.search is not None, frame.study.search is not None and frame.study.search.goal == "best"
    return AnalysisPlan(
        metric=analysis.metric,
        split=frame.split,
        higher_is_better=settings[0].higher_is_better if settings else True,
        baseline=analysis.baseline,
        margin_relative=margin.relative,
        margin_absolute=margin.absolute,
        margin_declared=declared,
        confidence=analysis.confidence,
        replication="the difference between two arms for the same task and seed"
        + (FOLDS[raced].format(folds=folds) if folds > 1 else ""),
        difference_test=TESTS[raced],
        margin_test=f"non-inferiority: one-sided {KINDS[raced]} of "
        + ("A − (1 − m) F" if (settings[0].higher_is_better if settings else True) else "(1 + m) F − A")
        + (" with the relative margin m" if margin.relative is not None else ", here with an absolute margin"),
        equivalence_test=f"two one-sided {KINDS[raced]}s (TOST) against the same margin",
        adjustment=f"Holm, over each family of {family} comparisons with the baseline" if family else "none: nothing is compared",
        family_size=family,
        exploratory=_exploratory(pair_count(settings, analysis.baseline), best).replace(KINDS[0], KINDS[raced]),
        pairs_declared=best,
        intervals=f"{INTERVALS[raced]}, {100 * analysis.confidence:g} %, not adjusted",
        anytime=raced,
        imputed_at=stands_at(frame.primary()),
        bootstrap_resamples=RESAMPLES,
        bootstrap_seed=seed,
    )


def _exploratory(count: int, race_for_best: bool) -> str:
    if not count:
        return "none: there is no pair of arms besides those declared"
    if count > MOST:
        return f"none: {count:,} pairs of arms that were not declared are too many to tell anything apart"
    which = "besides those with the baseline, as the race asks about every pair" if race_for_best else "that were not declared"
    return f"paired t test, two-sided, of every two arms {which}; Holm, over all {count:,} of them"


def _warnings(frame: Frame, settings: list[Setting], beyond: list[Finding]) -> list[str]:
    analysis, found = frame.study.analysis, []
    for s in settings:
        where = f" on {s.task}, {s.backbone}" if len(settings) > 1 else ""
        if analysis.baseline and analysis.baseline not in s.values.columns:
            found.append(f"The declared baseline {analysis.baseline!r} has no outcome{where}: nothing is compared there.")
    found += uneven(settings, frame.problems)
    if not analysis.baseline:
        found.append("No baseline is declared (analysis.baseline): arms are described, not compared.")
    return found + few_tasks(beyond)


def _largest(runs: pd.DataFrame, column: str) -> float | None:
    return _number(runs[column].max())


def _at_end(runs: pd.DataFrame) -> float | None:
    """Mean over runs; None where every run ended with as many as it began with, however seeds differ."""
    ends = runs["trainable_at_end"]
    unchanged = ends.isna() | (ends == runs["trainable"])
    return None if bool(unchanged.all()) else _number(ends.mean())


def _number(value: Any) -> float | None:
    return float(value) if value is not None and not pd.isna(value) and math.isfinite(value) else None


def _bounds(low: float | None, high: float | None) -> tuple[float, float] | None:
    return (low, high) if low is not None and high is not None else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
