"""Findings of a study's design in one careful sentence each (see analysis/statements.py for the house rule)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from peftlab.analysis.comparison import smallest_sign_flip_p
from peftlab.analysis.crossed import Crossed
from peftlab.analysis.factorial import Contrast, Effect
from peftlab.analysis.factors_over_tasks import EffectOverTasks
from peftlab.analysis.findings import AnalysisPlan, Finding, Verdict
from peftlab.analysis.intervals import Interval
from peftlab.analysis.means import bounds
from peftlab.analysis.over_tasks import FEWEST_SAMPLED, FEWEST_TASKS
from peftlab.analysis.setting import Setting
from peftlab.analysis.words import equation_p, is_share, plural, show, show_difference, show_interval, show_p


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """What a study lies over: several backbones of one task are several settings and one task."""

    settings: int  #: pairs of task and backbone
    tasks: int

    @property
    def mean(self) -> str:
        """What a mean is over, every task counting alike."""
        if self.tasks == 1:
            return f"these {self.settings} backbones of one task"
        return f"these {self.tasks} tasks" + (", the backbones of each averaged" if self.settings > self.tasks else "")

    @property
    def one(self) -> str:
        """What a single setting is called."""
        return "backbone" if self.tasks == 1 else "pair of task and backbone" if self.settings > self.tasks else "task"

    @property
    def details(self) -> dict[str, Any]:
        return {"settings": self.settings, "tasks": self.tasks}


def interquartile(arm: str, middle: float, interval: tuple[float, float], span: Span, runs: int, plan: AnalysisPlan) -> Finding:
    settings = f"{span.settings} {span.one.replace('pair ', 'pairs ', 1)}" + ("" if " " in span.one else "s")
    text = (
        f"{arm}: inter-quartile mean {plan.metric} {show(middle, plan.metric)} over {plural(runs, 'run')} of {settings} "
        f"({_percent(plan)} stratified bootstrap interval {show_interval(interval, plan.metric)}, too narrow with few seeds)."
    )
    return _finding("interquartile_mean", [arm], middle, interval, runs, "estimated", text, plan, details=span.details)


def over_tasks(
    arm: str, base: str, interval: Interval, p: float | None, p_adjusted: float | None, flips: float | None, span: Span,
    plan: AnalysisPlan,
) -> Finding:  # fmt: skip
    verdict = _verdict(interval.mean, p, p_adjusted, plan)
    text = (
        f"{arm} against {base}, mean over {span.mean}: {_gap(interval.mean, plan)}"
        f"{_numbers(interval, p, p_adjusted, plan, plural(interval.n, 'seed'))}. {_said(arm, verdict)}"
    )
    if flips is not None:
        text += f" Sign-flip test over seeds: {equation_p(flips)}"
        smallest = smallest_sign_flip_p(interval.n)
        text += f", and no smaller one is possible than {smallest:.4g}." if smallest > plan.alpha else "."
    return _finding(
        "over_tasks", [arm, base], interval.mean, bounds(interval), interval.n, verdict, text, plan, p=p, p_adjusted=p_adjusted,
        p_sign_flip=flips, details={**span.details, "sd": interval.sd},
    )  # fmt: skip


def new_tasks(
    arm: str, base: str, found: Crossed | None, span: Span, p: float | None, p_adjusted: float | None, ranked: float | None,
    plan: AnalysisPlan,
) -> Finding:  # fmt: skip
    tasks, head = span.tasks, f"{arm} against {base} on tasks like these, of which {span.tasks} are a sample: "
    if tasks < FEWEST_SAMPLED:
        few = "one task does" if tasks == 1 else f"{tasks} tasks do"
        text = f"{arm} against {base} on other tasks: cannot be tested: {few} not show how much tasks vary; it takes "
        text += f"{FEWEST_SAMPLED}" + (", and backbones are no tasks." if span.settings > tasks else ".")
        return _finding("new_tasks", [arm, base], None, None, tasks, "cannot be tested", text, plan)
    if found is None:
        text = f"{head}cannot be tested: it takes two seeds that all tasks have."
        return _finding("new_tasks", [arm, base], None, None, tasks, "cannot be tested", text, plan)
    verdict = _verdict(found.interval.mean, p, p_adjusted, plan)
    text = (
        f"{head}{_gap(found.interval.mean, plan)}"
        f"{_numbers(found.interval, p, p_adjusted, plan, f'mixed model, {tasks} tasks x {found.columns} seeds')}. "
        f"{_said(arm, verdict)}"
    )
    text += (
        f" Wilcoxon's signed-rank test over tasks: {equation_p(ranked)}."
        if ranked is not None
        else f" Wilcoxon's signed-rank test needs {FEWEST_TASKS} tasks."
    )
    return _finding(
        "new_tasks", [arm, base], found.interval.mean, bounds(found.interval), tasks, verdict, text, plan, p=p,
        p_adjusted=p_adjusted,
        details={"sd_tasks": found.sd_rows, "sd_seeds": found.sd_columns, "sd_rest": found.sd_rest, "freedom": found.freedom,
                 "p_signed_rank": ranked, "seeds": found.columns},
    )  # fmt: skip


def improvement(
    arm: str, base: str, chance: float, interval: tuple[float, float], span: Span, n: int, plan: AnalysisPlan
) -> Finding:
    text = (
        f"A run of {arm} beats one of {base} with probability {100 * chance:.0f} % on a {span.one} drawn from these "
        f"{span.settings} ({_percent(plan)} stratified bootstrap interval [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}] %, "
        "too narrow with few seeds)."
    )
    return _finding("improvement", [arm, base], chance, interval, n, "estimated", text, plan, details=span.details)


def effect_over_tasks(adapter: str, found: EffectOverTasks, p_adjusted: float | None, plan: AnalysisPlan, family: int) -> Finding:
    """Of one factor, or of two on each other: on these tasks, and on tasks of which these are a sample."""
    tasks, seeds, mixed, here = found.table.shape[1], found.seeds, found.mixed, bounds(found.these)
    names = [_name(c.factor) for c in found.contrasts]
    kind = "effect_over_tasks" if len(names) == 1 else "interaction_over_tasks"
    what = " x ".join(f"{name} ({c.words})" for name, c in zip(names, found.contrasts, strict=True))
    text = f"{adapter}, {what}, mean over these {tasks} tasks: {_gap(found.these.mean, plan)}"
    if here:
        text += f" ({_percent(plan)} interval {show_interval(here, plan.metric, difference=True)}, {plural(seeds, 'seed')})"
    verdict: Verdict = "cannot be tested"
    if mixed is None:
        few = f"{tasks} tasks do not show how much it varies; it takes {FEWEST_SAMPLED}"
        why = few if tasks < FEWEST_SAMPLED else "it takes two seeds that all tasks have"
        text += f". On other tasks it cannot be tested: {why}."
    else:
        verdict = _verdict(mixed.interval.mean, mixed.p, p_adjusted, plan)
        text += f". On tasks like these, of which {tasks} are a sample: {_gap(mixed.interval.mean, plan)}"
        text += _numbers(mixed.interval, mixed.p, p_adjusted, plan, f"mixed model, {tasks} tasks x {seeds} seeds") + ". "
        if len(names) == 2:
            shown = verdict in ("better", "worse")
            verdict = verdict if verdict == "cannot be tested" else "interaction shown" if shown else "no interaction shown"
        text += _told(verdict, names, plan)
    details = {
        "adapter": adapter, "contrasts": _contrasts(found.contrasts), "contexts": found.contexts, "family": family,
        "tasks": tasks, "seeds": seeds, "these": {"estimate": found.these.mean, "interval": here},
        "by_task": {str(task): float(mean) for task, mean in found.table.mean().items()},
    }  # fmt: skip
    if mixed is not None:
        details |= {"sd_tasks": mixed.sd_rows, "sd_seeds": mixed.sd_columns, "sd_rest": mixed.sd_rest, "freedom": mixed.freedom}
    return _finding(
        kind, [], mixed.interval.mean if mixed else None, bounds(mixed.interval) if mixed else None, tasks, verdict, text, plan,
        p=mixed.p if mixed else None, p_adjusted=p_adjusted, details=details,
    )  # fmt: skip


def effect(
    setting: tuple[str, str], adapter: str, found: Effect, p_adjusted: float | None, plan: AnalysisPlan, family: int
) -> Finding:
    """Of one factor, or of two on each other; ``setting`` is empty where it lies between settings."""
    interval, words = found.interval, [f"{_name(c.factor)} ({c.words})" for c in found.contrasts]
    over = f"{plural(interval.n, 'seed')}, averaged over {plural(found.contexts, 'combination')} of the other options"
    numbers = _numbers(interval, found.p, p_adjusted, plan, over)
    names = [_name(c.factor) for c in found.contrasts]
    kind, verdict = "effect", _verdict(interval.mean, found.p, p_adjusted, plan)
    if len(names) == 2:
        kind, shown = "interaction", verdict in ("better", "worse")
        verdict = verdict if verdict == "cannot be tested" else "interaction shown" if shown else "no interaction shown"
    text = f"{adapter}, {' x '.join(words)}: {_gap(interval.mean, plan)}{numbers}. {_told(verdict, names, plan)}"
    details = {"adapter": adapter, "contrasts": _contrasts(found.contrasts),
               "contexts": found.contexts, "family": family, "sd": interval.sd}  # fmt: skip
    return _finding(
        kind, [], interval.mean, bounds(interval), interval.n, verdict, text, plan, task=setting[0], backbone=setting[1],
        p=found.p, p_adjusted=p_adjusted, details=details,
    )  # fmt: skip


def _told(verdict: Verdict, names: Sequence[str], plan: AnalysisPlan) -> str:
    """What an effect of one factor, or of two on each other, comes to."""
    return {
        "better": f"More {plan.metric}." if plan.higher_is_better else f"Less {plan.metric}, which is better.",
        "worse": f"Less {plan.metric}." if plan.higher_is_better else f"More {plan.metric}, which is worse.",
        "no difference shown": "The data do not show an effect; that is not evidence of none.",
        "interaction shown": f"What {names[0]} does depends on {names[-1]}.",
        "no interaction shown": "The data do not show that one depends on the other; that is not evidence that it does not.",
    }.get(verdict, "It cannot be tested.")


def _contrasts(found: Sequence[Contrast]) -> list[dict[str, Any]]:
    return [
        {"factor": c.factor, "name": _name(c.factor), "words": c.words, "levels": list(c.levels), "weights": c.weights.tolist()}
        for c in found
    ]


def unsampled(setting: Setting, plan: AnalysisPlan) -> Finding:
    """The records do not hold what it takes to count the test examples as a sample."""
    text = (
        f"Test examples as a sample: the records keep no score of {plan.metric} for each example, so that intervals count seeds "
        "alone; other test examples would move the differences as well."
    )
    return _finding("sampling", [], None, None, 0, "cannot be tested", text, plan, task=setting.task, backbone=setting.backbone)


def sampled(arm: str, base: str, setting: Setting, found: Crossed, drawn: tuple[float, float], plan: AnalysisPlan) -> Finding:
    """Seeds and test examples both as samples; ``drawn``: the bootstrap's interval."""
    limits = bounds(found.interval)
    text = (
        f"{arm} against {base}, counting the {found.columns:,} test examples as a sample too: {_gap(found.interval.mean, plan)}"
        f" ({_percent(plan)} interval {show_interval(limits, plan.metric, difference=True)}, {found.rows} seeds; bootstrap of "
        f"seeds and examples {show_interval(drawn, plan.metric, difference=True)}, too narrow with few seeds)."
    )
    return _finding(
        "sampling", [arm, base], found.interval.mean, limits, found.rows, "estimated", text, plan, task=setting.task,
        backbone=setting.backbone, p=found.p,
        details={"examples": found.columns, "sd_seeds": found.sd_rows, "sd_examples": found.sd_columns, "freedom": found.freedom,
                 "bootstrap": drawn},
    )  # fmt: skip


