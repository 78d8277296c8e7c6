"""Each kind of finding put into its form and into one careful sentence.

House rule: a test that shows nothing says so; it never reads as "equal", "the same" or "no effect".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from peftlab.analysis.comparison import smallest_sign_flip_p
from peftlab.analysis.findings import AnalysisPlan, ArmSummary, Finding, Verdict
from peftlab.analysis.intervals import Interval
from peftlab.analysis.power import detectable_effect, seeds_needed
from peftlab.analysis.setting import Comparison
from peftlab.analysis.words import (
    equation_p,
    is_share,
    show,
    show_correlation,
    show_difference,
    show_interval,
    show_margin,
    show_p,
)
from peftlab.study.schema import Margin

COST_WORDS = {"trainable": "trainable parameters", "measured_peak_mb": "peak memory", "train_s": "training time"}


def level(summary: ArmSummary, plan: AnalysisPlan) -> Finding:
    """Mean of an arm with its interval."""
    percent = f"{100 * plan.confidence:g} %"
    text = f"{summary.label} reached a mean {plan.metric} of {show(summary.mean, plan.metric)}"
    if summary.interval:
        text += f" ({percent} {plan.interval_word} {show_interval(summary.interval, plan.metric)}, {summary.n} runs)."
    elif summary.n == 1:
        text += " in a single run; there is no interval."
    else:
        text += f" in {summary.n} runs."
    if summary.imputed:
        text += f" {summary.imputed} of them diverged and count at {plan.imputed_at}."
    return Finding(
        id="", kind="level", task=summary.task, backbone=summary.backbone, metric=plan.metric, arms=[summary.label],
        estimate=summary.mean, interval=summary.interval, confidence=plan.confidence, n=summary.n, verdict="estimated",
        sentence=text, details={"imputed": summary.imputed, "failed": summary.failed},
    )  # fmt: skip


def difference(c: Comparison, p_adjusted: float | None, plan: AnalysisPlan) -> Finding:
    """Arm minus baseline."""
    interval, alpha = c.difference.interval, plan.alpha
    better = (interval.mean > 0) == plan.higher_is_better
    verdict: Verdict = "cannot be tested"
    if p_adjusted is not None:
        verdict = ("better" if better else "worse") if p_adjusted <= alpha else "no difference shown"
    points = " percentage points" if is_share(plan.metric) else ""
    text = f"{c.arm} against {c.baseline}: {show_difference(_mean(interval), plan.metric)}{points} {plan.metric}"
    numbers = [f"n = {interval.n} pairs"]
    if c.difference.correlation is not None:
        numbers.append(f"correlation over seeds {show_correlation(c.difference.correlation)}")
    if (bounds := _bounds(interval)) is not None:
        numbers.insert(
            0, f"{100 * plan.confidence:g} % {plan.interval_word} {show_interval(bounds, plan.metric, difference=True)}"
        )
    if c.difference.p is not None:
        numbers.append(f"{plan.p_word}{equation_p(c.difference.p)}, Holm-adjusted {show_p(p_adjusted)}")
    text += f" ({', '.join(numbers)}). "
    text += {
        "better": f"{c.arm} is better.",
        "worse": f"{c.arm} is worse.",
        "no difference shown": "The data do not show a difference; that is not evidence of equality.",
        "cannot be tested": _untestable(interval),
    }[verdict]
    smallest = smallest_sign_flip_p(interval.n)
    if c.difference.p_sign_flip is not None and smallest > alpha:
        text += f" With {interval.n} pairs the exact sign-flip test cannot go below p = {smallest:.4g}."
    return _finding(
        "difference", c, interval, plan, verdict, text,
        p=c.difference.p, p_adjusted=p_adjusted, p_sign_flip=c.difference.p_sign_flip, correlation=c.difference.correlation,
        details={"sd": interval.sd, "smallest_sign_flip_p": smallest if interval.n else None},
    )  # fmt: skip


def non_inferiority(
    c: Comparison, p_adjusted: float | None, p_opposite: float | None, plan: AnalysisPlan, margin: Margin
) -> Finding:
    """Within the margin of the baseline, or beyond it, or neither shown."""
    alpha, interval = plan.alpha, c.margin.interval
    verdict: Verdict = "cannot be tested"
    if c.margin.p is not None:
        inside = p_adjusted is not None and p_adjusted <= alpha
        verdict = "non-inferior" if inside else "inferior" if p_opposite is not None and p_opposite <= alpha else "not shown"
    within = f"within {show_margin(margin, plan.metric)} of {c.baseline}"
    shown = (c.margin.p_opposite, p_opposite) if verdict == "inferior" else (c.margin.p, p_adjusted)
    p_text = f"one-sided {plan.p_word}{equation_p(shown[0])}, Holm-adjusted {show_p(shown[1])}, n = {interval.n} pairs"
    text = {
        "non-inferior": f"{c.arm} is {within} or better ({p_text}).",
        "inferior": f"{c.arm} is not {within}: it falls short by more ({p_text}).",
        "not shown": f"It is not shown that {c.arm} is {within} ({p_text}), nor that it is not.",
        "cannot be tested": f"Whether {c.arm} is {within} cannot be tested: {_untestable(interval)}",
    }[verdict]
    details: dict[str, Any] = {
        "one_sided_bound": c.margin.bound, "sd": interval.sd, "p_opposite": c.margin.p_opposite,
        "p_opposite_adjusted": p_opposite,
    }  # fmt: skip
    if c.above_chance is not None:
        details["above_chance"] = {
            "chance": c.setting.chance, "estimate": _mean(c.above_chance.interval), "one_sided_bound": c.above_chance.bound,
            "p": c.above_chance.p,
        }  # fmt: skip
        if verdict == "non-inferior" and (c.above_chance.p is None or c.above_chance.p > alpha):
            text += " Measured above chance level the same relative margin is not met."
    if verdict == "not shown" and interval.sd and not plan.anytime:
        level = alpha / max(plan.family_size, 1)
        details["seeds_needed"] = needed = seeds_needed(interval.mean / interval.sd, alpha=level, two_sided=False)
        about = (
            f"about {max(needed, interval.n + 1)} paired seeds are needed to show it"
            if needed
            else "more seeds would not show it"
        )
        text += (
            f" At the difference and spread seen so far, {about} (80 % probability, adjusted for {plan.family_size} comparisons)."
        )
    return _finding("non_inferiority", c, interval, plan, verdict, text, p=c.margin.p, p_adjusted=p_adjusted, details=details)


def equivalence(c: Comparison, p_adjusted: float | None, plan: AnalysisPlan, margin: Margin) -> Finding:
    """Two one-sided tests."""
    within = f"by less than {show_margin(margin, plan.metric)}"
    verdict: Verdict = "cannot be tested" if c.p_equivalence is None else "not shown"
    if p_adjusted is not None and p_adjusted <= plan.alpha:
        verdict = "equivalent"
    numbers = f"TOST {plan.p_word}{equation_p(c.p_equivalence)}, Holm-adjusted {show_p(p_adjusted)}"
    text = {
        "equivalent": f"{c.arm} and {c.baseline} differ {within} in either direction ({numbers}).",
        "not shown": f"It is not shown that {c.arm} and {c.baseline} differ {within} ({numbers}).",
        "cannot be tested": f"Whether {c.arm} and {c.baseline} differ {within} cannot be tested: "
        + _untestable(c.difference.interval),
    }[verdict]
    interval = c.difference.interval
    return _finding("equivalence", c, interval, plan, verdict, text, p=c.p_equivalence, p_adjusted=p_adjusted)


def everywhere(
    group: list[Comparison], p: float | None, p_adjusted: float | None, plan: AnalysisPlan, margin: Margin, settings: int
) -> Finding:
    """Non-inferior on every task and backbone: intersection-union test, the largest p decides."""
    c = group[0]
    shown = p_adjusted is not None and p_adjusted <= plan.alpha
    verdict: Verdict = "cannot be tested" if p is None else "non-inferior" if shown else "not shown"
    within = f"within {show_margin(margin, plan.metric)} of {c.baseline} in each of {settings} settings"
    numbers = f"intersection-union {plan.p_word}{equation_p(p)}, Holm-adjusted {show_p(p_adjusted)}"
    text = {
        "non-inferior": f"{c.arm} is {within} ({numbers}).",
        "not shown": f"It is not shown that {c.arm} is {within} ({numbers}).",
        "cannot be tested": f"Whether {c.arm} is {within} cannot be tested: it was tested in {len(group)} of them.",
    }[verdict]
    means = [float(k.margin.interval.mean) for k in group]
    return Finding(
        id="", kind="non_inferiority_everywhere", task="", backbone="", metric=plan.metric, arms=[c.arm, c.baseline],
        estimate=min(means), confidence=plan.confidence, n=min(k.margin.interval.n for k in group), p=p, p_adjusted=p_adjusted,
        verdict=verdict, sentence=text, details={"settings": settings, "tested": len(group)},
    )  # fmt: skip


def pareto(summary: ArmSummary, cost: str, plan: AnalysisPlan) -> Finding:
    """Probability over seeds of being on one front."""
    chance = summary.front[cost]
    against = f"{plan.metric} against {COST_WORDS.get(cost, cost)}"
    text = f"{summary.label} lies on the Pareto front of {against} in {100 * chance:.0f} % of resamples of the seeds."
    return Finding(
        id="", kind="pareto", task=summary.task, backbone=summary.backbone, metric=plan.metric, arms=[summary.label],
        estimate=chance, confidence=plan.confidence, n=summary.n, verdict="on the front" if chance >= 0.5 else "off the front",
        sentence=text, details={"cost": cost, "resamples": plan.bootstrap_resamples},
    )  # fmt: skip


def power(setting: Any, comparisons: list[Comparison], plan: AnalysisPlan, margin: Margin) -> Finding | None:
    """What the records so far can show, from the median paired standard deviation; None where n was not fixed."""
    if plan.anytime:
        return None
    sds = [c.difference.interval.sd for c in comparisons if c.difference.interval.sd]
    counts = [c.difference.interval.n for c in comparisons if c.difference.interval.n > 1]
    if not sds or not counts:
        return None
    n, sd, alpha = int(np.median(counts)), float(np.median([s for s in sds if s])), plan.alpha
    points = " percentage points" if is_share(plan.metric) else ""
    reach = {k: detectable_effect(k, alpha=alpha) for k in sorted({n, 5, 10, 15})}
    shown = "; ".join(f"{k} seeds: {show_difference(e * sd, plan.metric).lstrip('+')}" for k, e in reach.items())
    size = float(np.median([_margin_size(c, margin) for c in comparisons]))
    needed = seeds_needed(size / sd, alpha=alpha)
    text = (
        f"With {n} paired seeds a difference of {reach[n]:.2f} paired standard deviations is found with 80 % probability (before "
        f"adjustment). At the median standard deviation seen here that is, in{points or ' units of ' + plan.metric}: {shown}. "
        f"A difference as large as the margin needs {f'{needed} seeds' if needed else 'more than 1,000 seeds'}. The standard "
        f"deviation itself comes from {n} pairs and is uncertain."
    )
    return Finding(
        id="", kind="power", task=setting.task, backbone=setting.backbone, metric=plan.metric, arms=[],
        estimate=reach[n] * sd, confidence=plan.confidence, n=n, verdict="estimated", sentence=text,
        details={"median_sd": sd, "target": 0.8, "seeds_needed_for_margin": needed,
                 "detectable_effect": {str(k): v for k, v in reach.items()},
                 "detectable_difference": {str(k): v * sd for k, v in reach.items()}},
    )  # fmt: skip


def _margin_size(c: Comparison, margin: Margin) -> float:
    """The margin in units of the metric."""
    if margin.absolute is not None:
        return margin.absolute
    return float(margin.relative or 0.0) * abs(float(np.nanmean(c.setting.values[c.baseline].to_numpy())))


def _untestable(interval: Interval) -> str:
    if interval.n == 0:
        return "there is no pair of runs with the same seed."
    if interval.n == 1:
        return "there is one pair of runs only."
    return "the difference was the same in every pair, so the runs tell nothing about its variation."


def _finding(
    kind: Any, c: Comparison, interval: Interval, plan: AnalysisPlan, verdict: Verdict, sentence: str, **more: Any
) -> Finding:
    return Finding(
        id="", kind=kind, task=c.setting.task, backbone=c.setting.backbone, metric=plan.metric, arms=[c.arm, c.baseline],
        estimate=_mean(interval), interval=_bounds(interval), confidence=plan.confidence, n=interval.n, verdict=verdict,
        sentence=sentence, **more,
    )  # fmt: skip


def _mean(interval: Interval) -> float | None:
    return interval.mean if interval.n else None


def _bounds(interval: Interval) -> tuple[float, float] | None:
    return (interval.low, interval.high) if interval.low is not None and interval.high is not None else None