def single_models(
    arm: str, p: float, counts: tuple[int, int, int], base: str, setting: Setting, p_adjusted: float | None, plan: AnalysisPlan
) -> Finding:
    """One run each: what can be said of these two models, and not of the methods.

    ``counts``: examples that the arm alone got right, that the baseline alone got right, and all.
    """
    only, other, examples = counts
    gap = (only - other) / examples
    verdict = _verdict(gap, p, p_adjusted, plan)
    text = (
        f"One run each of {arm} and {base}: of {examples:,} test examples {arm} alone got {only:,} right, {base} alone {other:,} "
        f"(McNemar {equation_p(p)}, Holm-adjusted {show_p(p_adjusted)}). That is about these two models: one run "
        "says nothing about training again."
    )
    return _finding(
        "sampling", [arm, base], gap, None, 1, verdict, text, plan, task=setting.task, backbone=setting.backbone, p=p,
        p_adjusted=p_adjusted, details={"examples": examples, "only_first": only, "only_second": other},
    )  # fmt: skip


def _verdict(mean: float, p: float | None, p_adjusted: float | None, plan: AnalysisPlan) -> Verdict:
    if p is None or p_adjusted is None:
        return "cannot be tested"
    if p_adjusted > plan.alpha:
        return "no difference shown"
    return "better" if (mean > 0) == plan.higher_is_better else "worse"


def _said(arm: str, verdict: Verdict) -> str:
    return {
        "better": f"{arm} is better.",
        "worse": f"{arm} is worse.",
        "no difference shown": "The data do not show a difference; that is not evidence of equality.",
    }.get(verdict, "It cannot be tested: nothing says how much it varies.")


def _numbers(interval: Interval, p: float | None, p_adjusted: float | None, plan: AnalysisPlan, over: str) -> str:
    limits = bounds(interval)
    parts = [f"{_percent(plan)} interval {show_interval(limits, plan.metric, difference=True)}"] if limits else []
    parts.append(over)
    parts += [f"{equation_p(p)}, Holm-adjusted {show_p(p_adjusted)}"] if p is not None else []
    return f" ({', '.join(parts)})"


def _gap(value: float, plan: AnalysisPlan) -> str:
    return f"{show_difference(value, plan.metric)}{' percentage points' if is_share(plan.metric) else ''} {plan.metric}"


def _percent(plan: AnalysisPlan) -> str:
    return f"{100 * plan.confidence:g} %"


def _name(factor: str) -> str:
    return factor.removeprefix("adapter.").removeprefix("train.").replace("_", " ")


def _finding(  # noqa: PLR0913
    kind: Any, arms: list[str], estimate: float | None, interval: tuple[float, float] | None, n: int, verdict: Verdict, text: str,
    plan: AnalysisPlan, *, task: str = "", backbone: str = "", **more: Any,
) -> Finding:  # fmt: skip
    return Finding(
        id="", kind=kind, task=task, backbone=backbone, metric=plan.metric, arms=arms, estimate=estimate, interval=interval,
        confidence=plan.confidence, n=n, verdict=verdict, sentence=text, **more,
    )  # fmt: skip
